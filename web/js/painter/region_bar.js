/** The bar over the regions: one more of them, several in an arrangement, and the prompt from all. */

import { addRow, arrange, compose } from "./actions.js";
import { element, iconButton } from "./elements.js";
import { focusStage } from "./focus.js";
import { t } from "./texts.js";

const line = (count, box) => Array.from({ length: count }, (_, at) => box(at / count, 1 / count));
const columns = (count) => line(count, (start, size) => [start, 0, size, 1]);
const rows = (count) => line(count, (start, size) => [0, start, 1, size]);
const grid = (across, down) => line(down, (y, height) => line(across, (x, width) => [x, y, width, height])).flat();

/** Name and boxes in fractions of the picture. */
const ARRANGEMENTS = [
  ["2 columns", columns(2)], ["3 columns", columns(3)], ["2 rows", rows(2)], ["3 rows", rows(3)],
  ["Grid of 2 x 2", grid(2, 2)], ["Grid of 3 x 3", grid(3, 3)], ["Center", [[0.25, 0.25, 0.5, 0.5]]],
]; // prettier-ignore

export function regionBar(store) {
  const add = iconButton("add", t("Add a region"), () => addRow(store));
  add.append(t("Region"));
  const write = element("button", {
    type: "button", textContent: t("Write prompt"), title: t("Join the regions' prompts into the whole prompt"),
  }); // prettier-ignore
  write.addEventListener("click", () => compose(store));
  const gap = element("span", { className: "fovea-gap" });
  return element("div", { className: "fovea-bar" }, add, arrangementList(store), gap, write);
}

/** Opened, it acts on what is chosen. Closed, every key would choose something else: Enter acts. */
function arrangementList(store) {
  const title = t("Arrange new regions, and regions without a place");
  const list = element("select", { className: "fovea-arrange", title, "aria-label": title });
  list.append(element("option", { value: "", textContent: t("Arrange") }));
  list.append(...ARRANGEMENTS.map(([name], at) => element("option", { value: at, textContent: t(name) })));
  let isByKey = false;

  function act() {
    if (!list.value) return;
    const [, boxes] = ARRANGEMENTS[list.value];
    list.value = "";
    focusStage(list); // the next letter is a tool's, and chooses no other arrangement
    arrange(store, boxes);
  }

  list.addEventListener("pointerdown", () => (isByKey = false));
  list.addEventListener("keydown", ({ key }) => {
    isByKey = key !== "Enter" && key !== " "; // a blank opens it
    if (key === "Enter") act();
  });
  list.addEventListener("change", () => {
    if (!isByKey) act();
  });
  list.addEventListener("blur", () => {
    list.value = "";
    isByKey = false;
  });
  return list;
}
