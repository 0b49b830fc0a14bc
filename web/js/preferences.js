/** What people can set once for all painters, in the editor's settings, and the pack's line in its About page. */

import { app } from "../../../scripts/app.js";
import { hex, rgb } from "./painter/drawing.js";

export const PAGE = "https://github.com/fovea/fovea", VERSION_SHOWN = "0.1.0";
const SIZE = "Fovea.Painter.BrushSize", HARDNESS = "Fovea.Painter.BrushHardness";
const OPACITY = "Fovea.Painter.PaintOpacity", COLORS = "Fovea.Painter.Colors";

const slider = (id, name, least, most, defaultValue, tooltip) => ({
  id, name, tooltip, defaultValue, type: "slider", attrs: { min: least, max: most, step: 1 },
  category: ["Fovea", "Region Painter", name],
}); // prettier-ignore

export const SETTINGS = [
  slider(SIZE, "Brush size", 1, 512, 48, "In pixels of the picture, for painters that open from now on."),
  slider(HARDNESS, "Brush hardness", 0, 100, 100, "In percent: how much of the brush is full."),
  slider(OPACITY, "Paint opacity", 0, 100, 75, "In percent, over the background image."),
  {
    id: COLORS, name: "Colors of new regions", type: "text", defaultValue: "",
    tooltip: "Such as #e6194b #4363d8. Empty: the pack's own ten. Regions keep the colors that they have.",
    category: ["Fovea", "Region Painter", "Colors of new regions"],
  },
]; // prettier-ignore

const setting = (id) => app.extensionManager?.setting?.get(id);

/** What a slider is set to, within its bounds. */
function amount(id) {
  const { attrs, defaultValue } = SETTINGS.find((one) => one.id === id);
  const number = Math.round(Number(setting(id) ?? defaultValue));
  return Number.isFinite(number) ? Math.min(Math.max(number, attrs.min), attrs.max) : defaultValue;
}

/** How a painter begins: { brush, opacity, palette }, palette null for the pack's own. */
export function preferences() {
  const colors = String(setting(COLORS) ?? "").match(/#[0-9a-f]{6}\b/gi) ?? [];
  return {
    brush: { radius: amount(SIZE) / 2, hardness: amount(HARDNESS) },
    opacity: amount(OPACITY),
    palette: colors.length ? colors.map((color) => hex(rgb(color))) : null,
  };
}
