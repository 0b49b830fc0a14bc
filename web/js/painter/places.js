/** Where a row is: {mask, shapes, area}. mask: 0..255 of every pixel that is painted, or null. shapes: rectangles and
 *  ellipses that can still be changed, [{kind, box: [left, top, width, height]}] in fractions of the picture. area:
 *  both together, the mask itself where there are no shapes; null for nothing. Nothing of a place is ever changed, but
 *  by the gesture that has made it. Rows lie on each other from back to front; a place tells nothing of the others. */

import * as shapes from "./shapes.js";

export const NOWHERE = Object.freeze({ mask: null, shapes: Object.freeze([]), area: null });
export const IN = 128; // from which on a value counts as inside, where it must be one or the other

export const MAX_EDGE = 4; // pictures: how far a shape may begin beside one, and how large it may be

const PRECISION = 1e5;
const BESIDE = (MAX_EDGE - 1) / 2; // what is left of the largest at each side of the picture
const limited = (value, low, high) => Math.min(Math.max(value, low), high);
const rounded = (value) => limited(Math.round(value * PRECISION) / PRECISION, -MAX_EDGE, MAX_EDGE);

/** A place of these, in a drawing of this size. */
export function placed({ width, height }, mask, parts) {
  if (!parts.length) return { mask, shapes: NOWHERE.shapes, area: mask };
  const area = mask ? mask.slice() : new Uint8Array(width * height);
  for (const shape of parts) drawShape({ width, height, map: area }, shape);
  return { mask, shapes: parts, area };
}

/** The pixels of a shape as guidance/regions/painter_format.py has them. */
function drawShape(grid, shape) {
  const [a, b] = cornersOf(grid, shape);
  return shape.kind === "ellipse" ? shapes.ellipse(grid, a, b, 255) : shapes.rectangle(grid, a, b, 255);
}

/** Two corners of a shape in pixels: the upper left and the lower right. */
export function cornersOf({ width, height }, { box: [x, y, w, h] }) {
  return [{ x: x * width, y: y * height }, { x: (x + w) * width, y: (y + h) * height }];
}

/** A shape between two corners in pixels, which it puts on whole ones. */
export function shapeBetween({ width, height }, kind, a, b) {
  const [x, w] = between(a.x, b.x, width), [y, h] = between(a.y, b.y, height);
  return { kind, box: [x, y, w, h].map(rounded) };
}

/** Start and size as fractions of the side. Of what is larger than a shape may be, the part with the picture in it. */
function between(a, b, side) {
  const [start, end] = [a, b].map((edge) => Math.round(edge) / side).sort((p, q) => p - q);
  const size = Math.min(end - start, MAX_EDGE);
  return [limited(-BESIDE, start, end - size), size];
}

export const isThin = ({ box: [, , width, height] }) => !(width > 0 && height > 0);

/** Whether a shape has a point, in pixels. */
export function contains(size, shape, point) {
  const [a, b] = cornersOf(size, shape);
  if (shape.kind === "rectangle") return point.x >= a.x && point.x < b.x && point.y >= a.y && point.y < b.y;
  const x = (2 * point.x - a.x - b.x) / (b.x - a.x), y = (2 * point.y - a.y - b.y) / (b.y - a.y);
  return x * x + y * y <= 1;
}

/** A copy of a place to paint on. isErased: something is taken from it, so its shapes become paint. */
export function ownPlace({ width, height }, { mask, shapes: parts, area }, isErased = false) {
  const copy = (map) => map?.slice() ?? new Uint8Array(width * height);
  if (isErased) return placed({ width, height }, copy(area), []);
  const own = copy(mask);
  return { mask: own, shapes: parts, area: parts.length ? copy(area) : own };
}

/** A place moved by whole pixels. */
export function movedPlace(size, { mask, shapes: parts }, dx, dy) {
  const by = [dx / size.width, dy / size.height, 0, 0];
  const moved = parts.map(({ kind, box }) => ({ kind, box: box.map((value, at) => rounded(value + by[at])) }));
  return placed(size, mask && shapes.moved({ ...size, map: mask }, dx, dy), moved);
}

/** A place in a drawing of another size. */
export function resizedPlace(before, { mask, shapes: parts }, size) {
  return placed(size, mask && shapes.resized({ ...before, map: mask }, size.width, size.height), parts);
}

/** Rows that are to be seen, the frontmost first. */
export const frontFirst = (rows) => rows.filter((row) => !row.hidden && row.area).reverse();

/** The row that is to be seen at a point; undefined for none, and beside the paper. */
export function rowAt({ width, height, rows }, point) {
  const x = Math.floor(point.x), y = Math.floor(point.y);
  if (x < 0 || y < 0 || x >= width || y >= height) return undefined;
  return frontFirst(rows).find((row) => row.area[y * width + x] >= IN);
}

/** The id of the row that is to be seen in every pixel, 0 for none. */
export function owners({ width, height, rows }) {
  const map = new Int16Array(width * height);
  for (const { id, area } of frontFirst(rows).reverse()) {
    for (let at = 0; at < map.length; at++) if (area[at] >= IN) map[at] = id;
  }
  return map;
}

/** The part of the picture that a place has. */
export function shareOf({ area }) {
  return area ? area.reduce((sum, value) => sum + value, 0) / (255 * area.length) : 0;
}
