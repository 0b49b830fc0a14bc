/** A drawing: rows with colors and prompts, the prompt of the whole picture, and an index map. To and from the JSON
 *  text that workflows keep. Its format is docs/painting.schema.json; guidance/regions/painter_format.py reads it. */

import { pixelsOf } from "./pixels.js";
import { grayPng } from "./png.js";
import { t } from "./texts.js";

export const VERSION = 1;
export const MAX_ROWS = 64;
export const MAX_PROMPT_LENGTH = 1000, MAX_WHOLE_LENGTH = 20_000; // as guidance/regions/painter_format.py has them
// The pack's palette (guidance/regions/sources.py); rows beyond take its colors again, a little darker.
const PALETTE = [
  "#e6194b", "#4363d8", "#ffe119", "#3cb44b", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#9a6324", "#808000",
]; // prettier-ignore

export const blank = (width, height) => ({ width, height, prompt: "", rows: [], map: new Uint8Array(width * height) });

export function rgb(color) {
  const value = parseInt(color.slice(1), 16);
  return [(value >> 16) & 255, (value >> 8) & 255, value & 255];
}

export const hex = (parts) => "#" + parts.map((part) => Math.round(part).toString(16).padStart(2, "0")).join("");

/** A color that no row has yet. */
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
  if (rows.length >= MAX_ROWS) return null;
  return { id, color: freshColor(rows), prompt: "", strength: 1, hidden: false };
}

/** The rows' prompts as one of the whole picture. */
export function composed(rows) {
  const prompts = rows.filter((row) => !row.hidden && row.prompt.trim()).map((row) => row.prompt.trim());
  const last = prompts.pop();
  return (prompts.length ? `${prompts.join(", ")} and ${last}` : last ?? "").slice(0, MAX_WHOLE_LENGTH);
}

const packedMaps = new WeakMap(); // a map is never changed after it was packed

/** The index map as a PNG's data URL, gray values are ids: a promise. Nothing painted is an empty text. */
export async function pack(drawing) {
  const { map } = drawing;
  if (packedMaps.has(map)) return;
  const url = map.some((id) => id) ? await dataUrl(await grayPng(drawing)) : "";
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
  const { width, height, prompt, rows, map } = drawing;
  if (!rows.length && !prompt) return "";
  return JSON.stringify({ version: VERSION, width, height, prompt, regions: rows, map: packedMaps.get(map) });
}

const limited = (value, low, high) => Math.min(Math.max(value, low), high);

const numberOr = (otherwise, value, low, high) => (Number.isFinite(value) ? limited(value, low, high) : otherwise);

/** A drawing from its text. Whatever is wrong in it is put right; what cannot be read is an Error. */
export async function fromText(text, width, height) {
  if (!text?.trim()) return blank(width, height);
  const given = JSON.parse(text);
  const isObject = typeof given === "object" && given !== null && !Array.isArray(given);
  if (!isObject) throw new Error("A drawing is a JSON object.");
  const isKnown = (given.version ?? VERSION) === VERSION;
  if (!isKnown) throw new Error(t("Version {} is not known here: update Fovea.", given.version));
  const sides = [[width, given.width], [height, given.height]];
  const drawing = blank(...sides.map(([usual, side]) => numberOr(usual, Math.round(side), 16, 4096)));
  drawing.prompt = typeof given.prompt === "string" ? given.prompt.slice(0, MAX_WHOLE_LENGTH) : "";
  drawing.rows = rowsFrom(given.regions);
  if (typeof given.map === "string" && given.map) drawing.map = await mapFrom(given.map, drawing);
  return drawing;
}

/** Rows from what should be a list of them; of several with one id the first. */
function rowsFrom(regions) {
  const rows = [], given = Array.isArray(regions) ? regions.slice(0, MAX_ROWS) : [];
  for (const [at, row] of given.entries()) {
    const id = Number.isInteger(row?.id) && row.id > 0 && row.id < 256 ? row.id : at + 1;
    if (rows.some((other) => other.id === id)) continue;
    rows.push({
      id,
      color: /^#[0-9a-f]{6}$/i.test(row?.color) ? row.color.toLowerCase() : freshColor(rows),
      prompt: typeof row?.prompt === "string" ? row.prompt.slice(0, MAX_PROMPT_LENGTH) : "",
      strength: numberOr(1, row?.strength, 0, 10),
      hidden: row?.hidden === true,
    });
  }
  return rows;
}

/** The map from a PNG's data URL; ids that no row has are nobody's. */
async function mapFrom(url, { width, height, rows }) {
  const known = new Set(rows.map((row) => row.id));
  return (await unpacked(url, width, height)).map((id) => (known.has(id) ? id : 0));
}

/** Ids from a PNG's data URL, without the browser changing colors. A pixel that is less than half opaque is nobody's,
 *  as on the server. Of one between half and fully opaque the canvas may round the id; maps from here have none. */
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
  const pixels = pixelsOf(bitmap, width, height);
  return Uint8Array.from({ length: width * height }, (_, at) => (pixels[4 * at + 3] < 128 ? 0 : pixels[4 * at]));
}
