/** The stage: the paper with the painting, the picture behind it and outlines over it. */

import { importPicture } from "./actions.js";
import { element, svg } from "./elements.js";
import { colorTable } from "./pictures.js";
import { Pointers } from "./pointers.js";
import { t } from "./texts.js";
import { backgroundUrl, zoomBy } from "./workspace.js";

const NO_DRAWING = "Choose a region's color, paint its place, queue.";
const OPACITY = 190; // of what is painted, so that the picture behind shows

export class Stage {
  constructor(store) {
    this.store = store;
    this.build();
    this.listen();
    new Pointers(store, this);
    this.observer = new ResizeObserver(() => this.place());
    this.observer.observe(this.element);
    store.subscribe((changed, detail) => this.update(changed, detail));
    this.update("drawing");
  }

  build() {
    this.behind = element("img", { alt: "", hidden: true });
    this.surface = element("canvas");
    this.paper = element("div", { className: "fovea-paper" }, this.behind, this.surface);
    this.lines = svg("svg", { class: "fovea-outline", "aria-hidden": "true", preserveAspectRatio: "none" });
    this.hint = element("div", { className: "fovea-hint", textContent: t(NO_DRAWING) });
    const keys = t("Painting. Keys: B, E, R, O, L, P, G, V choose tools, brackets the size, digits a region.");
    this.element = element(
      "div",
      { className: "fovea-stage", tabIndex: 0, role: "application", "data-capture-wheel": "true", "aria-label": keys },
      this.paper, this.lines, this.hint,
    ); // prettier-ignore
  }

  listen() {
    const on = (name, action) => this.element.addEventListener(name, action);
    on("contextmenu", (event) => {
      event.preventDefault();
      event.stopPropagation(); // the node's menu
    });
    on("mouseup", (event) => event.stopPropagation()); // the graph's undo would keep a stroke that is not written yet
    on("wheel", (event) => {
      event.preventDefault();
      event.stopPropagation();
      zoomBy(this.store, Math.exp(-event.deltaY / 400), this.fromCenter(event.clientX, event.clientY));
    });
    on("dragover", (event) => event.preventDefault());
    on("drop", (event) => {
      event.preventDefault();
      event.stopPropagation();
      if (event.dataTransfer.files[0]) importPicture(this.store, event.dataTransfer.files[0]);
    });
  }

  dispose() {
    this.observer.disconnect();
  }

  // --- showing ------------------------------------------------------------------------------------------------------

  update(changed, detail) {
    if (changed === "drawing") this.showDrawing();
    else if (changed === "pixels") this.paint(detail);
    else if (changed === "view") this.place();
    else if (changed === "backdrop") this.showBackground();
  }

  showDrawing() {
    const { width, height, rows } = this.store.drawing;
    if (this.surface.width !== width || this.surface.height !== height || !this.image) {
      Object.assign(this.surface, { width, height });
      this.context = this.surface.getContext("2d");
      this.image = this.context.createImageData(width, height);
      this.pixels = new Uint32Array(this.image.data.buffer);
      this.place();
    }
    this.paint({ x: 0, y: 0, width, height });
    this.hint.hidden = rows.length > 0;
  }

  /** Draw a part of the map. */
  paint(rect) {
    if (!rect) return;
    const { width, map } = this.store.drawing, { pixels } = this, table = this.colors();
    for (let y = rect.y; y < rect.y + rect.height; y++) {
      for (let at = y * width + rect.x, end = at + rect.width; at < end; at++) pixels[at] = table[map[at]];
    }
    this.context.putImageData(this.image, 0, 0, rect.x, rect.y, rect.width, rect.height);
  }

  /** The colors of the rows, which stay the same during a gesture. */
  colors() {
    const { rows } = this.store.drawing;
    if (this.colored !== rows) this.table = colorTable(rows, OPACITY);
    this.colored = rows;
    return this.table;
  }

  showBackground() {
    const url = backgroundUrl(this.store);
    this.behind.hidden = !url;
    if (url && this.behind.getAttribute("src") !== url) this.behind.src = url;
    this.behind.style.opacity = this.store.backdrop.percent / 100;
  }

  /** Show one outline over the paper, or none. */
  outline(shape = null) {
    this.lines.replaceChildren(...(shape ? [shape] : []));
  }

  // --- where things are ---------------------------------------------------------------------------------------------

  /** Put the paper where zoom and pan want it. */
  place() {
    const { drawing, view } = this.store, { width, height } = drawing;
    const room = { width: this.element.clientWidth, height: this.element.clientHeight };
    if (!room.width || !room.height) return;
    const scale = Math.min(room.width / width, room.height / height) * view.zoom;
    const x = (room.width - width * scale) / 2 + view.pan.x, y = (room.height - height * scale) / 2 + view.pan.y;
    const transform = `translate(${x}px, ${y}px) scale(${scale})`;
    Object.assign(this.paper.style, { width: `${width}px`, height: `${height}px`, transform });
    const seen = [-x / scale, -y / scale, room.width / scale, room.height / scale];
    this.lines.setAttribute("viewBox", seen.join(" "));
  }

  /** Where an event is on the paper, in the drawing's pixels. */
  at(event) {
    const rect = this.paper.getBoundingClientRect(), { width, height } = this.store.drawing;
    return {
      x: ((event.clientX - rect.left) / rect.width) * width,
      y: ((event.clientY - rect.top) / rect.height) * height,
    };
  }

  /** The drawing's pixels per pixel of the screen. */
  get resolution() {
    return this.store.drawing.width / this.paper.getBoundingClientRect().width;
  }

  /** The stage's own pixels per pixel of the screen: the graph has a zoom, too. */
  get shrink() {
    return this.element.clientWidth / this.element.getBoundingClientRect().width;
  }

  /** A point of the screen in pixels of the stage from its center. */
  fromCenter(x, y) {
    const { left, top, width, height } = this.element.getBoundingClientRect(), { shrink } = this;
    return { x: (x - left - width / 2) * shrink, y: (y - top - height / 2) * shrink };
  }
}
