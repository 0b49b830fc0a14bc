/** The painter's state. Views subscribe, read what they show, and call actions: those here, those of regions in
 *  actions.js, those of tool and view in workspace.js. Nothing else changes it.
 *
 *  Subscribers are told what has changed:
 *  "drawing": any of it. "words": a prompt, while somebody types. "pixels": some of the map, with the
 *  rectangle that they are in, while somebody paints. "gesture": it has ended, or the open polygon is another.
 *  "choice": another row is chosen. "steps": something else can be undone. The others are fields: "tool", "radius",
 *  "view", "backdrop", "full", "spaceHeld", "note". */

import { blank, fromText } from "./drawing.js";
import * as edits from "./edits.js";
import { History } from "./history.js";
import * as shapes from "./shapes.js";
import { t } from "./texts.js";
import { WHOLE } from "./view.js";
import { Writer } from "./writer.js";

export class Store {
  /** onChange(settled): the text is another; not settled while somebody types. backgrounds() -> [{key, label, url}]. */
  constructor({ width, height, onChange, backgrounds }) {
    this.drawing = blank(width, height);
    this.chosen = null; // the id of a row
    this.tool = "brush";
    this.radius = 24;
    this.view = WHOLE;
    this.backdrop = { offered: [], key: "", percent: 60 };
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
    this.subscribers = [];
    this.writer = new Writer(onChange, (error) => this.say(t("The drawing cannot be kept: {}", error.message), true));
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

  /** Show another drawing: a loaded workflow, an undo of the graph. */
  async setText(text, width, height) {
    const wanted = text ?? "";
    const fits = width === this.drawing.width && height === this.drawing.height;
    if (wanted === this.text && (wanted || fits)) return;
    this.cancel();
    this.writer.text = wanted;
    this.loading = { width, height };
    const { drawing, error } = await fromText(wanted, width, height).then(
      (read) => ({ drawing: read }),
      (failed) => ({ drawing: blank(width, height), error: failed }),
    );
    if (this.text !== wanted) return; // a later one came meanwhile
    this.say(error ? t("The drawing cannot be read: {}", error.message) : "", !!error);
    this.drawing = drawing;
    this.writer.remember(drawing, wanted); // an unreadable one stays in the workflow until somebody paints
    const size = this.loading;
    this.loading = null;
    this.stretchedFrom = null;
    this.history.clear();
    this.keepChoice();
    this.notify("drawing");
    if (this.drawing.rows.length) this.resize(size.width, size.height);
  }

  /** Have the text written. Of a gesture under way it holds nothing yet. */
  write(settled = true) {
    this.writer.write(this.drawing, settled, (drawing) => drawing === (this.before ?? this.drawing));
  }

  // --- changes ------------------------------------------------------------------------------------------------------

  /** Change fields of the drawing: one step of undo. */
  change(next) {
    this.cancel();
    this.history.keep(this.drawing);
    this.drawing = { ...this.drawing, ...next };
    if (next.map) this.stretchedFrom = null;
    this.write();
    this.notify("drawing");
  }

  undo() {
    if (!this.cancel()) this.restore(this.history.back(this.drawing));
  }

  redo() {
    if (!this.cancel()) this.restore(this.history.forth(this.drawing));
  }

  /** Show a state of the history, in the size that the picture has now. */
  restore(state) {
    if (!state) return;
    const { width, height } = this.drawing;
    const fits = state.width === width && state.height === height;
    this.drawing = fits ? state : { ...state, ...shapes.resized(state, width, height) };
    this.stretchedFrom = null;
    this.keepChoice();
    this.write();
    this.notify("drawing");
  }

  /** The picture's size has changed: what is painted is stretched. */
  resize(width, height) {
    if (this.loading) return void (this.loading = { width, height });
    if (width === this.drawing.width && height === this.drawing.height) return;
    this.cancel();
    this.stretchedFrom ??= this.drawing;
    this.drawing = { ...this.drawing, ...shapes.resized(this.stretchedFrom, width, height) };
    this.write(false);
    this.notify("drawing");
  }

  // --- typing: the text follows every letter, undo takes back all of a field -----------------------------------------

  startTyping() {
    this.typedFrom = this.drawing;
  }

  typePrompt(prompt) {
    this.type({ prompt });
  }

  typeRowPrompt(id, prompt) {
    this.type(edits.rowChanged(this.drawing, id, { prompt }));
  }

  type(next) {
    this.drawing = { ...this.drawing, ...next };
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

  choose(id) {
    this.set({ chosen: id }, "choice");
  }

  /** The chosen row stays, as long as it is there. */
  keepChoice(rows = this.drawing.rows) {
    if (!rows.some((row) => row.id === this.chosen)) this.chosen = rows[0]?.id ?? null;
  }

  // --- painting: a gesture of the pointer is one step of undo, and can be taken back until it ends -----------------

  /** From now on paint() works on a copy, until settle() or cancel(). A row that it needs comes with it. */
  begin(row = null) {
    this.before ??= this.drawing;
    if (row) this.chosen = row.id;
    this.drawing = edits.copied(row ? { ...this.drawing, ...edits.rowAdded(this.drawing, row) } : this.drawing);
  }

  /** shape(drawing) changes the map in place and returns the rectangle that changed, or null. */
  paint(shape) {
    this.notify("pixels", shape(this.drawing));
  }

  /** The gesture is over. */
  settle() {
    const { before } = this;
    this.before = null;
    this.notify("gesture");
    this.painted(before);
  }

  /** Paint without a gesture, at once. */
  paintOnce(shape) {
    const before = this.drawing;
    this.drawing = edits.copied(before);
    shape(this.drawing);
    this.painted(before);
  }

  /** Keep what was before something was painted, if that changed anything. */
  painted(before) {
    if (edits.isSame(before, this.drawing)) {
      this.drawing = before;
    } else {
      this.history.keep(before);
      this.stretchedFrom = null;
      this.write();
    }
    this.notify("drawing");
  }

  /** Take back the gesture under way, or forget the open polygon. Returns whether there was one. */
  cancel() {
    if (!this.before && !this.corners.length) return false;
    this.drawing = this.before ?? this.drawing;
    if (!this.drawing.rows.some((row) => row.id === this.chosen)) this.chosen = null;
    this.before = null;
    this.corners = [];
    this.notify("gesture");
    this.notify("drawing");
    return true;
  }

  /** Nothing is heard of it any more. */
  dispose() {
    this.subscribers = [];
    this.writer.dispose();
  }
}
