/** A drawing: rows with colours and phrases, a caption, and an index map. To and from the JSON text that workflows keep.
 *  Its format is docs/painting.schema.json; guidance/regions/painter_format.py reads it. */

import { greyPng } from "./png.js";
import { t } from "./texts.js";

export const VERSION = 1;
export const MOST_ROWS = 64;
export const LONGEST_PHRASE = 1000, LONGEST_CAPTION = 20_000; // as guidance/regions/painter_format.py has them
// The pack's palette (guidance/regions/sources.py); rows beyond take its colours again, a little darker.
const PALETTE = ["#e6194b", "#4363d8", "#ffe119", "#3cb44b", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#9a6324", "#808000"];

export const blank = (width, height) => ({ width, height, caption: "", rows: [], map: new Uint8Array(width * height) });

export function rgb(color) {
  const value = parseInt(color.slice(1), 16);
  return [(value >> 16) & 255, (value >> 8) & 255, value & 255];
}

const hex = (parts) => "#" + parts.map((part) => Math.round(part).toString(16).padStart(2, "0")).join("");

/** A colour that no row has yet. */
export function freshColor(rows) {
  const taken = new Set(rows.map((row) => row.color));
  for (let turn = 0; ; turn++) {
    for (const color of PALETTE) {
      const found = hex(rgb(color).map((part) => part * 0.75 ** turn));
      if (!taken.has(found) || turn > 6) return found;
    }
  }
}

/** A row that can be added, or null when there are enough. */
export function freshRow(rows) {
  const ids = new Set(rows.map((row) => row.id));
  let id = 1;
  while (ids.has(id)) id++;
  if (rows.length >= MOST_ROWS) return null;
  return { id, color: freshColor(rows), phrase: "", strength: 1, hidden: false };
}

/** The phrases as a caption. */
export function composed(rows) {
  const phrases = rows.filter((row) => !row.hidden && row.phrase.trim()).map((row) => row.phrase.trim());
  const last = phrases.pop();
  return (phrases.length ? `${phrases.join(", ")} and ${last}` : last ?? "").slice(0, LONGEST_CAPTION);
}

/** Where phrases stand in a caption: [{start, end, row}], not overlapping, longer phrases first. */
export function phrasesIn(caption, rows) {
  const text = caption.toLowerCase(), found = [];
  const wanted = rows.filter((row) => row.phrase.trim()).sort((a, b) => b.phrase.trim().length - a.phrase.trim().length);
  for (const row of wanted) {
    const phrase = row.phrase.trim().toLowerCase();
    for (let start = text.indexOf(phrase); start >= 0; start = text.indexOf(phrase, start + 1)) {
      const end = start + phrase.length;
      const edge = (at) => at < 0 || at >= text.length || !/[\p{L}\p{N}]/u.test(text[at]);
      if (edge(start - 1) && edge(end) && !found.some((other) => start < other.end && other.start < end)) {
        found.push({ start, end, row });
        break;
      }
    }
  }
  return found.sort((a, b) => a.start - b.start);
}

function canvas(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

const packedMaps = new WeakMap(); // a map is never changed after it was packed

/** The index map as a PNG's data URL, grey values are ids: a promise. Nothing painted is an empty text. */
export async function pack(drawing) {
  const { map } = drawing;
  if (packedMaps.has(map)) return;
  const url = map.some((id) => id) ? await dataUrl(await greyPng(drawing)) : "";
  packedMaps.set(map, url);
}

function dataUrl(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(blob);
  });
}

export const isPacked = (drawing) => packedMaps.has(drawing.map);

/** The text of a drawing whose map is packed. */
export function toText(drawing) {
  const { width, height, caption, rows, map } = drawing;
  if (!rows.length && !caption) return "";
  return JSON.stringify({ version: VERSION, width, height, caption, regions: rows, map: packedMaps.get(map) });
}

const number = (value, low, high, otherwise) => (Number.isFinite(value) ? Math.min(Math.max(value, low), high) : otherwise);

