/** The bars of buttons: tools and what can be set of them over the stage, pictures under it. */

import { clearRegion, reshapeOnce } from "./actions.js";
import { element, iconButton } from "./elements.js";
import { areShown } from "./handles.js";
import { exportPicture, importPictures } from "./importing.js";
import { isThin, MAX_EDGE } from "./places.js";
import { t } from "./texts.js";
import { TOOLS } from "./tools.js";
import * as workspace from "./workspace.js";

const gap = () => element("span", { className: "fovea-gap" });

// --- tools ----------------------------------------------------------------------------------------------------------

export function toolBar(store) {
  const undo = iconButton("undo", t("Undo (Ctrl+Z)"), () => store.undo());
  const redo = iconButton("redo", t("Redo (Ctrl+Y)"), () => store.redo());
  const clear = iconButton("clear", t("Clear the chosen region (Delete)"), () => clearRegion(store));
  const fit = iconButton("fit", t("Fit to view (0)"), () => workspace.seeAll(store));
  const full = iconButton("full", t("Full screen (Escape to exit)"), () => workspace.setFull(store, !store.full));

  function show() {
    undo.disabled = !store.history.past.length;
    redo.disabled = !store.history.future.length;
    clear.disabled = !store.row?.area;
  }

  store.subscribe((changed) => {
    if (["drawing", "steps", "choice"].includes(changed)) show();
  });
  show();
  return element(
    "div", { className: "fovea-bar fovea-tools", role: "toolbar", "aria-label": t("Painting tools") },
    ...toolButtons(store), gap(), undo, redo, clear, fit, full,
  ); // prettier-ignore
}

function toolButtons(store) {
  const buttons = TOOLS.map(([name, label]) => {
    const button = iconButton(name, t(label), () => workspace.useTool(store, name), { "data-tool": name });
    button.append(element("span", { className: "fovea-word", textContent: t(label).replace(/ ?[\uff08(].*/, "") }));
    return button;
  });

  function show() {
    for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.tool === store.tool);
  }

  store.subscribe((changed) => {
    if (changed === "tool") show();
  });
  show();
  return buttons;
}

// --- what can be set of the tool ------------------------------------------------------------------------------------

export function optionBar(store) {
  const size = amount(t("Size"), t("Brush size in pixels ([ and ])"), { min: 1, max: 512 }, (value) =>
    workspace.setRadius(store, value / 2));
  const hardness = amount(t("Hardness"), t("Hardness in percent: how sharp the brush's edge is (Shift+[ and ])"), {
    min: 0, max: 100,
  }, (value) => workspace.setHardness(store, value)); // prettier-ignore
  const words = element("span", { className: "fovea-tip" });
  const snap = iconButton("snap", t("Snap to halves and thirds"), () => workspace.setSnap(store, !store.snap));
  const numbers = boxNumbers(store);

  function show() {
    const { tool, brush } = store, isBrush = tool === "brush" || tool === "eraser";
    size.element.hidden = hardness.element.hidden = !isBrush;
    size.show(2 * brush.radius);
    hardness.show(brush.hardness);
    snap.hidden = !["rectangle", "ellipse", "move"].includes(tool);
    snap.setAttribute("aria-pressed", store.snap);
    numbers.show();
    words.textContent = numbers.element.hidden ? t(TOOLS.find(([name]) => name === tool)[3]) : "";
  }

  store.subscribe((changed) => {
    if (["tool", "brush", "snap", "choice", "drawing", "pixels"].includes(changed)) show();
  });
  show();
  const parts = [size.element, hardness.element, snap, numbers.element, words];
  const about = { className: "fovea-bar fovea-options", role: "toolbar", "aria-label": t("Tool settings") };
  return element("div", about, ...parts);
}

/** A slider with its number. */
function amount(label, title, { min, max }, set) {
  const slider = element("input", { type: "range", min, max, title, "aria-label": title });
  const number = element("input", { type: "number", min, max, title, "aria-label": label });
  for (const field of [slider, number]) field.addEventListener("input", () => field.value && set(Number(field.value)));

  function show(value) {
    slider.value = value;
    if (document.activeElement !== number) number.value = value;
  }

  const word = element("span", { textContent: label });
  return { element: element("label", { className: "fovea-amount" }, word, slider, number), show };
}

