/** The line under the painter that says what went wrong. */

import { element } from "./elements.js";

export function noteLine(store) {
  const line = element("div", { className: "fovea-said", role: "status" });
  store.subscribe((changed) => {
    if (changed !== "note") return;
    line.textContent = store.note.text;
    line.dataset.wrong = store.note.wrong;
  });
  return line;
}
