/** The rows' places in their colors, from back to front, on a canvas. Where the chosen row is covered by others or left
 *  out, stripes of its color show that it goes on there. */

import { rgb } from "./drawing.js";
import { IN, frontFirst } from "./places.js";

const STRIPES = 48; // across the picture
const STRIPE = 1 / 3; // of the way from one to the next

export class Painting {
  constructor(surface) {
    this.surface = surface;
    this.context = surface.getContext("2d");
    this.image = null;
  }

  /** Whether the size is another now. */
  fit(width, height) {
    if (this.image?.width === width && this.image.height === height) return false;
    Object.assign(this.surface, { width, height });
    this.image = this.context.createImageData(width, height);
    return true;
  }

  /** Draw a part of it; nothing without one. */
  show({ drawing, row: chosen, opacity }, rect = { x: 0, y: 0, width: drawing.width, height: drawing.height }) {
    if (!rect) return;
    const { width } = drawing, { data } = this.image, alpha = (opacity / 100) * 255;
    const rows = frontFirst(drawing.rows), colors = rows.map((row) => rgb(row.color));
    const own = chosen?.area, ownColor = own && rgb(chosen.color);
    const period = Math.max(6, Math.round(width / STRIPES)), stripe = period * STRIPE;
    for (let y = rect.y; y < rect.y + rect.height; y++) {
      for (let x = rect.x, at = y * width + x; x < rect.x + rect.width; x++, at++) {
        let r = 0, g = 0, b = 0, left = 255, front = null; // left: what those in front let through
        for (let n = 0; n < rows.length && left > 0; n++) {
          const value = rows[n].area[at];
          if (!value) continue;
          const share = (left * value) / 255, color = colors[n];
          r += color[0] * share;
          g += color[1] * share;
          b += color[2] * share;
          left -= share;
          if (value >= IN) front ??= rows[n];
        }
        let part = 255 - left;
        if (own && front !== chosen && own[at] >= IN && (x + y) % period < stripe) {
          r = ownColor[0] * 255;
          g = ownColor[1] * 255;
          b = ownColor[2] * 255;
          part = 255;
        }
        const to = 4 * at;
        data[to] = part ? r / part : 0;
        data[to + 1] = part ? g / part : 0;
        data[to + 2] = part ? b / part : 0;
        data[to + 3] = (part / 255) * alpha;
      }
    }
    this.context.putImageData(this.image, 0, 0, rect.x, rect.y, rect.width, rect.height);
  }
}
