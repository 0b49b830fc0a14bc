/** The bars of buttons: tools over the stage, pictures under it, regions and their prompt under the rows. */

import { addRow, clearRegion, compose, importPicture } from "./actions.js";
import { element, iconButton } from "./elements.js";
import { toPicture } from "./pictures.js";
import { t } from "./texts.js";
import { TOOLS } from "./tools.js";
import * as workspace from "./workspace.js";

const gap = () => element("span", { className: "fovea-gap" });

// --- tools ----------------------------------------------------------------------------------------------------------

export function toolBar(store) {
  const undo = iconButton("undo", t("Undo (Ctrl+Z)"), () => store.undo());
  const redo = iconButton("redo", t("Redo (Ctrl+Y)"), () => store.redo());
  const clear = iconButton("clear", t("Clear the chosen region (Delete)"), () => clearRegion(store));
  const fit = iconButton("fit", t("See all of it"), () => workspace.seeAll(store));
  const full = iconButton("full", t("Full screen (Escape ends it)"), () => workspace.setFull(store, !store.full));

  function show() {
    undo.disabled = !store.history.past.length;
    redo.disabled = !store.history.future.length;
  }

  store.subscribe((changed) => {
    if (changed === "drawing" || changed === "steps") show();
  });
  show();
  return element(
    "div", { className: "fovea-bar", role: "toolbar", "aria-label": t("Painting tools") },
    ...toolButtons(store), brushSize(store), gap(), undo, redo, clear, fit, full,
  ); // prettier-ignore
}

function toolButtons(store) {
  const buttons = TOOLS.map(([name, label]) =>
    iconButton(name, t(label), () => workspace.useTool(store, name), { "data-tool": name }));

  function show() {
    for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.tool === store.tool);
  }

  store.subscribe((changed) => {
    if (changed === "tool") show();
  });
  show();
  return buttons;
}

function brushSize(store) {
  const slider = element("input", { type: "range", min: 1, max: 128, "aria-label": t("Brush size") });
  slider.addEventListener("input", () => workspace.setRadius(store, Number(slider.value)));

  function show() {
    slider.value = store.radius;
    slider.title = t("Brush size: {} pixels ([ and ])", 2 * store.radius);
  }

  store.subscribe((changed) => {
    if (changed === "radius") show();
  });
  show();
  return slider;
}

// --- pictures -------------------------------------------------------------------------------------------------------

export function pictureBar(store) {
  const file = fileField((chosen) => importPicture(store, chosen));
  return element(
    "div", { className: "fovea-bar" }, ...backdropFields(store), gap(),
    iconButton("import", t("Import a picture of flat colors"), () => file.click()),
    iconButton("export", t("Export as PNG"), () => exportPicture(store)), file,
  ); // prettier-ignore
}

/** Which picture is behind the painting, and how much of it shows. */
function backdropFields(store) {
  const title = t("Picture behind the painting");
  const list = element("select", { title, "aria-label": title });
  list.addEventListener("pointerdown", () => workspace.listBackgrounds(store));
  list.addEventListener("focus", () => workspace.listBackgrounds(store));
  list.addEventListener("change", () => workspace.showBackground(store, list.value));
  const percent = element("input", {
    type: "range", min: 0, max: 100, title: t("How much of it shows"),
    "aria-label": t("How much of the picture behind shows"),
  }); // prettier-ignore
  percent.addEventListener("input", () => workspace.setBackgroundPercent(store, Number(percent.value)));
  let listed = "";

  function show() {
    const { offered, key } = store.backdrop;
    const labels = JSON.stringify(offered.map((picture) => [picture.key, picture.label]));
    if (labels !== listed) list.replaceChildren(...offered.map(option)); // a list that is open stays open
    listed = labels;
    list.value = key;
    percent.value = store.backdrop.percent;
    percent.hidden = !workspace.backgroundUrl(store);
  }

  store.subscribe((changed) => {
    if (changed === "backdrop") show();
  });
  show();
  return [list, percent];
}

const option = ({ key, label }) => element("option", { textContent: label, value: key });

/** Where the browser asks for a file. */
function fileField(onFile) {
  const field = element("input", { type: "file", accept: "image/*", hidden: true });
  field.addEventListener("change", () => {
    if (field.files[0]) onFile(field.files[0]);
    field.value = ""; // so that the same file can be chosen again
  });
  return field;
}

async function exportPicture(store) {
  const url = URL.createObjectURL(await toPicture(store.drawing));
  element("a", { href: url, download: "regions.png" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// --- regions and prompt ---------------------------------------------------------------------------------------------

export function promptBar(store) {
  const add = iconButton("add", t("Add a region"), () => addRow(store));
  add.append(t("Region"));
  const title = t("Write the prompt from the regions");
  const write = element("button", { type: "button", textContent: t("Compose"), title });
  write.addEventListener("click", () => compose(store));
  return element("div", { className: "fovea-bar" }, add, gap(), write);
}
