/** The caption, with the rows' phrases underlined in their colors. */

import { MAX_CAPTION_LENGTH, phrasesIn } from "./drawing.js";
import { element } from "./elements.js";
import { t } from "./texts.js";

export function captionBox(store) {
  const field = element("textarea", {
    placeholder: t("Caption of the whole picture"), "aria-label": t("Caption"), spellcheck: false,
    maxLength: MAX_CAPTION_LENGTH,
  }); // prettier-ignore
  const marks = element("div", { className: "fovea-marks", "aria-hidden": "true" }); // the same text, under the field
  const scroll = () => (marks.scrollTop = field.scrollTop);
  field.addEventListener("focus", () => store.startTyping());
  field.addEventListener("input", () => store.typeCaption(field.value));
  field.addEventListener("change", () => store.endTyping());
  field.addEventListener("scroll", scroll);

  function show() {
    const { caption, rows } = store.drawing;
    if (field.value !== caption) field.value = caption;
    marks.replaceChildren(...marked(caption, rows));
    scroll();
  }

  store.subscribe((changed) => {
    if (changed === "drawing" || changed === "words") show();
  });
  show();
  return element("div", { className: "fovea-caption" }, marks, field);
}

/** The caption in parts: texts, and elements for phrases. */
function marked(caption, rows) {
  const parts = [];
  let at = 0;
  for (const { start, end, row } of phrasesIn(caption, rows)) {
    const mark = element("span", { textContent: caption.slice(start, end) });
    mark.style.textDecorationColor = row.color;
    parts.push(caption.slice(at, start), mark);
    at = end;
  }
  return [...parts, caption.slice(at)];
}
