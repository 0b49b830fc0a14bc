/** Drawings from and to pictures of flat colors, for other programs and for the canvas. */

import { freshRow, hex, rgb } from "./drawing.js";
import { canvas, pixelsOf } from "./pixels.js";

const FAR = (0.3 * 255) ** 2 * 3; // squared distance of colors from which on a pixel is no row's
const OPAQUE = 128; // alpha; clearer pixels are nobody's
const MIN_SHARE = 1 / 200; // of the picture, for a color to become a row

/** What a picture of flat colors tells: each pixel to the nearest row's color, or to nobody when all are far.
 *  Without rows, the picture's own most frequent colors become rows. picture: anything drawable. */
export function fromPicture(drawing, picture) {
  const { width, height } = drawing;
  const pixels = pixelsOf(picture, width, height);
  const rows = drawing.rows.length ? drawing.rows : rowsOf(pixels);
  const colors = rows.map((row) => rgb(row.color)), nearest = new Map();
  const map = new Uint8Array(width * height);
  for (let at = 0; at < map.length; at++) {
    const [r, g, b, a] = pixels.subarray(4 * at, 4 * at + 4);
    if (a < OPAQUE) continue;
    const key = (r << 16) | (g << 8) | b;
    if (!nearest.has(key)) {
      const distances = colors.map(([x, y, z]) => (x - r) ** 2 + (y - g) ** 2 + (z - b) ** 2);
      const best = distances.indexOf(Math.min(...distances));
      nearest.set(key, best >= 0 && distances[best] <= FAR ? rows[best].id : 0);
    }
    map[at] = nearest.get(key);
  }
  return { rows, map };
}

/** Rows for the colors that cover enough of a picture, neither black nor white. */
function rowsOf(pixels) {
  const counts = new Map();
  for (let at = 0; at < pixels.length; at += 4) {
    if (pixels[at + 3] < OPAQUE) continue;
    const color = hex([pixels[at], pixels[at + 1], pixels[at + 2]]);
    counts.set(color, (counts.get(color) ?? 0) + 1);
  }
  const plain = new Set(["#000000", "#ffffff"]), rows = [];
  for (const [color, count] of [...counts].sort((a, b) => b[1] - a[1])) {
    if (plain.has(color) || count < (pixels.length / 4) * MIN_SHARE) continue;
    const row = freshRow(rows);
    if (!row) break;
    rows.push({ ...row, color });
  }
  return rows;
}

/** The drawing as a picture in flat colors: a promise of a Blob. */
export function toPicture({ width, height, rows, map }) {
  const surface = canvas(width, height), context = surface.getContext("2d");
  const image = context.createImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  const table = colorTable(rows, 255);
  for (let at = 0; at < map.length; at++) pixels[at] = table[map[at]];
  context.putImageData(image, 0, 0);
  return new Promise((done) => surface.toBlob(done, "image/png"));
}

/** What to put into a canvas for every id, as 32-bit pixels; nobody's are clear. */
export function colorTable(rows, opacity) {
  const table = new Uint32Array(256);
  for (const row of rows) {
    const [r, g, b] = rgb(row.color);
    if (!row.hidden) table[row.id] = ((opacity << 24) | (b << 16) | (g << 8) | r) >>> 0;
  }
  return table;
}
