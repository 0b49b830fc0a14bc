/** Undo and redo: whole states, the newest last. A drawing is never changed after it was kept. */

const MAX_STATES = 60, MAX_BYTES = 150e6;

export class History {
  constructor() {
    this.clear();
  }

  clear() {
    this.past = [];
    this.future = [];
  }

  /** Keep what was before a change. */
  keep(state) {
    this.past.push(state);
    while (this.past.length > MAX_STATES || (this.past.length > 4 && bytes(this.past) > MAX_BYTES)) this.past.shift();
    this.future = [];
  }

  /** The state before, given the present one; null where there is none. */
  back(present) {
    if (!this.past.length) return null;
    this.future.push(present);
    return this.past.pop();
  }

  forth(present) {
    if (!this.future.length) return null;
    this.past.push(present);
    return this.future.pop();
  }
}

/** What states hold; rows that did not change share their masks. */
function bytes(states) {
  const masks = new Set(states.flatMap(({ rows }) => rows.flatMap((row) => [row.mask, row.area])));
  return [...masks].reduce((sum, mask) => sum + (mask?.length ?? 0), 0);
}
