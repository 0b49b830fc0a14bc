/** A drawing: rows with colors, prompts and places, and the prompt of the whole picture. To and from the JSON text that
 *  workflows keep. Its format is docs/painting.schema.json; guidance/regions/painter_format.py reads it. */

import { MAX_EDGE, NOWHERE, placed } from "./places.js";
import { lumaAt, pixelsOf } from "./pixels.js";
import { grayPng } from "./png.js";
import { t } from "./texts.js";

export const VERSION = 2, FIRST_VERSION = 2; // of a drawing that says none: the first, whatever comes later
// As guidance/regions/painter_format.py has them:
export const MAX_ROWS = 64, MAX_SHAPES = 64, MAX_LORAS = 8;
export const MAX_PROMPT_LENGTH = 1000, MAX_WHOLE_LENGTH = 20_000, MAX_LORA_LENGTH = 300;
const MAX_VALUES = 2 ** 28; // of all masks together
// The pack's palette (guidance/regions/sources.py); rows beyond take its colors again, a little darker.
const PALETTE = [
  "#e6194b", "#4363d8", "#ffe119", "#3cb44b", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#9a6324", "#808000",
]; // prettier-ignore
let palette = PALETTE;

/** Take other colors for rows that come from now on; null: the pack's. */
export function usePalette(colors) {
  palette = colors ?? PALETTE;
}

/** What a row says of its region beside color, prompt and place, where nobody has said anything else. */
export const USUAL = Object.freeze({
  negative_prompt: "", strength: 1, start_percent: 0, end_percent: 1, is_color_of_object: false, loras: Object.freeze([]),
  hidden: false,
}); // prettier-ignore

export const blank = (width, height) => ({ width, height, prompt: "", rows: [] });

export function rgb(color) {
  const value = parseInt(color.slice(1), 16);
  return [(value >> 16) & 255, (value >> 8) & 255, value & 255];
}

export const hex = (parts) => "#" + parts.map((part) => Math.round(part).toString(16).padStart(2, "0")).join("");

/** A color that no row has yet. */
export function freshColor(rows) {
  const taken = new Set(rows.map((row) => row.color));
  for (let turn = 0; ; turn++) {
    for (const color of palette) {
      const found = hex(rgb(color).map((part) => part * 0.75 ** turn));
      if (!taken.has(found) || turn > 6) return found;
    }
  }
}

/** A row that can be added, or null when there are enough. */
export function freshRow(rows) {
  if (rows.length >= MAX_ROWS) return null;
  const id = freeId(new Set(rows.map((row) => row.id)));
  return { id, color: freshColor(rows), prompt: "", ...USUAL, ...NOWHERE };
}

/** The first from `id` on that no row has. */
function freeId(taken, id = 1) {
  while (taken.has(id)) id++;
  return id;
}

/** Why a drawing would not be read again: too much of it is painted. "" where it would. */
export function whyTooLarge({ width, height, rows }) {
  const fits = (count) => count * width * height <= MAX_VALUES;
  if (fits(rows.length)) return "";
  const painted = rows.filter(({ mask }) => mask?.some((value) => value));
  return fits(painted.length) ? "" : t("Too many painted regions for {} x {} pixels.", width, height);
}

/** The rows' prompts as one of the whole picture. */
export function composed(rows) {
  const prompts = rows.filter((row) => !row.hidden && row.prompt.trim()).map((row) => row.prompt.trim());
  const last = prompts.pop();
  return (prompts.length ? `${prompts.join(", ")} and ${last}` : last ?? "").slice(0, MAX_WHOLE_LENGTH);
}

// --- to text --------------------------------------------------------------------------------------------------------

const packedMasks = new WeakMap(); // a mask is never changed after it was packed

const masksOf = ({ rows }) => rows.map((row) => row.mask).filter(Boolean);

export const isPacked = (drawing) => masksOf(drawing).every((mask) => packedMasks.has(mask));

/** Masks as PNGs' data URLs: a promise. Nothing painted is an empty text. */
export async function pack(drawing) {
  for (const map of masksOf(drawing)) {
    if (packedMasks.has(map)) continue;
    packedMasks.set(map, map.some((value) => value) ? await dataUrl(await grayPng({ ...drawing, map })) : "");
  }
}

