/** Changes of a drawing's rows and map. Plain functions: each returns the fields that are new and leaves the drawing as
 *  it is. */

import * as shapes from "./shapes.js";

export const rowAdded = ({ rows }, row) => ({ rows: [...rows, row] });

export const rowChanged = ({ rows }, id, next) => ({
  rows: rows.map((row) => (row.id === id ? { ...row, ...next } : row)),
});

/** A row up or down by places; null where it cannot go. */
export function rowMoved({ rows }, id, by) {
  const from = rows.findIndex((row) => row.id === id), to = from + by;
  if (to < 0 || to >= rows.length) return null;
  const moved = [...rows];
  [moved[from], moved[to]] = [moved[to], moved[from]];
  return { rows: moved };
}

/** Nothing is painted for a row any more. */
export function cleared(drawing, id) {
  const map = drawing.map.slice();
  shapes.replace({ ...drawing, map }, id);
  return { map };
}

export function rowRemoved(drawing, id) {
  return { rows: drawing.rows.filter((row) => row.id !== id), ...cleared(drawing, id) };
}

/** The same drawing with a map of its own, to paint on. */
export const copied = (drawing) => ({ ...drawing, map: drawing.map.slice() });

export function isSame(before, after) {
  return before.rows === after.rows && before.map.every((id, at) => id === after.map[at]);
}
