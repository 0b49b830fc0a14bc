/** What can be done with regions. */

import { composed, freshRow } from "./drawing.js";
import * as edits from "./edits.js";
import { fromPicture } from "./pictures.js";
import * as shapes from "./shapes.js";
import { t } from "./texts.js";

export function addRow(store) {
  store.cancel(); // it would forget the choice of a row that is not there yet
  const row = freshRow(store.drawing.rows);
  if (!row) return store.say(t("64 regions are the most."), true);
  store.chosen = row.id;
  store.change(edits.rowAdded(store.drawing, row));
}

export function changeRow(store, id, next) {
  store.change(edits.rowChanged(store.drawing, id, next));
}

export function moveRow(store, id, by) {
  const next = edits.rowMoved(store.drawing, id, by);
  if (next) store.change(next);
}

export function removeRow(store, id) {
  const next = edits.rowRemoved(store.drawing, id);
  store.keepChoice(next.rows);
  store.change(next);
}

export function chooseRowAt(store, place) {
  store.choose(store.drawing.rows[place].id);
}

/** Nothing is painted for the chosen row any more. */
export function clearRegion(store) {
  if (store.chosen !== null) store.change(edits.cleared(store.drawing, store.chosen));
}

/** Move the chosen region by pixels. */
export function moveRegion(store, dx, dy) {
  const { map } = store.drawing;
  store.paintOnce((drawing) => shapes.move(drawing, map, store.chosen, dx, dy));
}

export function addCorner(store, point) {
  store.set({ corners: [...store.corners, point] }, "gesture");
}

/** Paint the open polygon. */
export function closePolygon(store) {
  const { corners } = store;
  if (store.tool !== "polygon" || corners.length < 3) return;
  store.set({ corners: [] }, "gesture");
  if (store.chosen === null) addRow(store);
  store.paintOnce((drawing) => shapes.polygon(drawing, corners, store.chosen));
}

/** Write the prompt of the whole picture from the regions'. */
export function compose(store) {
  store.change({ prompt: composed(store.drawing.rows) });
}

/** Take rows and map from a file with a picture of flat colors. */
export async function importPicture(store, file) {
  try {
    const picture = await createImageBitmap(file);
    store.cancel();
    const next = fromPicture(store.drawing, picture);
    store.keepChoice(next.rows);
    store.change(next);
    const found = next.rows.length > 0;
    store.say(found ? "" : t("No flat colors were found in that picture."), !found);
  } catch {
    store.say(t("That file is no picture."), true);
  }
}
