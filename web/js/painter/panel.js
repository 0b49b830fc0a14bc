/** The painter's panel: all of its views in their order. */

import { element } from "./elements.js";
import { fullScreen } from "./full.js";
import { press, release } from "./keys.js";
import { noteLine } from "./note.js";
import { promptBox } from "./prompt_box.js";
import { regionBar } from "./region_bar.js";
import { rowList } from "./rows.js";
import { Stage } from "./stage.js";
import { style } from "./style.js";
import { optionBar, pictureBar, toolBar } from "./toolbar.js";
import { listBackgrounds } from "./workspace.js";

const WIDE = 640; // from this width on the regions are beside the painting, as style.js has it
const PAPER = 376; // height of the painting and its bars, at least
const WORDS = 90; // of the bar over the regions and of the prompt under them
const ROW = 47, SETTINGS = 190, SHOWN_ROWS = 4; // of a region, of its settings, and how many are seen without scrolling

export class Panel {
  /** keepFromGraph(event): a key is the painter's undo, and not the graph's. onHeight(): minHeight is another. */
  constructor(store, keepFromGraph, onHeight) {
    const onKey = (event) => press(store, event, keepFromGraph);
    this.store = store;
    this.onHeight = onHeight;
    this.minHeight = 0;
    this.stage = new Stage(store);
    const paper = element(
      "div", { className: "fovea-left" }, toolBar(store), optionBar(store), this.stage.element, pictureBar(store),
    ); // prettier-ignore
    const words = element(
      "div", { className: "fovea-right" }, regionBar(store), rowList(store), promptBox(store), noteLine(store),
    ); // prettier-ignore
    // A click beside its buttons focuses it, and not the node around it, which Delete would remove.
    const about = { className: "fovea-panel", tabIndex: -1, "data-capture-wheel": "true" };
    const panel = element("div", about, paper, words);
    panel.addEventListener("keydown", onKey);
    panel.addEventListener("keyup", (event) => release(store, event));
    panel.addEventListener("wheel", (event) => event.stopPropagation()); // lists scroll, the graph stays
    this.root = element("div", { className: "fovea-painter" }, style(), panel);
    this.full = fullScreen(store, { place: this.root, panel, focused: this.stage.element, onKey });
    listBackgrounds(store);
    this.observer = new ResizeObserver(() => this.fit());
    this.observer.observe(this.root);
    store.subscribe((changed) => {
      if (changed === "drawing" || changed === "unfolded") this.fit();
    });
    this.fit();
  }

  /** How high the panel must be: the paper keeps its place, whatever is under it. */
  fit() {
    const { store } = this, isWide = this.root.clientWidth >= WIDE;
    const rows = Math.min(Math.max(store.drawing.rows.length, 1), SHOWN_ROWS) * ROW;
    const unfolded = store.drawing.rows.some((row) => row.id === store.unfolded) ? SETTINGS : 0;
    const next = isWide ? Math.max(PAPER, WORDS + ROW + unfolded) : PAPER + WORDS + rows + unfolded;
    this.root.style.setProperty("--fovea-rows", `${rows + unfolded}px`);
    if (next === this.minHeight) return;
    this.minHeight = next;
    this.root.style.minHeight = `${next}px`; // Nodes 2.0
    this.onHeight?.();
  }

  dispose() {
    this.store.dispose();
    this.stage.dispose();
    this.full.dispose();
    this.observer.disconnect();
  }
}
