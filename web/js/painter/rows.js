/** The regions beside or under the painting, the frontmost first. */

import { changeRow, moveRow, removeRow } from "./actions.js";
import { MAX_PROMPT_LENGTH, USUAL } from "./drawing.js";
import { element, iconButton } from "./elements.js";
import { settings } from "./settings.js";
import { t } from "./texts.js";
import { unfold } from "./workspace.js";

export function rowList(store) {
  const label = t("Regions, front to back");
  const list = element("div", { className: "fovea-rows", role: "list", "aria-label": label });
  let lines = new Map(); // by the ids of rows

  /** Rows that stay keep their elements, and with them focus and half-done clicks. */
  function show() {
    const { rows } = store.drawing;
    lines = new Map(rows.map((row) => [row.id, lines.get(row.id) ?? rowLine(store, row.id)]));
    rows.forEach((row, place) => lines.get(row.id).show(row, place));
    const before = [...list.children], now = rows.map((row) => lines.get(row.id).element).reverse();
    if (before.length !== now.length || now.some((line, at) => line !== before[at])) list.replaceChildren(...now);
  }

  store.subscribe((changed) => {
    if (["drawing", "choice", "unfolded"].includes(changed)) show();
    if (changed === "words") for (const row of store.drawing.rows) lines.get(row.id).mark(row);
    if (changed === "loras") lines.get(store.unfolded)?.list();
    const chosen = lines.get(store.chosen);
    if (chosen && (changed === "choice" || changed === "write here")) reveal(list, chosen.element);
    if (changed === "write here") chosen.write();
  });
  show();
  return list;
}

/** Scroll the list to a line. The browser's own way to do so might scroll the graph as well. */
function reveal(list, line) {
  const top = line.offsetTop, bottom = top + line.offsetHeight;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
}

/** A region's line: color, prompt, and what may be done with it. show(row, place) brings it up to date, mark(row) what
 *  tells of its prompt; list() asks for LoRAs; write() is for somebody who wants to type. */
function rowLine(store, id) {
  const color = colorField(store, id), prompt = promptField(store, id), number = element("span");
  const eye = iconButton("shown", t("Hide this region"), () => changeRow(store, id, { hidden: true }));
  const shut = iconButton("hidden", t("Hidden: show this region"), () => changeRow(store, id, { hidden: false }));
  const up = iconButton("up", t("Bring forward"), () => moveRow(store, id, 1));
  const down = iconButton("down", t("Send backward"), () => moveRow(store, id, -1));
  const remove = iconButton("remove", "", () => removeRow(store, id));
  const more = iconButton("more", "", () => {
    store.choose(id);
    unfold(store, store.unfolded === id ? null : id);
  });
  const swatch = element("label", { className: "fovea-swatch" }, color, number);
  const buttons = element("div", { className: "fovea-row-buttons" }, more, eye, shut, up, remove, down);
  const head = element("div", { className: "fovea-row-head" }, swatch, prompt, buttons);
  const line = element("div", { className: "fovea-row", role: "listitem" }, head);
  let fold = null;
  line.addEventListener("pointerdown", (event) => {
    if (event.target === line || event.target === head) store.choose(id);
  });

  function show(row, place) {
    const chosen = id === store.chosen, isOpen = store.unfolded === id;
    Object.assign(line.dataset, { chosen, hidden: row.hidden, number: place + 1 });
    line.setAttribute("aria-current", chosen);
    if (color.value !== row.color) color.value = row.color;
    if (prompt.value !== row.prompt) prompt.value = row.prompt;
    number.textContent = place + 1;
    number.style.color = isLight(row.color) ? "#000" : "#fff";
    eye.hidden = row.hidden;
    shut.hidden = !row.hidden;
    up.disabled = place === store.drawing.rows.length - 1;
    down.disabled = place === 0;
    name(color, t("Color of region {}", place + 1));
    prompt.setAttribute("aria-label", t("Prompt of region {}", place + 1));
    name(remove, t("Delete region {}", place + 1));
    name(more, t("Settings of region {}", place + 1));
    more.setAttribute("aria-expanded", isOpen);
    more.dataset.set = Object.keys(USUAL).some((key) => key !== "hidden" && `${row[key]}` !== `${USUAL[key]}`);
    if (isOpen && !fold) line.append((fold = settings(store, id)).element);
    if (!isOpen) fold = void fold?.element.remove();
    fold?.show(row, place);
    mark(row);
  }

  function mark(row) {
    line.dataset.empty = !row.prompt.trim() && !row.hidden;
  }

  return { element: line, show, mark, list: () => fold?.list(), write: () => prompt.focus({ preventScroll: true }) };
}

function name(target, text) {
  target.title = text;
  target.setAttribute("aria-label", text);
}

const isLight = (color) => parseInt(color.slice(1, 3), 16) * 2 + parseInt(color.slice(3, 5), 16) * 5
  + parseInt(color.slice(5, 7), 16) > 1100; // prettier-ignore

/** The first click chooses the row, the next opens the browser's list of colors. */
function colorField(store, id) {
  const field = element("input", { type: "color" });
  field.addEventListener("change", () => changeRow(store, id, { color: field.value }));
  field.addEventListener("click", (event) => {
    if (store.chosen === id) return;
    event.preventDefault();
    store.choose(id);
  });
  return field;
}

function promptField(store, id) {
  const field = element("textarea", {
    className: "fovea-prompt", placeholder: t("Say what should be here"), maxLength: MAX_PROMPT_LENGTH, rows: 2,
    spellcheck: false,
  }); // prettier-ignore
  field.addEventListener("focus", () => {
    store.startTyping();
    store.choose(id, store.chosen === id ? store.shape : null);
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault(); // a prompt is one line, shown in two
    store.endTyping();
  });
  field.addEventListener("input", () => store.typeInRow(id, { prompt: field.value.replace(/\n/g, " ") }));
  field.addEventListener("change", () => store.endTyping());
  return field;
}
