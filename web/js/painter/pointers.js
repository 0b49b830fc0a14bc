/** Mouse, pen and fingers on the stage. */

import { addCorner, addShape, closePolygon, fillAt, pickColor, reshape } from "./actions.js";
import { HANDED } from "./before_editor.js";
import { freshRow } from "./drawing.js";
import * as handles from "./handles.js";
import * as outline from "./outline.js";
import { contains, cornersOf, frontFirst, isThin, rowAt, shapeBetween } from "./places.js";
import * as shapes from "./shapes.js";
import { snapped, snappedMove } from "./snapping.js";
import { t } from "./texts.js";
import { panBy, zoomBy } from "./workspace.js";

const NEAR = 8; // pixels of the screen from the first corner within which a click closes the polygon
const DOT = Math.SQRT1_2; // the least radius of a stroke: wherever a click is, it paints a pixel
const CLICK = 3; // pixels of the screen that a pointer may move in a click
const SHAPES = ["rectangle", "ellipse"];
const LEFT = 0, MIDDLE = 1, RIGHT = 2, ERASER = 5; // PointerEvent.button
const ERASER_HELD = 32; // PointerEvent.buttons

export class Pointers {
  constructor(store, stage) {
    Object.assign(this, { store, stage });
    this.down = new Map(); // where each pointer is on the screen, by its id
    this.gesture = null; // what is painted with one of them
    this.tap = null; // what happens where one of them is released: {pointer, act}
    this.choice = []; // row and shape that were chosen before the first of them was pressed
    this.panning = null; // where the pointer that moves the paper was
    this.pinch = null; // how two fingers were
    this.listen();
    store.subscribe((changed) => {
      if (changed !== "gesture" && changed !== "tool") return;
      if (!store.before) this.gesture = null;
      this.tap = null;
      this.showCorners();
    });
  }

  listen() {
    const on = (name, action) => this.stage.element.addEventListener(name, action);
    for (const by of ["", HANDED]) {
      on(`${by}pointerdown`, (event) => this.press(event));
      on(`${by}pointermove`, (event) => this.move(event));
      on(`${by}pointerup`, (event) => this.release(event));
    }
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
    if (this.down.size === 1) this.choice = [store.chosen, store.shape];
    if (event.pointerType === "touch" && this.down.size === 2) {
      this.takeBack();
      this.pinch = spread(this.down);
      return;
    }
    if (this.down.size > 1) return;
    if (event.button === MIDDLE || store.spaceHeld) {
      this.panning = place(event);
      return;
    }
    if (![LEFT, RIGHT, ERASER].includes(event.button)) return;
    const act = this.actionOf(event);
    if (act) this.tap = { pointer: event.pointerId, act };
    else this.begin(stage.at(event), event);
  }

  /** What is done at the point where a pointer is released; null for what begins where it is pressed. Only then is it
   *  known that no second finger came. */
  actionOf(event) {
    const { store, stage } = this;
    if (event.altKey) return (point) => this.pick(point);
    if (isEraser(event)) return null;
    if (store.tool === "eyedropper") return (point) => pickColor(store, stage.colorBehind(point));
    return store.tool === "polygon" ? (point) => this.corner(point) : null;
  }

  /** What the first of two fingers has done so far. */
  takeBack() {
    this.tap = this.panning = null;
    this.store.drop();
    this.store.choose(...this.choice);
  }

  /** Choose the region under the pointer. */
  pick(point) {
    const row = rowAt(this.store.drawing, point);
    if (row) this.store.choose(row.id);
  }

  corner(point) {
    const { corners } = this.store, [first] = corners;
    const near = corners.length > 2 && Math.hypot(point.x - first.x, point.y - first.y) < NEAR * this.stage.resolution;
    if (near) closePolygon(this.store);
    else addCorner(this.store, point);
  }

  begin(point, event) {
    const { store } = this, isErasing = store.tool === "eraser" || isEraser(event);
    const handle = isErasing || !handles.areShown(store) ? null : handles.at(store, point, this.stage.resolution);
    const tool = isErasing ? "brush" : handle ? "handle" : store.tool;
    if (tool === "move" && !this.chooseAt(point)) return;
    const isFirst = tool !== "move" && !store.row;
    if (isFirst && isErasing) return;
    const row = isFirst ? freshRow(store.drawing.rows) : null;
    if (isFirst && !row) return store.say(t("At most 64 regions."), true);
    store.begin({ row, isErased: isErasing });
    const start = SHAPES.includes(tool) ? this.snap(point, event) : point;
    this.gesture = {
      pointer: event.pointerId, tool, value: isErasing ? 0 : 255, start, last: start, line: [point], handle,
      from: place(event), isMoved: false,
    }; // prettier-ignore
    if (tool === "brush") this.brush(event);
    if (tool === "bucket") fillAt(store, point);
  }

  /** Choose the region under the pointer and the shape of it that is there; beside all of them the chosen one stays. */
  chooseAt(point) {
    const { store } = this, row = rowAt(store.drawing, point) ?? store.row;
    if (row) store.choose(row.id, shapeAt(store.drawing, row, point));
    return !!row?.area;
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
    gesture.isMoved ||= Math.hypot(event.clientX - gesture.from.x, event.clientY - gesture.from.y) > CLICK;
    if (gesture.tool === "brush") this.stroke(event, point);
    else if (gesture.tool === "lasso") this.lasso(point);
    else if (SHAPES.includes(gesture.tool)) this.box(point, event);
    else if (gesture.tool === "move") this.moveRegion(point, event);
    else if (gesture.tool === "handle") this.moveHandle(point, event);
  }

