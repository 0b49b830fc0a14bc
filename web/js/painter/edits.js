/** Changes of a drawing's rows. Plain functions: each returns the fields that are new and leaves the drawing as it is.
 */

import { NOWHERE, resizedPlace } from "./places.js";

export const rowOf = ({ rows }, id) => rows.find((row) => row.id === id);

/** In front of the others. */
export const rowAdded = ({ rows }, row) => ({ rows: [...rows, row] });

export const rowChanged = ({ rows }, id, next) => ({
  rows: rows.map((row) => (row.id === id ? { ...row, ...next } : row)),
});

/** A row by places to the front; null where it cannot go. */
export function rowMoved({ rows }, id, by) {
  const from = rows.findIndex((row) => row.id === id), to = from + by;
  if (to < 0 || to >= rows.length) return null;
  const moved = [...rows];
  [moved[from], moved[to]] = [moved[to], moved[from]];
  return { rows: moved };
}

/** Nothing is painted for a row any more. */
export const cleared = (drawing, id) => rowChanged(drawing, id, NOWHERE);

export const rowRemoved = ({ rows }, id) => ({ rows: rows.filter((row) => row.id !== id) });

/** The drawing in another size. */
export function resized(drawing, size) {
  return { ...drawing, ...size, rows: drawing.rows.map((row) => ({ ...row, ...resizedPlace(drawing, row, size) })) };
}

/** Whether every row is where it was. */
export function isInPlace(before, after) {
  const isSame = (row, at) => after.rows[at].mask === row.mask && after.rows[at].shapes === row.shapes;
  return before.rows.length === after.rows.length && before.rows.every(isSame);
}

/** Whether a gesture has changed nothing: its copies hold the same. An eraser that met nothing leaves shapes alone. */
export function isSame(before, after) {
  if (before.rows.length !== after.rows.length) return false;
  return before.rows.every((row, at) => {
    const next = after.rows[at];
    if (row === next) return true;
    if (row.id !== next.id) return false;
    return next.shapes.length ? row.shapes === next.shapes && isAlike(row.mask, next.mask) : isAlike(row.area, next.area);
  });
}

function isAlike(before, after) {
  if (before === after) return true;
  return after !== null && after.every((value, at) => value === (before?.[at] ?? 0));
}
