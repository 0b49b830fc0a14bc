/** The lines of the regions under the painting. */

import { changeRow, moveRow, removeRow } from "./actions.js";
import { MAX_PROMPT_LENGTH } from "./drawing.js";
import { element, iconButton } from "./elements.js";
import { t } from "./texts.js";

export function rowList(store) {
  const list = element("div", { className: "fovea-rows", role: "list", "aria-label": t("Regions") });
  let lines = new Map(); // by the ids of rows

  /** Rows that stay keep their elements, and with them focus and half-done clicks. */
  function show() {
    const { rows } = store.drawing;
    lines = new Map(rows.map((row) => [row.id, lines.get(row.id) ?? rowLine(store, row.id)]));
    rows.forEach((row, place) => lines.get(row.id).show(row, place));
    const before = [...list.children], now = rows.map((row) => lines.get(row.id).element);
    if (before.length !== now.length || now.some((line, at) => line !== before[at])) list.replaceChildren(...now);
  }

  store.subscribe((changed) => {
    if (changed === "drawing" || changed === "choice") show();
  });
  show();
  return list;
}

/** A region's line: color, prompt, strength, and what may be done with it. show(row, place) brings it up to date. */
function rowLine(store, id) {
  const color = colorField(store, id), prompt = promptField(store, id), strength = strengthField(store, id);
  const eye = iconButton("shown", t("Leave this region out"), () => changeRow(store, id, { hidden: true }));
  const shut = iconButton("hidden", t("Left out: take it in again"), () => changeRow(store, id, { hidden: false }));
  const up = iconButton("up", t("Move up"), () => moveRow(store, id, -1));
  const down = iconButton("down", t("Move down"), () => moveRow(store, id, 1));
  const remove = iconButton("clear", "", () => removeRow(store, id));
  const line = element(
    "div", { className: "fovea-row", role: "listitem" }, color, prompt, strength, eye, shut, up, down, remove,
  ); // prettier-ignore
  line.addEventListener("pointerdown", (event) => {
    if (event.target === line) store.choose(id);
  });

  function show(row, place) {
    const chosen = id === store.chosen;
    Object.assign(line.dataset, { chosen, hidden: row.hidden });
    line.setAttribute("aria-current", chosen);
    if (color.value !== row.color) color.value = row.color;
    if (prompt.value !== row.prompt) prompt.value = row.prompt;
    if (document.activeElement !== strength) strength.value = row.strength;
    eye.hidden = row.hidden;
    shut.hidden = !row.hidden;
    color.setAttribute("aria-label", t("Color of region {}", place + 1));
    prompt.setAttribute("aria-label", t("Prompt of region {}", place + 1));
    strength.setAttribute("aria-label", t("Strength of region {}", place + 1));
    remove.title = t("Delete region {}", place + 1);
    remove.setAttribute("aria-label", remove.title);
  }

  return { element: line, show };
}

/** The first click chooses the row, the next opens the browser's list of colors. */
function colorField(store, id) {
  const field = element("input", { type: "color", title: t("Color") });
  field.addEventListener("change", () => changeRow(store, id, { color: field.value }));
  field.addEventListener("click", (event) => {
    if (store.chosen === id) return;
    event.preventDefault();
    store.choose(id);
  });
  return field;
}

function promptField(store, id) {
  const field = element("input", {
    type: "text", className: "fovea-prompt", placeholder: t("what is here"), maxLength: MAX_PROMPT_LENGTH,
    spellcheck: false,
  }); // prettier-ignore
  field.addEventListener("focus", () => {
    store.startTyping();
    store.choose(id);
  });
  field.addEventListener("input", () => store.typeRowPrompt(id, field.value));
  field.addEventListener("change", () => store.endTyping());
  return field;
}

function strengthField(store, id) {
  const field = element("input", {
    type: "number", className: "fovea-strength", min: 0, max: 10, step: 0.05, title: t("Strength"),
  }); // prettier-ignore
  field.addEventListener("change", () => {
    const strength = Math.min(Math.max(Number(field.value) || 0, 0), 10);
    changeRow(store, id, { strength });
  });
  return field;
}
