/** What tools do to a map of numbers: a mask, 0..255 of what is painted, or who owns each pixel. Plain functions on
 *  {width, height, map}. Coordinates are pixels, fractions allowed. Each returns the rectangle that changed, or null.
 */

const clip = (value, low, high) => Math.min(Math.max(value, low), high);

/** The pixels between edges, those beside the grid left out; null for none. */
export function bounds(grid, left, top, right, bottom) {
  const x = clip(Math.floor(left), 0, grid.width), y = clip(Math.floor(top), 0, grid.height);
  const width = clip(Math.ceil(right), 0, grid.width) - x, height = clip(Math.ceil(bottom), 0, grid.height) - y;
  return width > 0 && height > 0 ? { x, y, width, height } : null;
}

/** Every pixel whose center is `inside` of a part of the map. */
function paintWhere(grid, rect, value, inside) {
  if (!rect) return null;
  for (let y = rect.y; y < rect.y + rect.height; y++) {
    let at = y * grid.width + rect.x;
    for (let x = rect.x; x < rect.x + rect.width; x++, at++) if (inside(x + 0.5, y + 0.5)) grid.map[at] = value;
  }
  return rect;
}

const LEVELS = 15; // of soft edges, so that a mask's PNG has four bits a pixel

/** A round brush drawn from one point to another. hardness: the part of its radius up to which it is full, 1 for all.
 *  A soft one only ever adds to what is painted, or with value 0 takes from it. */
export function stroke(grid, from, to, radius, value, hardness = 1) {
  const dx = to.x - from.x, dy = to.y - from.y, length = dx * dx + dy * dy;
  const reach = Math.max(radius, 0.5), square = reach * reach;
  const rect = bounds(
    grid, Math.min(from.x, to.x) - reach, Math.min(from.y, to.y) - reach,
    Math.max(from.x, to.x) + reach, Math.max(from.y, to.y) + reach,
  );
  const distance = (x, y) => {
    const along = length ? clip(((x - from.x) * dx + (y - from.y) * dy) / length, 0, 1) : 0;
    const a = x - from.x - along * dx, b = y - from.y - along * dy;
    return a * a + b * b;
  };
  if (hardness >= 1) return paintWhere(grid, rect, value, (x, y) => distance(x, y) <= square);
  return soften(grid, rect, value, (x, y) => {
    const part = (Math.sqrt(distance(x, y)) / reach - hardness) / (1 - hardness);
    return part >= 1 ? 0 : part <= 0 ? 1 : 1 - part * part * (3 - 2 * part);
  });
}

function soften(grid, rect, value, strengthAt) {
  if (!rect) return null;
  for (let y = rect.y; y < rect.y + rect.height; y++) {
    let at = y * grid.width + rect.x;
    for (let x = rect.x; x < rect.x + rect.width; x++, at++) {
      const level = Math.round(strengthAt(x + 0.5, y + 0.5) * LEVELS) * (255 / LEVELS);
      grid.map[at] = value ? Math.max(grid.map[at], level) : Math.min(grid.map[at], 255 - level);
    }
  }
  return rect;
}

export function rectangle(grid, a, b, id) {
  const rect = bounds(
    grid, Math.round(Math.min(a.x, b.x)), Math.round(Math.min(a.y, b.y)),
    Math.round(Math.max(a.x, b.x)), Math.round(Math.max(a.y, b.y)),
  );
  return paintWhere(grid, rect, id, () => true);
}

/** The ellipse that fills the rectangle between two corners. */
export function ellipse(grid, a, b, id) {
  const x = (a.x + b.x) / 2, y = (a.y + b.y) / 2, rx = Math.abs(a.x - b.x) / 2, ry = Math.abs(a.y - b.y) / 2;
  if (rx < 0.5 || ry < 0.5) return null;
  const rect = bounds(grid, x - rx, y - ry, x + rx, y + ry);
  return paintWhere(grid, rect, id, (px, py) => ((px - x) / rx) ** 2 + ((py - y) / ry) ** 2 <= 1);
}

/** The inside of a closed line of points, even-odd. */
export function polygon(grid, points, id) {
  if (points.length < 3) return null;
  const xs = points.map((p) => p.x), ys = points.map((p) => p.y);
  const rect = bounds(grid, Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys));
  if (!rect) return null;
  for (let y = rect.y; y < rect.y + rect.height; y++) {
    const middle = y + 0.5, crossings = [];
    points.forEach((p, i) => {
      const q = points[(i + 1) % points.length];
      if (p.y <= middle !== q.y <= middle) crossings.push(p.x + ((middle - p.y) / (q.y - p.y)) * (q.x - p.x));
    });
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const from = clip(Math.ceil(crossings[i] - 0.5), 0, grid.width);
      const to = clip(Math.ceil(crossings[i + 1] - 0.5), 0, grid.width);
      grid.map.fill(id, y * grid.width + from, y * grid.width + to);
    }
  }
  return rect;
}

/** The connected pixels of one owner around a point get another: the bucket. */
export function fill(grid, point, id) {
  const { width, height, map } = grid, x0 = Math.floor(point.x), y0 = Math.floor(point.y);
  if (x0 < 0 || y0 < 0 || x0 >= width || y0 >= height) return null;
  const old = map[y0 * width + x0];
  if (old === id) return null;
  const open = [y0 * width + x0];
  let left = x0, right = x0, top = y0, bottom = y0;
  while (open.length) {
    let at = open.pop();
    if (map[at] !== old) continue;
    const y = Math.floor(at / width), start = y * width;
    while (at > start && map[at - 1] === old) at--;
    let above = false, below = false;
    top = Math.min(top, y);
    bottom = Math.max(bottom, y);
    left = Math.min(left, at - start);
    for (; at < start + width && map[at] === old; at++) {
      map[at] = id;
      const up = y > 0 && map[at - width] === old, down = y < height - 1 && map[at + width] === old;
      if (up && !above) open.push(at - width);
      if (down && !below) open.push(at + width);
      above = up;
      below = down;
    }
    right = Math.max(right, at - 1 - start);
  }
  return { x: left, y: top, width: right - left + 1, height: bottom - top + 1 };
}

/** A map moved by whole pixels, as a new one. */
export function moved({ width, height, map }, dx, dy) {
  const next = new Uint8Array(map.length), from = Math.max(0, -dx), to = Math.min(width, width - dx);
  for (let y = Math.max(0, -dy); y < Math.min(height, height - dy) && from < to; y++) {
    next.set(map.subarray(y * width + from, y * width + to), (y + dy) * width + from + dx);
  }
  return next;
}

/** A map at another size, as a new one: each pixel from the nearest. */
export function resized(grid, width, height) {
  const map = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const row = Math.min(grid.height - 1, Math.floor(((y + 0.5) * grid.height) / height)) * grid.width;
    for (let x = 0; x < width; x++) {
      map[y * width + x] = grid.map[row + Math.min(grid.width - 1, Math.floor(((x + 0.5) * grid.width) / width))];
    }
  }
  return map;
}
