/** What tools do to an index map: who owns every pixel. Plain functions on {width, height, map: Uint8Array}; 0 is
 *  nobody. Coordinates are pixels, fractions allowed. Each returns the rectangle that changed, or null. */

const clip = (value, low, high) => Math.min(Math.max(value, low), high);

function bounds(grid, left, top, right, bottom) {
  const x = clip(Math.floor(left), 0, grid.width), y = clip(Math.floor(top), 0, grid.height);
  const width = clip(Math.ceil(right), 0, grid.width) - x, height = clip(Math.ceil(bottom), 0, grid.height) - y;
  return width > 0 && height > 0 ? { x, y, width, height } : null;
}

/** Every pixel whose center is `inside` of a part of the map. only: pixels of this owner alone. */
function paintWhere(grid, rect, id, inside, only = null) {
  if (!rect) return null;
  for (let y = rect.y; y < rect.y + rect.height; y++) {
    let at = y * grid.width + rect.x;
    for (let x = rect.x; x < rect.x + rect.width; x++, at++) {
      if ((only === null || grid.map[at] === only) && inside(x + 0.5, y + 0.5)) grid.map[at] = id;
    }
  }
  return rect;
}

/** A round brush drawn from one point to another. */
export function stroke(grid, from, to, radius, id, only = null) {
  const dx = to.x - from.x, dy = to.y - from.y, length = dx * dx + dy * dy;
  const reach = Math.max(radius, 0.5), square = reach * reach;
  const rect = bounds(
    grid, Math.min(from.x, to.x) - reach, Math.min(from.y, to.y) - reach,
    Math.max(from.x, to.x) + reach, Math.max(from.y, to.y) + reach,
  );
  return paintWhere(grid, rect, id, (x, y) => {
    const along = length ? clip(((x - from.x) * dx + (y - from.y) * dy) / length, 0, 1) : 0;
    const a = x - from.x - along * dx, b = y - from.y - along * dy;
    return a * a + b * b <= square;
  }, only);
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

/** One owner's pixels moved by whole pixels. before: the map as it was when the move began. */
export function move(grid, before, id, dx, dy) {
  const { width, height, map } = grid;
  map.set(before);
  for (let at = 0; at < map.length; at++) if (map[at] === id) map[at] = 0;
  for (let y = 0; y < height; y++) {
    const to = y + dy;
    if (to < 0 || to >= height) continue;
    for (let x = 0; x < width; x++) {
      const there = x + dx;
      if (before[y * width + x] === id && there >= 0 && there < width) map[to * width + there] = id;
    }
  }
  return { x: 0, y: 0, width, height };
}

/** All of one owner's pixels given away. */
export function replace(grid, id, by = 0) {
  for (let at = 0; at < grid.map.length; at++) if (grid.map[at] === id) grid.map[at] = by;
  return { x: 0, y: 0, width: grid.width, height: grid.height };
}

/** The map at another size: each pixel from the nearest. */
export function resized(grid, width, height) {
  const map = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const row = Math.min(grid.height - 1, Math.floor(((y + 0.5) * grid.height) / height)) * grid.width;
    for (let x = 0; x < width; x++) {
      map[y * width + x] = grid.map[row + Math.min(grid.width - 1, Math.floor(((x + 0.5) * grid.width) / width))];
    }
  }
  return { width, height, map };
}
