/** Files that come in and go out. */

import { whyTooLarge } from "./drawing.js";
import { rowOf } from "./edits.js";
import { rowsWith, toMask, toPicture } from "./pictures.js";
import { t } from "./texts.js";

/** Take regions from files: a picture of flat colors adds to each row what has its color, one in black, white and gray
 *  becomes a row of its own. All of them are one step of undo. */
export async function importPictures(store, files) {
  const pictures = [], wrong = [];
  for (const file of files) {
    try {
      pictures.push([file, await createImageBitmap(file)]);
    } catch {
      wrong.push(t("{} is not an image.", file.name));
    }
  }
  store.cancel();
  let { drawing } = store, chosen = store.chosen;
  for (const [file, picture] of pictures) {
    const { name } = file, found = rowsWith(drawing, picture);
    const tooLarge = found && whyTooLarge({ ...drawing, rows: found.rows });
    picture.close();
    if (!found) wrong.push(t("{} is neither a mask nor a picture in flat colors. Use it as the background?", name));
    else if (!found.changed.length) wrong.push(t("No region was found in {}.", name));
    else if (tooLarge) wrong.push(tooLarge);
    else [drawing, chosen] = [{ ...drawing, rows: found.rows }, found.changed.at(-1)];
  }
  if (drawing !== store.drawing) {
    Object.assign(store, { chosen, shape: null });
    store.change({ rows: drawing.rows });
  }
  store.say(wrong.join(" "), wrong.length > 0);
}

export async function exportPicture(store) {
  download(await toPicture(store.drawing), "regions.png");
}

/** The whole place of a row, white on black. */
export async function exportMask(store, id) {
  const row = rowOf(store.drawing, id), name = row.prompt.trim().replace(/[^\p{L}\p{N}]+/gu, "_").slice(0, 60);
  download(await toMask(store.drawing, row), `${name || `region_${id}`}.png`);
}

function download(blob, name) {
  const url = URL.createObjectURL(blob), link = document.createElement("a");
  Object.assign(link, { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
