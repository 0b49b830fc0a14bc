/** How somebody works with the painter: tool, zoom, the picture behind. The drawing tells nothing of it. */

import { t } from "./texts.js";
import { WHOLE, panned, zoomed } from "./view.js";

const LARGEST_BRUSH = 256;

export function useTool(store, tool) {
  store.set({ tool, corners: [] }, "tool");
}

export function setRadius(store, radius) {
  store.set({ radius: Math.min(Math.max(Math.round(radius), 1), LARGEST_BRUSH) }, "radius");
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

/** Offer the pictures that there are now; the chosen one may have a new version. */
export function listBackgrounds(store, key = store.backdrop.key) {
  const offered = [{ key: "", label: t("No picture behind"), url: "" }, ...store.backgrounds()];
  const found = offered.some((picture) => picture.key === key);
  store.set({ backdrop: { ...store.backdrop, offered, key: found ? key : "" } }, "backdrop");
}

export function showBackground(store, key) {
  store.set({ backdrop: { ...store.backdrop, key } }, "backdrop");
}

/** How much of the picture behind shows. */
export function setBackgroundPercent(store, percent) {
  store.set({ backdrop: { ...store.backdrop, percent } }, "backdrop");
}

/** The address of the picture behind, "" without one. */
export function backgroundUrl({ backdrop: { offered, key } }) {
  return offered.find((picture) => picture.key === key)?.url ?? "";
}

export function workspaceOf({ tool, radius, view, chosen, backdrop: { key, percent } }) {
  return { tool, radius, view, chosen, key, percent };
}

/** Go on as in the painter that was here before. */
export function resumeWorkspace(store, { tool, radius, view, chosen, key, percent }) {
  useTool(store, tool);
  setRadius(store, radius);
  store.set({ view }, "view");
  setBackgroundPercent(store, percent);
  listBackgrounds(store, key);
  store.chosen = chosen;
  store.keepChoice();
  store.notify("choice");
}
