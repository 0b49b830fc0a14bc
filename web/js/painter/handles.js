/** The handles of the shape that can be changed: at its corners and the middles of its edges, [-1..1, -1..1] each. */

import { svg } from "./elements.js";
import { cornersOf } from "./places.js";

const NEAR = 8, SIDE = 8; // pixels of the screen: how near a pointer must be, how large they are
const ALL = [[-1, -1], [0, -1], [1, -1], [1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0]]; // prettier-ignore
const CURSORS = { "-1,-1": "nwse", "1,1": "nwse", "1,-1": "nesw", "-1,1": "nesw", "0,-1": "ns", "0,1": "ns" };

const shapeOf = (store) => store.row?.shapes[store.shape];

/** Tools that paint have none in their way. */
export const areShown = (store) => ["rectangle", "ellipse", "move"].includes(store.tool) && !!shapeOf(store);

const placeOf = ([a, b], [x, y]) => ({ x: (a.x + b.x + x * (b.x - a.x)) / 2, y: (a.y + b.y + y * (b.y - a.y)) / 2 });

/** The one at a point, or null. resolution: the drawing's pixels per pixel of the screen. */
export function at(store, point, resolution) {
  const corners = cornersOf(store.drawing, shapeOf(store));
  const far = (handle) => {
    const place = placeOf(corners, handle);
    return Math.max(Math.abs(place.x - point.x), Math.abs(place.y - point.y));
  };
  const nearest = ALL.reduce((best, handle) => (far(handle) < far(best) ? handle : best));
  return far(nearest) <= NEAR * resolution ? nearest : null;
}

/** Two corners once a handle is at a point. isSquare: as wide as high. */
export function moved([a, b], [x, y], point, isSquare) {
  const next = [{ ...a }, { ...b }];
  if (x) next[x < 0 ? 0 : 1].x = point.x;
  if (y) next[y < 0 ? 0 : 1].y = point.y;
  if (isSquare && x && y) {
    const side = Math.max(Math.abs(next[1].x - next[0].x), Math.abs(next[1].y - next[0].y));
    if (x < 0) next[0].x = b.x - side;
    else next[1].x = a.x + side;
    if (y < 0) next[0].y = b.y - side;
    else next[1].y = a.y + side;
  }
  return next;
}

export const cursorOf = (handle) => (handle ? `${CURSORS[handle.join()] ?? "ew"}-resize` : "");

/** What to draw of them: the box and squares. scale: pixels of the stage per pixel of the drawing. */
export function drawn(store, scale) {
  if (!areShown(store)) return [];
  const [a, b] = cornersOf(store.drawing, shapeOf(store)), side = SIDE / scale;
  const box = svg("rect", { x: a.x, y: a.y, width: b.x - a.x, height: b.y - a.y, class: "fovea-selected" });
  const squares = ALL.map((handle) => {
    const { x, y } = placeOf([a, b], handle), about = { class: "fovea-handle", "data-at": `${handle}` };
    return svg("rect", { x: x - side / 2, y: y - side / 2, width: side, height: side, ...about });
  });
  return [box, ...squares];
}
