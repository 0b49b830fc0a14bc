/** The painter's state. Views subscribe, read what they show, and call actions: those here, those of regions in
 *  actions.js, those of tool and view in workspace.js. Nothing else changes it.
 *
 *  Subscribers are told what has changed:
 *  "drawing": any of it. "words": a prompt, while somebody types. "pixels": some of a place, with the rectangle that
 *  they are in, while somebody paints. "gesture": it has ended, or the open polygon is another. "choice": another row
 *  is chosen, or another shape of it. "steps": something else can be undone. "write here": a row was added, its prompt
 *  comes next. "loras": others may be offered. The rest are fields: "tool", "brush", "view", "backdrop", "full",
 *  "spaceHeld", "note", "unfolded", "snap", "opacity". */

import { blank, fromText, whyTooLarge } from "./drawing.js";
import * as edits from "./edits.js";
import { History } from "./history.js";
import { movedPlace, ownPlace } from "./places.js";
import { t } from "./texts.js";
import { WHOLE } from "./view.js";
import { Writer } from "./writer.js";

export class Store {
  /** onChange(settled): the text is another; not settled while somebody types. backgrounds() -> [{key, label, url}].
   *  loraNames() -> a promise of names. brush, opacity: to begin with. */
  constructor({ width, height, onChange, backgrounds, loraNames, brush, opacity }) {
    this.drawing = blank(width, height);
    this.chosen = null; // the id of a row
    this.shape = null; // which of its shapes has handles: a number
    this.unfolded = null; // the row whose settings are shown: an id
    this.tool = "brush";
    this.brush = brush; // its radius in pixels, its hardness in percent
    this.snap = true; // shapes to halves and thirds
    this.opacity = opacity; // of what is painted, in percent
    this.view = WHOLE;
    this.backdrop = { offered: [], files: [], key: "", percent: 60 };
    this.full = false;
    this.note = { text: "", wrong: false };
    this.corners = []; // of a polygon that is not closed yet
    this.before = null; // the drawing before the gesture under way
    this.spaceHeld = false;
    this.history = new History();
    this.typedFrom = null; // the drawing when a text field got the focus
    this.stretchedFrom = null; // the drawing before its size changed, so that several changes lose nothing
    this.loading = null; // the size that the drawing shall have once it is read
    this.backgrounds = backgrounds;
    this.loraNames = loraNames;
    this.subscribers = [];
    this.writer = new Writer(onChange, (error) => this.say(t("The drawing cannot be saved: {}", error.message), true));
  }

  subscribe(subscriber) {
    this.subscribers.push(subscriber);
  }

  /** Set fields of the state that are not the drawing's. */
  set(fields, changed) {
    Object.assign(this, fields);
    this.notify(changed);
  }

  notify(changed, detail) {
    for (const subscriber of this.subscribers) subscriber(changed, detail);
  }

  say(text, wrong = false) {
    this.set({ note: { text, wrong } }, "note");
  }

  // --- the text -----------------------------------------------------------------------------------------------------

  get text() {
    return this.writer.text;
  }

  /** Resolves when the text is the drawing's. */
  get ready() {
    return this.writer.ready;
  }

  /** Show another drawing: a loaded workflow, an undo of the graph. What is done until it is read is lost. */
  async setText(text, width, height) {
    const wanted = text ?? "", shown = this.loading ?? this.drawing;
    const fits = width === shown.width && height === shown.height;
    if (wanted === this.text && (wanted || fits)) return;
    this.cancel();
    this.writer.text = wanted;
    const size = (this.loading = { width, height });
    const { drawing, error } = await fromText(wanted, width, height).then(
      (read) => ({ drawing: read }),
      (failed) => ({ drawing: blank(width, height), error: failed }),
    );
    if (this.loading !== size) return; // a later one came meanwhile
    this.cancel();
    this.loading = null;
    this.say(error ? t("The drawing cannot be read: {}", error.message) : "", !!error);
    this.drawing = drawing;
    this.writer.remember(drawing, wanted, !!error);
    this.stretchedFrom = null;
    this.history.clear();
    this.keepChoice();
    this.notify("drawing");
    this.resize(size.width, size.height);
    this.typedFrom = this.drawing; // a field may have the focus
  }

  /** Have the text written. Of a gesture under way it holds nothing yet. While another drawing is read, its text is the
   *  one to keep. */
  write(settled = true) {
    const isWanted = (drawing) => !this.loading && drawing === (this.before ?? this.drawing);
    if (!this.loading) this.writer.write(this.drawing, settled, isWanted);
  }

  // --- changes ------------------------------------------------------------------------------------------------------

  /** Change fields of the drawing: one step of undo. */
  change(next) {
    this.cancel();
    const before = this.drawing;
    this.history.keep(before);
    this.drawing = { ...before, ...next };
    this.keepShape();
    this.keepStretch(before);
    this.write();
    this.notify("drawing");
  }

  undo() {
    if (!this.cancel()) this.restore(this.history.back(this.drawing));
  }

  redo() {
    if (!this.cancel()) this.restore(this.history.forth(this.drawing));
  }

  /** Show a state of the history, in the size that the picture has now if it is not too large then. */
  restore(state) {
    if (!state) return;
    const { width, height } = this.drawing;
    const isOfSize = state.width === width && state.height === height;
    const stays = isOfSize || whyTooLarge({ ...state, width, height });
    this.drawing = stays ? state : edits.resized(state, { width, height });
    this.writer.follow(state, this.drawing);
    this.stretchedFrom = null;
    this.keepChoice();
    this.write();
    this.notify("drawing");
  }