  /** Several events may have come since the last frame. */
  stroke(event, point) {
    const parts = event.getCoalescedEvents?.() ?? [];
    for (const part of parts.length ? parts : [event]) this.brush(part);
    this.hover(point);
  }

  brush(event) {
    const { store, gesture } = this, from = gesture.last, to = this.stage.at(event);
    const radius = Math.max(store.brush.radius * pressure(event), DOT), hardness = store.brush.hardness / 100;
    gesture.last = to;
    store.paint((grid) => shapes.stroke(grid, from, to, radius, gesture.value, hardness));
  }

  lasso(point) {
    this.gesture.line.push(point);
    this.stage.outline(outline.line(this.gesture.line));
  }

  /** A point, moved to a line of the picture that attracts it. */
  snap(point, event) {
    return this.snaps(event) ? snapped(this.store.drawing, point, this.stage.resolution) : point;
  }

  /** Ctrl keeps things where they are. */
  snaps(event) {
    return this.store.snap && !event.ctrlKey && !event.metaKey;
  }

  box(point, event) {
    const { gesture, store } = this, { start } = gesture, end = this.snap(point, event);
    gesture.last = event.shiftKey ? outline.squared(start, point) : end;
    this.stage.outline(outline.box(gesture.tool, start, gesture.last), ...outline.guides(store.drawing, gesture.last));
  }

  moveHandle(point, event) {
    const { store } = this;
    const before = store.before.rows.find((row) => row.id === store.chosen).shapes[store.shape];
    const end = this.snap(point, event);
    const [a, b] = handles.moved(cornersOf(store.drawing, before), this.gesture.handle, end, event.shiftKey);
    const shape = shapeBetween(store.drawing, before.kind, a, b);
    if (!isThin(shape)) reshape(store, shape);
    this.stage.outline(...outline.guides(store.drawing, end));
  }

  moveRegion(point, event) {
    const { store, gesture } = this, { start } = gesture;
    if (!gesture.isMoved) return; // a click chooses
    let dx = Math.round(point.x - start.x), dy = Math.round(point.y - start.y);
    const before = store.before.rows.find((row) => row.id === store.chosen);
    if (this.snaps(event) && before.shapes.length && !before.mask?.some((value) => value)) {
      [dx, dy] = snappedMove(store.drawing, before.shapes, dx, dy, this.stage.resolution);
    }
    store.moveFrom(dx, dy);
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
    const { store, stage, gesture } = this;
    this.down.delete(event.pointerId);
    if (this.pinch) {
      if (!this.down.size) this.pinch = null;
      return;
    }
    this.panning = null;
    if (this.tap?.pointer === event.pointerId) return this.endTap(event, isCancelled);
    if (!gesture || gesture.pointer !== event.pointerId) return;
    if (isCancelled) return void store.cancel();
    const { start, last, line, tool, isMoved } = gesture;
    if (SHAPES.includes(tool) && !isMoved) return this.selectShape(stage.at(event));
    if (SHAPES.includes(tool)) {
      const shape = shapeBetween(store.drawing, tool, start, last);
      if (!isThin(shape)) addShape(store, shape);
    }
    if (tool === "lasso") store.paint((grid) => shapes.polygon(grid, line, 255));
    store.settle();
  }

  endTap(event, isCancelled) {
    const { act } = this.tap;
    this.tap = null;
    if (!isCancelled) act(this.stage.at(event));
  }

  /** A click with a tool for shapes: give handles to the frontmost shape there. */
  selectShape(point) {
    const { store } = this;
    store.cancel();
    for (const row of frontFirst(store.drawing.rows)) {
      const at = shapeAt(store.drawing, row, point);
      if (at !== null) return store.choose(row.id, at);
    }
    if (store.row) store.choose(store.chosen, null);
  }

  // --- outlines -----------------------------------------------------------------------------------------------------

  hover(point) {
    const { tool, brush: { radius }, corners } = this.store;
    if (tool === "brush" || tool === "eraser") this.stage.outline(outline.circle(point, radius));
    else if (tool === "polygon" && corners.length) this.stage.outline(outline.line([...corners, point]));
    this.stage.point(handles.areShown(this.store) ? handles.at(this.store, point, this.stage.resolution) : null);
  }

  /** The open polygon, if there is one. */
  showCorners() {
    const { corners } = this.store;
    this.stage.outline(...(corners.length ? [outline.line(corners)] : []));
  }
}

const place = (event) => ({ x: event.clientX, y: event.clientY });

/** The right button and a pen's other end rub out. */
const isEraser = (event) => [RIGHT, ERASER].includes(event.button) || (event.buttons & ERASER_HELD) !== 0;

/** How much of the brush a pen's pressure gives. */
const pressure = (event) => (event.pointerType === "pen" ? 0.3 + 0.7 * event.pressure : 1);

/** Which shape of a row is at a point, the last one drawn; null for none. */
function shapeAt(drawing, row, point) {
  const at = row.shapes.findLastIndex((shape) => contains(drawing, shape, point));
  return at < 0 ? null : at;
}

/** The middle of two fingers, and how far apart they are. */
function spread(pointers) {
  const [a, b] = [...pointers.values()];
  return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, length: Math.hypot(a.x - b.x, a.y - b.y) || 1 };
}
