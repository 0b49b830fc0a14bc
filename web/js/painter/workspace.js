/** How somebody works with the painter: tool, zoom, the picture behind. The drawing tells nothing of it. */

import { t } from "./texts.js";
import { WHOLE, panned, zoomed } from "./view.js";

const LARGEST_BRUSH = 512; // its width in pixels

export function useTool(store, tool) {
  store.set({ tool, corners: [] }, "tool");
}

const within = (value, low, high) => Math.min(Math.max(Math.round(value) || 0, low), high);

/** By half pixels: a brush is as few as one pixel wide. */
export function setRadius(store, radius) {
  store.set({ brush: { ...store.brush, radius: within(2 * radius, 1, LARGEST_BRUSH) / 2 } }, "brush");
}

/** In percent: how much of the brush is full. */
export function setHardness(store, hardness) {
  store.set({ brush: { ...store.brush, hardness: within(hardness, 0, 100) } }, "brush");
}

export function setSnap(store, snap) {
  store.set({ snap }, "snap");
}

/** In percent, of what is painted. */
export function setOpacity(store, opacity) {
  store.set({ opacity: within(opacity, 0, 100) }, "opacity");
}

/** Show the settings of a row, or of none. */
export function unfold(store, unfolded) {
  store.set({ unfolded }, "unfolded");
}

export function panBy(store, dx, dy) {
  store.set({ view: panned(store.view, dx, dy) }, "view");
}

/** at: what stays in place, in pixels of the stage from its center. */
export function zoomBy(store, factor, at) {
  store.set({ view: zoomed(store.view, factor, at) }, "view");
}

export function seeAll(store) {
  store.set({ view: WHOLE }, "view");
}

/** While the space bar is held, the pointer moves the paper. */
export function holdSpace(store, spaceHeld) {
  store.set({ spaceHeld }, "spaceHeld");
}

export function setFull(store, full) {
  store.set({ full }, "full");
}

/** Offer the pictures that there are now; the chosen one may have a new version. One that is not there stays chosen:
 *  nodes that the graph's undo has made anew show their pictures later. */
export function listBackgrounds(store, key = store.backdrop.key) {
  const none = { key: "", label: t("No background image"), url: "" };
  const offered = [none, ...store.backgrounds(), ...store.backdrop.files];
  store.set({ backdrop: { ...store.backdrop, offered, key } }, "backdrop");
}

export function showBackground(store, key) {
  store.set({ backdrop: { ...store.backdrop, key } }, "backdrop");
}

/** Show a picture from a file behind the painting. It is not kept in the workflow. */
export async function showFileBehind(store, file) {
  try {
    (await createImageBitmap(file)).close();
  } catch {
    return store.say(t("This file is not an image."), true);
  }
  const key = `file ${file.name} ${file.lastModified}`, { files } = store.backdrop;
  const others = files.filter((other) => other.key !== key);
  const added = { key, label: t("File: {}", file.name), url: URL.createObjectURL(file) };
  store.set({ backdrop: { ...store.backdrop, files: [...others, added] } }, "backdrop");
  listBackgrounds(store, key);
  for (const { url } of files.filter((other) => other.key === key)) URL.revokeObjectURL(url);
}

/** How much of the picture behind shows. */
export function setBackgroundPercent(store, percent) {
  store.set({ backdrop: { ...store.backdrop, percent } }, "backdrop");
}

/** The address of the picture behind, "" without one. */
export function backgroundUrl({ backdrop: { offered, key } }) {
  return offered.find((picture) => picture.key === key)?.url ?? "";
}

export function workspaceOf({ tool, brush, snap, opacity, view, chosen, unfolded, backdrop: { key, percent, files } }) {
  return { tool, brush, snap, opacity, view, chosen, unfolded, key, percent, files };
}

/** Go on as in the painter that was here before. */
export function resumeWorkspace(store, { tool, brush, snap, opacity, view, chosen, unfolded, key, percent, files }) {
  useTool(store, tool);
  store.set({ brush }, "brush");
  setSnap(store, snap);
  store.set({ view }, "view");
  store.set({ backdrop: { ...store.backdrop, percent, files } }, "backdrop");
  listBackgrounds(store, key);
  store.chosen = chosen;
  store.keepChoice();
  store.set({ opacity }, "opacity");
  store.notify("choice");
  unfold(store, unfolded);
}