function dataUrl(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** The text of a drawing whose masks are packed. */
export function toText(drawing) {
  const { width, height, prompt, rows } = drawing;
  if (!rows.length && !prompt) return "";
  return JSON.stringify({ version: VERSION, width, height, prompt, regions: rows.map(entryOf) });
}

/** A row as the text has it: what is as usual is left out. */
function entryOf(row) {
  const { id, color, prompt, shapes } = row, entry = { id, color, prompt };
  for (const [name, usual] of Object.entries(USUAL)) {
    if (JSON.stringify(row[name]) !== JSON.stringify(usual)) entry[name] = row[name];
  }
  if (shapes.length) entry.shapes = shapes.map(({ kind, box: [x, y, width, height] }) => ({ kind, x, y, width, height }));
  const mask = row.mask && packedMasks.get(row.mask);
  return mask ? { ...entry, mask } : entry;
}

// --- from text ------------------------------------------------------------------------------------------------------

const limited = (value, low, high) => Math.min(Math.max(value, low), high);

const numberOr = (otherwise, value, low, high) => (Number.isFinite(value) ? limited(value, low, high) : otherwise);

const textOf = (value, longest) => (typeof value === "string" ? value.slice(0, longest) : "");

const listOf = (value, longest) => (Array.isArray(value) ? value.slice(0, longest) : []);

/** A drawing from its text. Whatever is wrong in it is put right; what cannot be read is an Error. */
export async function fromText(text, width, height) {
  if (!text?.trim()) return blank(width, height);
  const given = JSON.parse(text);
  const isObject = typeof given === "object" && given !== null && !Array.isArray(given);
  if (!isObject) throw new Error(t("A drawing is a JSON object."));
  const version = given.version ?? FIRST_VERSION;
  const isKnown = Number.isInteger(version) && version >= FIRST_VERSION && version <= VERSION;
  if (!isKnown) throw new Error(t("Version {} is not supported: update Fovea.", version));
  const sides = [[width, given.width], [height, given.height]];
  const size = sides.map(([usual, side]) => numberOr(usual, Math.round(side), 16, 4096));
  const drawing = blank(...size);
  drawing.prompt = textOf(given.prompt, MAX_WHOLE_LENGTH);
  const entries = entriesOf(given.regions);
  const masks = await readMasks(entries, drawing);
  for (const { id, entry } of entries) drawing.rows.push(rowFrom(id, entry, drawing, masks.get(id) ?? null));
  return drawing;
}

/** What should be a list of rows, with their ids. One without an id of its own gets a free one. */
function entriesOf(regions) {
  const entries = listOf(regions, MAX_ROWS), ids = entries.map((entry) => (isId(entry?.id) ? entry.id : null));
  const taken = new Set(ids);
  return entries.map((entry, at) => {
    const isOwn = ids[at] !== null && ids.indexOf(ids[at]) === at; // of several with one id the first has it
    const id = isOwn ? ids[at] : freeId(taken, at + 1);
    taken.add(id);
    return { id, entry };
  });
}

const isId = (id) => Number.isInteger(id) && id > 0 && id < 256;

function rowFrom(id, entry, drawing, mask) {
  const color = /^#[0-9a-f]{6}$/i.test(entry?.color) ? entry.color.toLowerCase() : freshColor(drawing.rows);
  return {
    id, color,
    prompt: textOf(entry?.prompt, MAX_PROMPT_LENGTH),
    negative_prompt: textOf(entry?.negative_prompt, MAX_PROMPT_LENGTH),
    strength: numberOr(1, entry?.strength, 0, 10),
    start_percent: numberOr(0, entry?.start_percent, 0, 1),
    end_percent: numberOr(1, entry?.end_percent, 0, 1),
    is_color_of_object: entry?.is_color_of_object === true,
    loras: listOf(entry?.loras, MAX_LORAS).map(loraFrom).filter((lora) => lora.name),
    hidden: entry?.hidden === true,
    ...placed(drawing, mask, listOf(entry?.shapes, MAX_SHAPES).map(shapeFrom).filter(Boolean)),
  };
}

function loraFrom(lora) {
  return { name: textOf(lora?.name, MAX_LORA_LENGTH), strength: numberOr(1, lora?.strength, -20, 20) };
}

function shapeFrom(shape) {
  const isKnown = shape?.kind === "rectangle" || shape?.kind === "ellipse";
  const box = [shape?.x, shape?.y, shape?.width, shape?.height];
  if (!isKnown || !box.every(Number.isFinite)) return null;
  return { kind: shape.kind, box: box.map((value, at) => limited(value, at < 2 ? -MAX_EDGE : 0, MAX_EDGE)) };
}

/** Masks by the ids of rows. */
async function readMasks(entries, { width, height }) {
  const masks = new Map(), painted = entries.filter(({ entry }) => typeof entry?.mask === "string" && entry.mask);
  if (painted.length * width * height > MAX_VALUES) throw new Error(t("The masks are too large."));
  for (const { id, entry } of painted) {
    const pixels = await unpacked(entry.mask, width, height);
    const valueAt = (_, at) => Math.round((lumaAt(pixels, 4 * at) * pixels[4 * at + 3]) / 255);
    masks.set(id, Uint8Array.from({ length: width * height }, valueAt));
  }
  return masks;
}

/** Pixels from a PNG's data URL, without the browser changing colors. */
async function unpacked(url, width, height) {
  const match = /^data:image\/png;base64,([A-Za-z0-9+/=]*)$/.exec(url);
  if (!match) throw new Error(t("The mask is not a PNG data URL."));
  const bytes = Uint8Array.from(atob(match[1]), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer); // its header tells the size before anything is decoded
  const isPng = bytes.length > 26 && view.getUint32(0) === 0x89504e47 && view.getUint32(12) === 0x49484452;
  if (!isPng || view.getUint32(16) !== width || view.getUint32(20) !== height) {
    throw new Error(t("The mask and the drawing differ in size."));
  }
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }), options);
  const pixels = pixelsOf(bitmap, width, height);
  bitmap.close();
  return pixels;
}
