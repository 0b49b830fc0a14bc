/** The lines of the regions under the painting. */

import { MAX_PROMPT_LENGTH } from "./drawing.js";
import { element, iconButton } from "./elements.js";
import { t } from "./texts.js";

/** A region's line: color, phrase, strength, and what may be done with it. update(row, at) shows another state. */
export function rowElement(panel, row) {
  const color = element("input", { type: "color", value: row.color, title: t("Color") });
  color.addEventListener("change", () => panel.changeRow(row.id, { color: color.value }));
  const phrase = element("input", { type: "text", className: "fovea-phrase", value: row.phrase, placeholder: t("a phrase"),
                                    maxLength: MAX_PROMPT_LENGTH, spellcheck: false }); // prettier-ignore
  phrase.addEventListener("focus", () => {
    panel.typing = panel.drawing;
    panel.choose(row.id);
  });
  phrase.addEventListener("input", () => panel.changeRow(row.id, { phrase: phrase.value }, false));
  phrase.addEventListener("change", () => panel.typed());
  const strength = element("input", { type: "number", className: "fovea-strength", min: 0, max: 10, step: 0.05, value: row.strength,
                                      title: t("Strength") }); // prettier-ignore
  strength.addEventListener("change", () => {
    const value = Math.min(Math.max(Number(strength.value) || 0, 0), 10);
    panel.changeRow(row.id, { strength: value });
  });
  const hidden = (now) => panel.changeRow(row.id, { hidden: now });
  const eye = iconButton("shown", t("Leave this region out"), () => hidden(true));
  const shut = iconButton("hidden", t("Left out: take it in again"), () => hidden(false));
  const remove = iconButton("clear", "", () => panel.removeRow(row.id));
  const line = element(
    "div", { className: "fovea-row", role: "listitem" }, color, phrase, strength, eye, shut,
    iconButton("up", t("Move up"), () => panel.moveRow(row.id, -1)),
    iconButton("down", t("Move down"), () => panel.moveRow(row.id, 1)),
    remove,
  ); // prettier-ignore
  line.addEventListener("pointerdown", (event) => {
    if (event.target === line) panel.choose(row.id);
  });
  color.addEventListener("click", (event) => {
    if (panel.chosen === row.id) return; // the second click opens the chooser
    event.preventDefault();
    panel.choose(row.id);
  });
  line.update = (now, place) => {
    const chosen = now.id === panel.chosen;
    Object.assign(line.dataset, { chosen, hidden: now.hidden });
    line.setAttribute("aria-current", chosen);
    if (color.value !== now.color) color.value = now.color;
    if (phrase.value !== now.phrase) phrase.value = now.phrase;
    if (document.activeElement !== strength) strength.value = now.strength;
    eye.hidden = now.hidden;
    shut.hidden = !now.hidden;
    color.setAttribute("aria-label", t("Color of region {}", place + 1));
    phrase.setAttribute("aria-label", t("Phrase of region {}", place + 1));
    strength.setAttribute("aria-label", t("Strength of region {}", place + 1));
    remove.title = t("Delete region {}", place + 1);
    remove.setAttribute("aria-label", remove.title);
  };
  return line;
}
