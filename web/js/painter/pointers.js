/** Mouse, pen and fingers on the stage. */

import { addCorner, closePolygon } from "./actions.js";
import { freshRow } from "./drawing.js";
import * as outline from "./outline.js";
import * as shapes from "./shapes.js";
import { panBy, zoomBy } from "./workspace.js";

const NEAR = 8; // pixels of the screen from the first corner within which a click closes the polygon
const LEFT = 0, MIDDLE = 1, RIGHT = 2, ERASER = 5; // PointerEvent.button
const ERASER_HELD = 32; // PointerEvent.buttons

export class Pointers {
  constructor(store, stage) {
    Object.assign(this, { store, stage });
    this.down = new Map(); // where each pointer is on the screen, by its id
    this.gesture = null; // what is painted with one of them
    this.panning = null; // where the pointer that moves the paper was
    this.pinch = null; // how two fingers were
    this.listen();
    store.subscribe((changed) => {
      if (changed !== "gesture" && changed !== "tool") return;
      if (!store.before) this.gesture = null;
      this.showCorners();
    });
  }

  listen() {
    const on = (name, action) => this.stage.element.addEventListener(name, action);
    on("pointerdown", (event) => this.press(event));
    on("pointermove", (event) => this.move(event));
    on("pointerup", (event) => this.release(event));
    on("pointercancel", (event) => this.release(event, true));
    on("pointerleave", () => this.showCorners());
    on("dblclick", () => closePolygon(this.store));
  }

  // --- pressed ------------------------------------------------------------------------------------------------------

  press(event) {
    const { store, stage } = this;
    stage.element.focus({ preventScroll: true });
    event.stopPropagation(); // the graph must not move the node
    stage.element.setPointerCapture(event.pointerId);
    this.down.set(event.pointerId, place(event));
    if (event.pointerType === "touch" && this.down.size === 2) {
      store.cancel();
      this.pinch = spread(this.down);
      return;
    }
    if (this.down.size > 1) return;
    if (event.button === MIDDLE || store.spaceHeld) {
      this.panning = place(event);
      return;
    }
    if (![LEFT, RIGHT, ERASER].includes(event.button)) return;
    const point = stage.at(event);
    if (event.altKey) this.pick(point);
    else if (store.tool === "polygon") this.corner(point);
    else this.begin(point, event);
  }

  /** Choose the region under the pointer. */
  pick(point) {
    const id = idAt(this.store.drawing, point);
    if (id) this.store.choose(id);
  }

  corner(point) {
    const { corners } = this.store, [first] = corners;
    const near = corners.length > 2 && Math.hypot(point.x - first.x, point.y - first.y) < NEAR * this.stage.resolution;
    if (near) closePolygon(this.store);
    else addCorner(this.store, point);
  }

  begin(point, event) {
    const { store } = this, isErasing = store.tool === "eraser" || isEraser(event);
    if (store.tool === "move") {
      const id = idAt(store.drawing, point) || store.chosen;
      if (!id) return;
      store.choose(id);
    }
    const isFirst = store.tool !== "move" && !isErasing && store.chosen === null;
    store.begin(isFirst ? freshRow(store.drawing.rows) : null);
    const tool = isErasing ? "brush" : store.tool, id = isErasing ? 0 : store.chosen;
    this.gesture = { pointer: event.pointerId, tool, id, start: point, last: point, line: [point] };
    if (tool === "brush") this.brush(event);
    if (tool === "bucket") store.paint((drawing) => shapes.fill(drawing, point, id));
  }

  // --- moved --------------------------------------------------------------------------------------------------------

  move(event) {
    const { stage, gesture } = this;
    if (this.down.has(event.pointerId)) this.down.set(event.pointerId, place(event));
    if (this.pinch) return this.zoomByFingers();
    if (this.panning) {
      this.pan(this.panning, place(event));
      this.panning = place(event);
      return;
    }
    const point = stage.at(event);
    if (!gesture) return this.hover(point);
    if (gesture.pointer !== event.pointerId) return;
    event.stopPropagation();
    if (gesture.tool === "brush") this.stroke(event, point);
    else if (gesture.tool === "lasso") this.lasso(point);
    else if (gesture.tool === "rectangle" || gesture.tool === "ellipse") this.box(point, event.shiftKey);
    else if (gesture.tool === "move") this.moveRegion(point);
  }

