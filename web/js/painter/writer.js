/** The drawing's text, as the workflow keeps it. */

import { isPacked, pack, toText } from "./drawing.js";

export class Writer {
  /** onChange(settled): the text is another. onError(error): it could not be written. */
  constructor(onChange, onError) {
    this.text = "";
    this.ready = Promise.resolve(); // until the text is the drawing's
    this.texts = new WeakMap(); // of drawings, so that undo gives back the very same text
    this.unreadable = new WeakSet(); // drawings that are shown for texts that cannot be read
    this.onChange = onChange;
    this.onError = onError;
  }

  remember(drawing, text, isUnreadable = false) {
    this.texts.set(drawing, text);
    if (isUnreadable) this.unreadable.add(drawing);
  }

  /** A drawing at another size: a text that cannot be read stays in the workflow until somebody paints. */
  follow(before, after) {
    if (this.unreadable.has(before)) this.remember(after, this.texts.get(before), true);
  }

  /** Write a drawing's text. A new map is packed first, by the browser and within milliseconds; whoever cannot do with
   *  the text before awaits `ready`. isWanted(drawing): whether it is still the one to write by then. */
  write(drawing, settled, isWanted) {
    if (this.texts.has(drawing) || isPacked(drawing)) return this.finish(drawing, settled);
    this.ready = pack(drawing).then(() => isWanted(drawing) && this.finish(drawing, settled), this.onError);
  }

  finish(drawing, settled) {
    if (!this.texts.has(drawing)) this.texts.set(drawing, toText(drawing));
    this.text = this.texts.get(drawing);
    this.onChange(settled);
  }

  dispose() {
    this.onChange = () => {};
  }
}
