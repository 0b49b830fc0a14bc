/** Undo and redo: whole states, the newest last. A drawing is never changed after it was kept. */

const MOST = 60;

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
    if (this.past.length > MOST) this.past.shift();
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
