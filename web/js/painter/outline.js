/** Outlines that are shown over the paper while somebody draws, as SVG in the drawing's pixels. */

import { svg } from "./elements.js";
import { isLine } from "./snapping.js";

export const circle = ({ x, y }, radius) => svg("circle", { cx: x, cy: y, r: radius });

export const line = (points) => svg("polyline", { points: points.map(({ x, y }) => `${x},${y}`).join(" ") });

/** The rectangle between two corners, or the ellipse in it. */
export function box(tool, a, b) {
  const x = Math.min(a.x, b.x), y = Math.min(a.y, b.y), width = Math.abs(a.x - b.x), height = Math.abs(a.y - b.y);
  if (tool === "rectangle") return svg("rect", { x, y, width, height });
  return svg("ellipse", { cx: x + width / 2, cy: y + height / 2, rx: width / 2, ry: height / 2 });
}

/** Lines through the whole picture where a point lies on one that attracts. */
export function guides({ width, height }, { x, y }) {
  const lines = [];
  if (isLine(x, width)) lines.push(line([{ x, y: 0 }, { x, y: height }]));
  if (isLine(y, height)) lines.push(line([{ x: 0, y }, { x: width, y }]));
  return lines;
}

/** b, as far from a in both directions. */
export function squared(a, b) {
  const side = Math.max(Math.abs(b.x - a.x), Math.abs(b.y - a.y));
  return { x: a.x + Math.sign(b.x - a.x) * side, y: a.y + Math.sign(b.y - a.y) * side };
}