/** A drawing from its text. Whatever is wrong in it is put right; what cannot be read is an Error. */
export async function fromText(text, width, height) {
  if (!text?.trim()) return blank(width, height);
  const given = JSON.parse(text);
  if (typeof given !== "object" || given === null || Array.isArray(given)) throw new Error("A drawing is a JSON object.");
  if ((given.version ?? VERSION) !== VERSION) throw new Error(t("Version {} is not known here: update Fovea.", given.version));
  const drawing = blank(number(Math.round(given.width), 16, 4096, width), number(Math.round(given.height), 16, 4096, height));
  drawing.caption = typeof given.caption === "string" ? given.caption.slice(0, LONGEST_CAPTION) : "";
  for (const [at, row] of (Array.isArray(given.regions) ? given.regions.slice(0, MOST_ROWS) : []).entries()) {
    const fresh = freshRow(drawing.rows);
    const id = Number.isInteger(row?.id) && row.id > 0 && row.id < 256 ? row.id : at + 1;
    if (drawing.rows.some((other) => other.id === id)) continue;
    drawing.rows.push({
      id,
      color: /^#[0-9a-f]{6}$/i.test(row?.color) ? row.color.toLowerCase() : fresh.color,
      phrase: typeof row?.phrase === "string" ? row.phrase.slice(0, LONGEST_PHRASE) : "",
      strength: number(row?.strength, 0, 10, 1),
      hidden: row?.hidden === true,
    });
  }
  if (typeof given.map === "string" && given.map) {
    const known = new Set(drawing.rows.map((row) => row.id));
    drawing.map = (await unpacked(given.map, drawing.width, drawing.height)).map((id) => (known.has(id) ? id : 0));
  }
  return drawing;
}

/** Ids from a PNG's data URL, without the browser changing colors. A pixel more clear than not is nobody's, as on the
 *  server. */
async function unpacked(url, width, height) {
  const match = /^data:image\/png;base64,([A-Za-z0-9+/=]*)$/.exec(url);
  if (!match) throw new Error(t("The map is no PNG data URL."));
  const bytes = Uint8Array.from(atob(match[1]), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer); // its header tells the size before anything is decoded
  const isPng = bytes.length > 26 && view.getUint32(0) === 0x89504e47 && view.getUint32(12) === 0x49484452;
  if (!isPng || view.getUint32(16) !== width || view.getUint32(20) !== height) {
    throw new Error(t("The map is not as large as the drawing."));
  }
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }), options);
  const context = canvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, width, height).data;
  return Uint8Array.from({ length: width * height }, (_, at) => (pixels[4 * at + 3] < 128 ? 0 : pixels[4 * at]));
}

/** What a picture of flat colours tells: each pixel to the nearest row's colour, or to nobody when all are far.
 *  Without rows, the picture's own most frequent colours become rows. bitmap: anything drawable. */
export function fromPicture(drawing, bitmap) {
  const { width, height } = drawing;
  const context = canvas(width, height).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.drawImage(bitmap, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height).data;
  const rows = drawing.rows.length ? drawing.rows : rowsOf(pixels);
  const colors = rows.map((row) => rgb(row.color)), far = (0.3 * 255) ** 2 * 3, nearest = new Map();
  const map = new Uint8Array(width * height);
  for (let at = 0; at < map.length; at++) {
    const [r, g, b, a] = pixels.subarray(4 * at, 4 * at + 4);
    if (a < 128) continue;
    const key = (r << 16) | (g << 8) | b;
    if (!nearest.has(key)) {
      const distances = colors.map(([x, y, z]) => (x - r) ** 2 + (y - g) ** 2 + (z - b) ** 2);
      const best = distances.indexOf(Math.min(...distances));
      nearest.set(key, best >= 0 && distances[best] <= far ? rows[best].id : 0);
    }
    map[at] = nearest.get(key);
  }
  return { ...drawing, rows, map };
}

/** Rows for the colours that cover at least half a percent, neither black nor white. */
function rowsOf(pixels) {
  const counts = new Map();
  for (let at = 0; at < pixels.length; at += 4) {
    if (pixels[at + 3] < 128) continue;
    const color = hex([pixels[at], pixels[at + 1], pixels[at + 2]]);
    counts.set(color, (counts.get(color) ?? 0) + 1);
  }
  const plain = new Set(["#000000", "#ffffff"]), rows = [];
  for (const [color, count] of [...counts].sort((a, b) => b[1] - a[1])) {
    if (plain.has(color) || count < pixels.length / 4 / 200) continue;
    const row = freshRow(rows);
    if (!row) break;
    rows.push({ ...row, color });
  }
  return rows;
}

/** The drawing as a picture in flat colours, for other programs: a promise of a Blob. */
export function toPicture(drawing) {
  const { width, height, rows, map } = drawing;
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
