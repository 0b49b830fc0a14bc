/** The stage: the paper with the painting, the picture behind it and outlines over it. */

import { HANDED } from "./before_editor.js";
import { element, svg } from "./elements.js";
import * as handles from "./handles.js";
import { importPictures } from "./importing.js";
import { nameTags } from "./name_tags.js";
import { Painting } from "./painting.js";
import { canvas } from "./pixels.js";
import { Pointers } from "./pointers.js";
import { t } from "./texts.js";
import { backgroundUrl, holdSpace, zoomBy } from "./workspace.js";

const NO_DRAWING = "Paint anywhere to start a region, then say what should be there.";

export class Stage {
  constructor(store) {
    this.store = store;
    this.scale = 1; // pixels of the stage per pixel of the drawing
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
    this.painting = new Painting(this.surface);
    this.selected = svg("g");
    this.outlines = svg("g");
    this.lines = svg(
      "svg", { class: "fovea-outline", "aria-hidden": "true", preserveAspectRatio: "none" },
      this.selected, this.outlines,
    ); // prettier-ignore
    this.tags = nameTags(this.store);
    this.hint = element("div", { className: "fovea-hint", textContent: t(NO_DRAWING) });
    const keys = t(
      "Canvas. Keys: B, E, R, O, L, P, G, V, I choose a tool, brackets change the size, digits choose a region.",
    );
    this.element = element(
      "div", { className: "fovea-stage", tabIndex: 0, role: "application", "aria-label": keys },
      this.paper, this.tags.element, this.lines, this.hint,
    ); // prettier-ignore
  }

  listen() {
    const on = (name, action) => this.element.addEventListener(name, action);
    on("contextmenu", (event) => {
      event.preventDefault();
      event.stopPropagation(); // the node's menu
    });
    on("mouseup", (event) => event.stopPropagation()); // the graph's undo would keep a stroke that is not written yet
    on("blur", () => holdSpace(this.store, false)); // nobody hears of the key's end then
    on(`${HANDED}wheel`, (event) => {
      zoomBy(this.store, Math.exp(-event.deltaY / 400), this.fromCenter(event.clientX, event.clientY));
    });
    on("dragover", (event) => event.preventDefault());
    on("drop", (event) => {
      event.preventDefault();
      event.stopPropagation();
      if (event.dataTransfer.files.length) importPictures(this.store, [...event.dataTransfer.files]);
    });
  }

  dispose() {
    this.observer.disconnect();
  }

  // --- showing ------------------------------------------------------------------------------------------------------

  update(changed, detail) {
    if (changed === "drawing") this.showDrawing();
    else if (changed === "pixels") this.painting.show(this.store, detail);
    else if (changed === "choice" || changed === "opacity") this.painting.show(this.store);
    else if (changed === "view") this.place();
    else if (changed === "backdrop") this.showBackground();
    if (["drawing", "choice", "tool", "pixels"].includes(changed)) this.showHandles();
  }

  showDrawing() {
    const { width, height, rows } = this.store.drawing;
    if (this.painting.fit(width, height)) this.place();
    this.painting.show(this.store);
    this.hint.hidden = rows.length > 0;
  }

  showHandles() {
    this.selected.replaceChildren(...handles.drawn(this.store, this.scale));
  }

  showBackground() {
    const url = backgroundUrl(this.store);
    this.behind.hidden = !url;
    if (url && this.behind.getAttribute("src") !== url) this.behind.src = url;
    this.behind.style.opacity = this.store.backdrop.percent / 100;
  }

  /** The color of the picture behind at a point, [red, green, blue]; null without one. */
  colorBehind({ x, y }) {
    const { width, height } = this.store.drawing, picture = this.behind;
    if (picture.hidden || !picture.naturalWidth || x < 0 || y < 0 || x >= width || y >= height) return null;
    const context = canvas(1, 1).getContext("2d");
    const across = (x / width) * picture.naturalWidth, down = (y / height) * picture.naturalHeight;
    context.drawImage(picture, Math.floor(across), Math.floor(down), 1, 1, 0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  }

  /** Show outlines over the paper, or none. */
  outline(...shapes) {
    this.outlines.replaceChildren(...shapes);
  }

  /** The pointer is over a handle, or over none. */
  point(handle) {
    this.element.style.cursor = handles.cursorOf(handle);
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
    this.paper.dataset.enlarged = scale > 2; // pixels are to be seen then
    this.scale = scale;
    this.tags.place({ x, y, scale });
    this.showHandles();
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