/** Left, top, width and height of the shape that has handles, in pixels. */
function boxNumbers(store) {
  const names = [[t("Left"), "X"], [t("Top"), "Y"], [t("Width"), "W"], [t("Height"), "H"]]; // prettier-ignore
  const sides = () => [store.drawing.width, store.drawing.height, store.drawing.width, store.drawing.height];
  const fields = names.map(([title], at) => {
    const field = element("input", { type: "number", title, "aria-label": title, min: at < 2 ? undefined : 1 });
    field.addEventListener("change", () => (field.value === "" ? show() : set(at, Number(field.value))));
    return field;
  });
  const labels = names.map(([title, letter], at) => element("label", { title, textContent: letter }, fields[at]));
  const group = element("span", { className: "fovea-box" }, ...labels);

  function set(at, pixels) {
    const old = store.row.shapes[store.shape], box = [...old.box], side = sides()[at];
    box[at] = Math.min(Math.max(Math.round(pixels) / side, at < 2 ? -MAX_EDGE : 0), MAX_EDGE);
    if (Number.isFinite(box[at]) && !isThin({ box })) reshapeOnce(store, { ...old, box });
    show();
  }

  function show() {
    group.hidden = !areShown(store);
    if (group.hidden) return;
    const { box } = store.row.shapes[store.shape];
    fields.forEach((field, at) => {
      const pixels = Math.round(box[at] * sides()[at]);
      if (field.value !== `${pixels}`) field.value = pixels;
    });
  }

  return { element: group, show };
}

// --- pictures -------------------------------------------------------------------------------------------------------

export function pictureBar(store) {
  const masks = fileField((files) => importPictures(store, files), true);
  const behind = fileField(([file]) => workspace.showFileBehind(store, file));
  const opacity = element("input", {
    type: "range", min: 0, max: 100, title: t("Opacity of the paint"), "aria-label": t("Opacity of the paint"),
  }); // prettier-ignore
  opacity.addEventListener("input", () => workspace.setOpacity(store, Number(opacity.value)));
  const show = () => (opacity.value = store.opacity);
  store.subscribe((changed) => {
    if (changed === "opacity") show();
  });
  show();
  return element(
    "div", { className: "fovea-bar" }, ...backdropFields(store),
    iconButton("picture", t("Choose a background image from a file"), () => behind.click()),
    element("label", { className: "fovea-amount" }, element("span", { textContent: t("Paint") }), opacity), gap(),
    iconButton("import", t("Import masks or a picture in flat colors"), () => masks.click()),
    iconButton("export", t("Export as PNG"), () => exportPicture(store)), masks, behind,
  ); // prettier-ignore
}

/** Which picture is behind the painting, and how much of it shows. */
function backdropFields(store) {
  const title = t("Background image");
  const list = element("select", { title, "aria-label": title });
  list.addEventListener("pointerdown", () => workspace.listBackgrounds(store));
  list.addEventListener("focus", () => workspace.listBackgrounds(store));
  list.addEventListener("change", () => workspace.showBackground(store, list.value));
  const fades = t("Opacity of the background image");
  const percent = element("input", { type: "range", min: 0, max: 100, title: fades, "aria-label": fades });
  percent.addEventListener("input", () => workspace.setBackgroundPercent(store, Number(percent.value)));
  let listed = "";

  function show() {
    const { offered, key } = store.backdrop;
    const labels = JSON.stringify(offered.map((picture) => [picture.key, picture.label]));
    if (labels !== listed) list.replaceChildren(...offered.map(option)); // a list that is open stays open
    listed = labels;
    list.value = workspace.backgroundUrl(store) && key;
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

/** Where the browser asks for files. */
function fileField(onFiles, multiple = false) {
  const field = element("input", { type: "file", accept: "image/*", hidden: true, multiple });
  field.addEventListener("change", () => {
    if (field.files.length) onFiles([...field.files]);
    field.value = ""; // so that the same file can be chosen again
  });
  return field;
}
