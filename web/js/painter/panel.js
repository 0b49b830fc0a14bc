/** The painter's panel: all of its views in their order. */

import { element } from "./elements.js";
import { fullScreen } from "./full.js";
import { press, release } from "./keys.js";
import { noteLine } from "./note.js";
import { promptBox } from "./prompt_box.js";
import { rowList } from "./rows.js";
import { Stage } from "./stage.js";
import { style } from "./style.js";
import { pictureBar, promptBar, toolBar } from "./toolbar.js";
import { listBackgrounds } from "./workspace.js";

export class Panel {
  /** keepFromGraph(event): a key is the painter's undo, and not the graph's. */
  constructor(store, keepFromGraph) {
    const onKey = (event) => press(store, event, keepFromGraph);
    this.store = store;
    this.stage = new Stage(store);
    const panel = element(
      "div", { className: "fovea-panel", "data-capture-wheel": "true" }, toolBar(store), this.stage.element,
      pictureBar(store), rowList(store), promptBar(store), promptBox(store), noteLine(store),
    ); // prettier-ignore
    panel.addEventListener("keydown", onKey);
    panel.addEventListener("keyup", (event) => release(store, event));
    panel.addEventListener("wheel", (event) => event.stopPropagation()); // lists scroll, the graph stays
    this.root = element("div", { className: "fovea-painter" }, style(), panel);
    this.full = fullScreen(store, { place: this.root, panel, focused: this.stage.element, onKey });
    listBackgrounds(store);
  }

  dispose() {
    this.store.dispose();
    this.stage.dispose();
    this.full.dispose();
  }
}