  /** The picture's size has changed: what is painted is stretched. What would be too large then stays as it is; the
   *  server stretches it. */
  resize(width, height) {
    if (this.loading) return void Object.assign(this.loading, { width, height });
    if (width === this.drawing.width && height === this.drawing.height) return;
    this.cancel();
    const before = this.drawing, tooLarge = whyTooLarge({ ...before, width, height });
    if (tooLarge) return this.say(tooLarge, true);
    this.stretchedFrom ??= before;
    const stretched = edits.resized(this.stretchedFrom, { width, height }).rows;
    const rows = before.rows.map((row, at) => {
      const { mask, shapes, area } = stretched[at];
      return { ...row, mask, shapes, area };
    });
    this.drawing = { ...before, width, height, rows };
    this.writer.follow(before, this.drawing);
    this.write(false);
    this.notify("drawing");
  }

  /** What was stretched is painted differently now: a later size starts from here. */
  keepStretch(before) {
    if (!edits.isInPlace(before, this.drawing)) this.stretchedFrom = null;
  }

  // --- typing: the text follows every letter, undo takes back all of a field -----------------------------------------

  startTyping() {
    this.drop();
    this.typedFrom = this.drawing;
  }

  typePrompt(prompt) {
    this.type(() => ({ prompt }));
  }

  /** next: texts of a row. */
  typeInRow(id, next) {
    this.type((drawing) => edits.rowChanged(drawing, id, next));
  }

  type(edit) {
    this.drop();
    this.drawing = { ...this.drawing, ...edit(this.drawing) };
    this.write(false);
    this.notify("words");
  }

  endTyping() {
    if (this.typedFrom && this.typedFrom !== this.drawing) {
      this.history.keep(this.typedFrom);
      this.writer.onChange(true);
    }
    this.typedFrom = this.drawing;
    this.notify("steps");
  }

  // --- the chosen row ------------------------------------------------------------------------------------------------

  get row() {
    return edits.rowOf(this.drawing, this.chosen);
  }

  /** shape: which of the row's shapes. A gesture keeps its row: while there is one, no other is chosen. */
  choose(id, shape = null) {
    if (this.before || (id === this.chosen && shape === this.shape)) return;
    this.set({ chosen: id, shape }, "choice");
  }

  /** The chosen row stays, as long as it is there. */
  keepChoice(rows = this.drawing.rows) {
    if (rows.some((row) => row.id === this.chosen)) return this.keepShape();
    this.chosen = rows.at(-1)?.id ?? null;
    this.shape = null;
  }

  keepShape() {
    if (!this.row?.shapes[this.shape]) this.shape = null;
  }

  // --- painting: a gesture of the pointer is one step of undo, and can be taken back until it ends -----------------

  /** From now on paint() and place() work on the chosen row, or on one that comes with it, until settle() or cancel().
   *  isErased: something will be taken from it. */
  begin({ row = null, isErased = false } = {}) {
    this.before ??= this.drawing;
    if (row) {
      this.chosen = row.id;
      this.shape = null;
      this.drawing = { ...this.drawing, ...edits.rowAdded(this.drawing, row) };
    }
    const place = ownPlace(this.drawing, this.row, isErased);
    this.drawing = { ...this.drawing, ...edits.rowChanged(this.drawing, this.chosen, place) };
    if (isErased) this.keepShape();
  }

  /** shape(grid) changes a map of the chosen row in place and returns the rectangle that changed, or null. */
  paint(shape) {
    const { width, height } = this.drawing, { mask, area } = this.row;
    const rect = shape({ width, height, map: mask });
    if (area !== mask) shape({ width, height, map: area });
    this.notify("pixels", rect);
  }

  /** Put the chosen row somewhere else. rect: what of the paper that changes, all of it if not given. */
  place(place, rect = { x: 0, y: 0, width: this.drawing.width, height: this.drawing.height }) {
    this.drawing = { ...this.drawing, ...edits.rowChanged(this.drawing, this.chosen, place) };
    this.notify("pixels", rect);
  }

  /** Move the chosen row from where it was when the gesture began. */
  moveFrom(dx, dy) {
    this.place(movedPlace(this.drawing, edits.rowOf(this.before, this.chosen), dx, dy));
  }

  /** The gesture is over. A row that came with it and has no place, as by a click beside the paper, goes with it. */
  settle() {
    const { before } = this, isNew = !edits.rowOf(before, this.chosen), tooLarge = whyTooLarge(this.drawing);
    if (tooLarge) this.say(tooLarge, true);
    if (tooLarge || (isNew && !this.row.area.some((value) => value))) return this.drop();
    this.before = null;
    this.notify("gesture");
    if (edits.isSame(before, this.drawing)) {
      this.drawing = before;
    } else {
      this.history.keep(before);
      this.keepStretch(before);
      this.write();
    }
    this.notify("drawing");
  }

  /** Take back the gesture under way, if there is one. */
  drop() {
    if (!this.before) return;
    this.drawing = this.before;
    this.before = null;
    if (!this.row) this.chosen = null;
    this.keepShape();
    this.notify("gesture");
    this.notify("drawing");
  }

  /** Take back the gesture under way, or forget the open polygon. Returns whether there was one. */
  cancel() {
    const isAny = this.before !== null || this.corners.length > 0;
    this.drop();
    if (this.corners.length) this.set({ corners: [] }, "gesture");
    return isAny;
  }

  /** Nothing is heard of it any more. */
  dispose() {
    this.subscribers = [];
    this.writer.dispose();
  }
}
