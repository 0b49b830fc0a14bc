/** The prompt of the whole picture, with the regions' prompts underlined in their colors. */

import { MAX_WHOLE_LENGTH } from "./drawing.js";
import { element } from "./elements.js";
import { regionsIn } from "./phrases.js";
import { t } from "./texts.js";

export function promptBox(store) {
  const field = element("textarea", {
    placeholder: t("Prompt of the whole picture"), "aria-label": t("Prompt"), spellcheck: false,
    maxLength: MAX_WHOLE_LENGTH,
  }); // prettier-ignore
  const marks = element("div", { className: "fovea-marks", "aria-hidden": "true" }); // the same text, under the field
  const scroll = () => (marks.scrollTop = field.scrollTop);
  field.addEventListener("focus", () => store.startTyping());
  field.addEventListener("input", () => store.typePrompt(field.value));
  field.addEventListener("change", () => store.endTyping());
  field.addEventListener("scroll", scroll);

  function show() {
    const { prompt, rows } = store.drawing;
    if (field.value !== prompt) field.value = prompt;
    marks.replaceChildren(...marked(prompt, rows.filter((row) => !row.hidden)));
    scroll();
  }

  store.subscribe((changed) => {
    if (changed === "drawing" || changed === "words") show();
  });
  show();
  return element("div", { className: "fovea-whole-prompt" }, marks, field);
}

/** The prompt in parts: texts, and elements for what belongs to a row. */
function marked(prompt, rows) {
  const parts = [];
  let at = 0;
  for (const { start, end, row } of regionsIn(prompt, rows)) {
    const mark = element("span", { textContent: prompt.slice(start, end) });
    mark.style.textDecorationColor = row.color;
    parts.push(prompt.slice(at, start), mark);
    at = end;
  }
  return [...parts, prompt.slice(at)];
}