  /** Several events may have come since the last frame. */
  stroke(event, point) {
    const parts = event.getCoalescedEvents?.() ?? [];
    for (const part of parts.length ? parts : [event]) this.brush(part);
    this.hover(point);
  }

  brush(event) {
    const { store, gesture } = this, from = gesture.last, to = this.stage.at(event);
    const radius = store.radius * pressure(event);
    gesture.last = to;
    store.paint((drawing) => shapes.stroke(drawing, from, to, radius, gesture.id));
  }

  lasso(point) {
    this.gesture.line.push(point);
    this.stage.outline(outline.line(this.gesture.line));
  }

  box(point, isSquare) {
    const { gesture } = this, { start } = gesture;
    gesture.last = isSquare ? outline.squared(start, point) : point;
    this.stage.outline(outline.box(gesture.tool, start, gesture.last));
  }

  moveRegion(point) {
    const { start, id } = this.gesture, { map } = this.store.before;
    const dx = Math.round(point.x - start.x), dy = Math.round(point.y - start.y);
    this.store.paint((drawing) => shapes.move(drawing, map, id, dx, dy));
  }

  pan(from, to) {
    const { shrink } = this.stage;
    panBy(this.store, (to.x - from.x) * shrink, (to.y - from.y) * shrink);
  }

  zoomByFingers() {
    if (this.down.size < 2) return;
    const before = this.pinch, now = spread(this.down);
    this.pan(before, now);
    zoomBy(this.store, now.length / before.length, this.stage.fromCenter(now.x, now.y));
    this.pinch = now;
  }

  // --- released -----------------------------------------------------------------------------------------------------

  release(event, isCancelled = false) {
    const { store, gesture } = this;
    this.down.delete(event.pointerId);
    if (this.pinch) {
      if (!this.down.size) this.pinch = null;
      return;
    }
    this.panning = null;
    if (!gesture || gesture.pointer !== event.pointerId) return;
    if (isCancelled) return void store.cancel();
    const { start, last, line, id, tool } = gesture;
    if (tool === "rectangle") store.paint((drawing) => shapes.rectangle(drawing, start, last, id));
    if (tool === "ellipse") store.paint((drawing) => shapes.ellipse(drawing, start, last, id));
    if (tool === "lasso") store.paint((drawing) => shapes.polygon(drawing, line, id));
    store.settle();
  }

  // --- outlines -----------------------------------------------------------------------------------------------------

  hover(point) {
    const { tool, radius, corners } = this.store;
    if (tool === "brush" || tool === "eraser") this.stage.outline(outline.circle(point, radius));
    else if (tool === "polygon" && corners.length) this.stage.outline(outline.line([...corners, point]));
  }

  /** The open polygon, if there is one. */
  showCorners() {
    const { corners } = this.store;
    this.stage.outline(corners.length ? outline.line(corners) : null);
  }
}

const place = (event) => ({ x: event.clientX, y: event.clientY });

/** The right button and a pen's other end rub out. */
const isEraser = (event) => [RIGHT, ERASER].includes(event.button) || (event.buttons & ERASER_HELD) !== 0;

/** How much of the brush a pen's pressure gives. */
const pressure = (event) => (event.pointerType === "pen" && event.pressure > 0 ? 0.3 + 0.7 * event.pressure : 1);

/** Who owns the pixel at a point; 0 for nobody, and beside the paper. */
function idAt({ width, height, map }, point) {
  const x = Math.floor(point.x), y = Math.floor(point.y);
  return x < 0 || y < 0 || x >= width || y >= height ? 0 : map[y * width + x];
}

/** The middle of two fingers, and how far apart they are. */
function spread(pointers) {
  const [a, b] = [...pointers.values()];
  return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, length: Math.hypot(a.x - b.x, a.y - b.y) || 1 };
}
