/** Drawings from and to pictures: flat colors, and masks in black, white and gray. For other programs. */

import { freshRow, hex, rgb } from "./drawing.js";
import { canvas, pixelsOf } from "./pixels.js";
import { owners, placed } from "./places.js";
import { grayPng } from "./png.js";

const FAR = (0.3 * 255) ** 2 * 3; // squared distance of colors from which on a pixel is no row's
const CLOSE = 24 ** 2 * 3; // squared distance up to which a picture's color is a row's
const OPAQUE = 128; // alpha; clearer pixels are nobody's
const MIN_SHARE = 1 / 200; // of the picture, for a color to become a row
const GRAY = 16; // how far the parts of a gray may be from each other, as compressed pictures have them
const NOISE = 6; // how far from black and from white is still black and white
const FLAT = 0.9, MAX_FLAT = 96; // so much of a picture of flat colors has so many of them, told apart by 16 each
const LEVEL = 17; // of 16 grays

/** What a picture makes of the rows: {rows, changed: ids}, null when it is no mask and no picture of flat colors.
 *  picture: anything drawable. */
export function rowsWith(drawing, picture) {
  const pixels = pixelsOf(picture, drawing.width, drawing.height);
  if (isGray(pixels)) return withMask(drawing, maskOf(pixels));
  return isFlat(pixels) ? withColors(drawing, pixels) : null;
}

// --- masks ----------------------------------------------------------------------------------------------------------

function isGray(pixels) {
  for (let at = 0; at < pixels.length; at += 4) {
    const r = pixels[at], g = pixels[at + 1], b = pixels[at + 2];
    if (pixels[at + 3] && Math.max(r, g, b) - Math.min(r, g, b) > GRAY) return false;
  }
  return true;
}

/** White is in, clear is not; where nothing is white, what is not clear is in. */
function maskOf(pixels) {
  const count = pixels.length / 4;
  const white = Uint8Array.from({ length: count }, (_, at) => gray((pixels[4 * at] * pixels[4 * at + 3]) / 255));
  if (white.some((value) => value)) return white;
  const opaque = white.map((_, at) => gray(pixels[4 * at + 3]));
  return opaque.every((value) => value === 255) ? white : opaque; // a black picture is no place
}

function gray(value) {
  if (value <= NOISE) return 0;
  return value >= 255 - NOISE ? 255 : Math.round(value / LEVEL) * LEVEL;
}

/** One more row, in front. */
function withMask(drawing, mask) {
  const row = freshRow(drawing.rows);
  if (!row || !mask.some((value) => value)) return { rows: drawing.rows, changed: [] };
  return { rows: [...drawing.rows, { ...row, ...placed(drawing, mask, []) }], changed: [row.id] };
}

/** The whole place of a row as a picture: a promise of a Blob. */
export function toMask({ width, height }, { area }) {
  return grayPng({ width, height, map: area ?? new Uint8Array(width * height) });
}

// --- flat colors ----------------------------------------------------------------------------------------------------

/** How often a color is there, by its place among 16 x 16 x 16. */
function isFlat(pixels) {
  const counts = new Uint32Array(4096);
  for (let at = 0; at < pixels.length; at += 4) {
    counts[((pixels[at] >> 4) << 8) | ((pixels[at + 1] >> 4) << 4) | (pixels[at + 2] >> 4)]++;
  }
  const most = counts.sort().reverse().subarray(0, MAX_FLAT);
  return most.reduce((sum, count) => sum + count, 0) >= FLAT * (pixels.length / 4);
}

/** Frequent colors are those of rows, or become rows; each pixel is added to the nearest of them, or to none when all
 *  are far. */
function withColors(drawing, pixels) {
  const size = drawing.width * drawing.height, rows = [...drawing.rows], there = new Set();
  for (const color of frequentColors(pixels)) {
    let row = rows.find((other) => distance(rgb(other.color), rgb(color)) < CLOSE);
    if (!row && (row = freshRow(rows))) rows.push((row = { ...row, color }));
    if (row) there.add(row.id);
  }
  const colors = rows.map((row) => (there.has(row.id) ? rgb(row.color) : [Infinity, 0, 0])); // prettier-ignore
  const nearest = new Map(), masks = rows.map(() => null);
  for (let at = 0; at < size; at++) {
    const [r, g, b, a] = pixels.subarray(4 * at, 4 * at + 4);
    if (a < OPAQUE) continue;
    const key = (r << 16) | (g << 8) | b;
    if (!nearest.has(key)) {
      const ways = colors.map((color) => distance(color, [r, g, b])), best = ways.indexOf(Math.min(...ways));
      nearest.set(key, best >= 0 && ways[best] <= FAR ? best : null);
    }
    const row = nearest.get(key);
    if (row !== null) (masks[row] ??= new Uint8Array(size))[at] = 255;
  }
  const added = (row, mask) => ({ ...row, ...placed(drawing, union(row.mask, mask), row.shapes) });
  const next = rows.map((row, at) => (masks[at] ? added(row, masks[at]) : row));
  return { rows: next, changed: rows.filter((_, at) => masks[at]).map((row) => row.id) };
}

/** What either of two masks has. mask: null for none. */
const union = (mask, more) => (mask ? mask.map((value, at) => Math.max(value, more[at])) : more);

const distance = ([x, y, z], [r, g, b]) => (x - r) ** 2 + (y - g) ** 2 + (z - b) ** 2;

/** Colors that cover enough of a picture, neither black nor white. */
function frequentColors(pixels) {
  const counts = new Map();
  for (let at = 0; at < pixels.length; at += 4) {
    if (pixels[at + 3] < OPAQUE) continue;
    const color = hex([pixels[at], pixels[at + 1], pixels[at + 2]]);
    counts.set(color, (counts.get(color) ?? 0) + 1);
  }
  const least = (pixels.length / 4) * MIN_SHARE, plain = [[0, 0, 0], [255, 255, 255]]; // prettier-ignore
  const sorted = [...counts].sort((a, b) => b[1] - a[1]).filter(([, count]) => count >= least);
  const isPlain = (color) => plain.some((other) => distance(other, rgb(color)) < 3 * NOISE ** 2);
  return sorted.map(([color]) => color).filter((color) => !isPlain(color));
}

/** What is seen of the drawing as a picture in flat colors: a promise of a Blob. */
export function toPicture(drawing) {
  const { width, height, rows } = drawing, surface = canvas(width, height), context = surface.getContext("2d");
  const image = context.createImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  const table = new Map(rows.map((row) => [row.id, pixelOf(row.color)]));
  owners(drawing).forEach((id, at) => (pixels[at] = table.get(id) ?? 0));
  context.putImageData(image, 0, 0);
  return new Promise((done) => surface.toBlob(done, "image/png"));
}

/** A color as a canvas has it in 32 bits. */
function pixelOf(color) {
  const [r, g, b] = rgb(color);
  return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
}
