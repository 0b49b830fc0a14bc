/** Halves and thirds of the picture attract the edges of shapes. Positions are pixels of the drawing. */

const LINES = [0, 1 / 3, 1 / 2, 2 / 3, 1];
const NEAR = 6; // pixels of the screen
const MOST = 0.015; // of the side: a small paper would be all lines

const reach = (side, resolution) => Math.min(NEAR * resolution, MOST * side);

/** How far the nearest line is from a position, 0 where none attracts it. */
function pull(position, side, resolution) {
  const ways = LINES.map((part) => part * side - position);
  const nearest = ways.reduce((best, way) => (Math.abs(way) < Math.abs(best) ? way : best));
  return Math.abs(nearest) <= reach(side, resolution) ? nearest : 0;
}

export function snapped({ width, height }, { x, y }, resolution) {
  return { x: x + pull(x, width, resolution), y: y + pull(y, height, resolution) };
}

/** Whether a position is on a line inside of the picture. */
export const isLine = (position, side) => LINES.slice(1, -1).some((part) => Math.abs(part * side - position) < 1e-6);

/** A move of shapes by whole pixels, so that an edge or the middle of the box around them lies on a line. */
export function snappedMove({ width, height }, shapes, dx, dy, resolution) {
  const along = (axis, side, by) => {
    const start = Math.min(...shapes.map(({ box }) => box[axis])) * side;
    const end = Math.max(...shapes.map(({ box }) => box[axis] + box[axis + 2])) * side;
    const pulls = [start, end, (start + end) / 2].map((at) => pull(at + by, side, resolution)).filter(Boolean);
    const nearest = pulls.length ? pulls.reduce((best, way) => (Math.abs(way) < Math.abs(best) ? way : best)) : 0;
    return Math.round(by + nearest);
  };
  return [along(0, width, dx), along(1, height, dy)];
}
