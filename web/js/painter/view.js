/** Zoom and pan of the stage. zoom: 1 shows all of the drawing. pan: from the center, in pixels of the stage. */

const MOST = 16;

export const WHOLE = { zoom: 1, pan: { x: 0, y: 0 } };

export function panned({ zoom, pan }, dx, dy) {
  return { zoom, pan: { x: pan.x + dx, y: pan.y + dy } };
}

/** Zoom so that one point stays in place. at: pixels of the stage from its center. */
export function zoomed(view, factor, at = { x: 0, y: 0 }) {
  const zoom = Math.min(Math.max(view.zoom * factor, 1), MOST), growth = zoom / view.zoom - 1;
  if (zoom === 1) return WHOLE;
  return panned({ zoom, pan: view.pan }, (view.pan.x - at.x) * growth, (view.pan.y - at.y) * growth);
}
