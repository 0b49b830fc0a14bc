/** The regions' numbers and prompts on the paper, each where its region is widest. */

import { element } from "./elements.js";
import { IN, frontFirst } from "./places.js";

const STEPS = 64; // places that are looked at across the picture
const MIN_WIDTH = 72; // pixels of the stage that a tag may have wherever it is

export function nameTags(store) {
  const box = element("div", { className: "fovea-tags", "aria-hidden": "true" });
  let tags = [], view = { x: 0, y: 0, scale: 1 };

  function show() {
    const { rows } = store.drawing, places = widest(store.drawing);
    const tagOf = (row) => tag(row, rows.indexOf(row) + 1, row.id === store.chosen);
    tags = [...places].map(([row, place]) => ({ place, made: tagOf(row) }));
    box.replaceChildren(...tags.map(({ made }) => made));
    put();
  }

  function put() {
    for (const { place, made } of tags) {
      made.style.left = `${view.x + place.x * view.scale}px`;
      made.style.top = `${view.y + place.y * view.scale}px`;
      made.style.maxWidth = `${Math.max(MIN_WIDTH, place.width * view.scale - 6)}px`;
    }
  }

  store.subscribe((changed) => {
    if (changed === "drawing" || changed === "words" || changed === "choice") show();
  });
  /** Where the paper's corner is on the stage, and how large it is shown. */
  function placePaper(next) {
    view = next;
    put();
  }
  return { element: box, place: placePaper };
}

function tag(row, number, chosen) {
  const words = row.prompt ? `${number} ${row.prompt}` : number;
  const made = element("span", { className: "fovea-tag", textContent: words });
  made.style.setProperty("--fovea-color", row.color);
  made.dataset.chosen = chosen;
  return made;
}

/** The widest run of pixels that are seen of each row, nearest to its middle: {x, y, width}, by the row. */
function widest({ width, height, rows }) {
  const step = Math.max(1, Math.round(Math.max(width, height) / STEPS)), front = frontFirst(rows), runs = new Map();
  for (let y = step >> 1; y < height; y += step) {
    let last = null, start = 0;
    for (let x = step >> 1; x < width + step; x += step) {
      const row = x < width ? front.find(({ area }) => area[y * width + x] >= IN) ?? null : null;
      if (row === last) continue;
      if (last) runs.set(last, [...(runs.get(last) ?? []), { x: (start + x - step) / 2, y, width: x - start }]);
      last = row;
      start = x;
    }
  }
  const found = new Map();
  for (const [row, all] of runs) {
    const middle = all.reduce((sum, run) => sum + run.y * run.width, 0) / all.reduce((sum, run) => sum + run.width, 0);
    const worth = (run) => run.width - 0.5 * Math.abs(run.y - middle);
    found.set(row, all.reduce((best, run) => (worth(run) > worth(best) ? run : best)));
  }
  return found;
}
