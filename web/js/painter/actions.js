/** What can be done with regions. */

import { composed, freshRow, hex, MAX_SHAPES } from "./drawing.js";
import * as edits from "./edits.js";
import { cornersOf, movedPlace, owners, placed } from "./places.js";
import * as shapes from "./shapes.js";
import { t } from "./texts.js";

const FILLED = 256; // no row's id

export function addRow(store) {
  store.cancel(); // it would forget the choice of a row that is not there yet
  const row = freshRow(store.drawing.rows);
  if (!row) return store.say(t("At most 64 regions."), true);
  Object.assign(store, { chosen: row.id, shape: null });
  store.change(edits.rowAdded(store.drawing, row));
  store.notify("write here");
}

export function changeRow(store, id, next) {
  store.cancel(); // here and below: what is changed is the drawing without the gesture under way
  store.change(edits.rowChanged(store.drawing, id, next));
}

/** by: places to the front. */
export function moveRow(store, id, by) {
  store.cancel();
  const next = edits.rowMoved(store.drawing, id, by);
  if (next) store.change(next);
}

export function removeRow(store, id) {
  store.cancel();
  const next = edits.rowRemoved(store.drawing, id);
  store.keepChoice(next.rows);
  store.change(next);
}

export function chooseRowAt(store, place) {
  store.choose(store.drawing.rows[place].id);
}

/** Nothing is painted for the chosen row any more. */
export function clearRegion(store) {
  store.cancel();
  if (store.chosen !== null) store.change(edits.cleared(store.drawing, store.chosen));
}

/** Move the chosen region by pixels. */
export function moveRegion(store, dx, dy) {
  store.cancel();
  const { row, drawing } = store;
  if (row) store.change(edits.rowChanged(drawing, row.id, movedPlace(drawing, row, dx, dy)));
}

/** Give the chosen row all of the picture that looks like the place around a point. */
export function fillAt(store, point) {
  const owned = { ...store.drawing, map: owners(store.drawing) };
  const rect = shapes.fill(owned, point, FILLED);
  if (!rect) return;
  store.paint(({ map }) => {
    for (let at = 0; at < map.length; at++) if (owned.map[at] === FILLED) map[at] = 255;
    return rect;
  });
}

/** The chosen region's thing has this color, [red, green, blue]; null: there is no picture to take it from. */
export function pickColor(store, color) {
  if (!store.row) return store.say(t("Choose a region first."), true);
  if (!color) return store.say(t("Choose a background image first, then click it."), true);
  changeRow(store, store.chosen, { color: hex(color), is_color_of_object: true });
  store.say("");
}

// --- shapes ---------------------------------------------------------------------------------------------------------

/** Give the chosen row one more shape, which gets handles. */
export function addShape(store, shape) {
  const { row, drawing } = store;
  if (row.shapes.length >= MAX_SHAPES) return store.say(t("At most 64 shapes in a region."), true);
  store.shape = row.shapes.length;
  store.place(placed(drawing, row.mask, [...row.shapes, shape]));
}

/** Put the shape that has handles somewhere else. */
export function reshape(store, shape) {
  const { row, drawing } = store;
  const points = [row.shapes[store.shape], shape].flatMap((one) => cornersOf(drawing, one));
  const xs = points.map(({ x }) => x), ys = points.map(({ y }) => y);
  const rect = shapes.bounds(drawing, Math.min(...xs) - 1, Math.min(...ys) - 1, Math.max(...xs) + 1, Math.max(...ys) + 1);
  store.place(placed(drawing, row.mask, row.shapes.map((old, at) => (at === store.shape ? shape : old))), rect);
}

/** The same as a step of its own. */
export function reshapeOnce(store, shape) {
  store.begin();
  reshape(store, shape);
  store.settle();
}

/** Shapes for regions that have no place yet, and for as many new ones as it takes. boxes: in fractions. */
export function arrange(store, boxes) {
  store.cancel();
  const rows = [...store.drawing.rows];
  let { chosen } = store;
  for (const box of boxes) {
    let at = rows.findIndex((row) => !row.area);
    if (at < 0) {
      const row = freshRow(rows);
      if (!row) return store.say(t("At most 64 regions."), true);
      at = rows.push(row) - 1;
    }
    rows[at] = { ...rows[at], ...placed(store.drawing, null, [{ kind: "rectangle", box }]) };
    chosen = rows[at].id;
  }
  Object.assign(store, { chosen, shape: 0 });
  store.change({ rows });
}

// --- polygons -------------------------------------------------------------------------------------------------------

export function addCorner(store, point) {
  store.set({ corners: [...store.corners, point] }, "gesture");
}

/** Paint the open polygon. */
export function closePolygon(store) {
  const { corners } = store;
  if (store.tool !== "polygon" || corners.length < 3) return;
  store.set({ corners: [] }, "gesture");
  if (!store.row) store.choose(null);
  store.begin({ row: store.row ? null : freshRow(store.drawing.rows) });
  store.paint((grid) => shapes.polygon(grid, corners, 255));
  store.settle();
}

// --- prompt ---------------------------------------------------------------------------------------------------------

/** Write the prompt of the whole picture from the regions'. */
export function compose(store) {
  store.change({ prompt: composed(store.drawing.rows) });
}
