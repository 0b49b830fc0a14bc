/** The stage: the paper that is painted on, pointers, outlines over it, zoom and pan. Panel is one and brings the rest:
 *  the drawing and what becomes of changes. */

import { colorTable, freshRow } from "./drawing.js";
import { svg } from "./elements.js";
import * as shapes from "./shapes.js";

export const OPACITY = 190;

export class Stage {
  listen() {
    const on = (name, action) => this.stage.addEventListener(name, action);
    on("pointerdown", (event) => this.down(event));
    on("pointermove", (event) => this.drag(event));
    on("pointerup", (event) => this.up(event));
    on("pointercancel", (event) => this.up(event, true));
    on("pointerleave", () => this.outline(this.corners.length ? this.cornerLine() : null));
    on("dblclick", () => this.closePolygon());
    on("contextmenu", (event) => {
      event.preventDefault();
      event.stopPropagation(); // the node's menu
    });
    on("mouseup", (event) => event.stopPropagation()); // the graph would take stock at once; onChange says when
    on("wheel", (event) => this.wheel(event));
    on("dragover", (event) => event.preventDefault());
    on("drop", (event) => {
      event.preventDefault();
      event.stopPropagation();
      if (event.dataTransfer.files[0]) this.importPicture(event.dataTransfer.files[0]);
    });
  }

  /** Where an event is on the paper, in the drawing's pixels. */
  at(event) {
    const rect = this.paper.getBoundingClientRect();
    return {
      x: ((event.clientX - rect.left) / rect.width) * this.drawing.width,
      y: ((event.clientY - rect.top) / rect.height) * this.drawing.height,
    };
  }

  idAt(point) {
    const x = Math.floor(point.x), y = Math.floor(point.y), { width, height, map } = this.drawing;
    return x < 0 || y < 0 || x >= width || y >= height ? 0 : map[y * width + x];
  }

  down(event) {
    this.stage.focus({ preventScroll: true });
    event.stopPropagation(); // the graph must not move the node
    this.stage.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (event.pointerType === "touch" && this.pointers.size === 2) {
      this.cancel();
      this.pinch = this.spread();
      return;
    }
    if (this.pointers.size > 1) return;
    if (event.button === 1 || this.space) {
      this.panning = { x: event.clientX, y: event.clientY };
      return;
    }
    if (event.button !== 0 && event.button !== 5) {
      if (event.button !== 2) return; // the right button and a pen's eraser rub out
    }
    const point = this.at(event);
    if (event.altKey) return this.pick(point);
    if (this.tool === "polygon") return this.corner(point);
    this.begin(point, event);
  }

  pick(point) {
    const id = this.idAt(point);
    if (id) this.choose(id);
  }

  begin(point, event) {
    const rub = this.tool === "eraser" || event.button === 2 || event.button === 5 || (event.buttons & 32) !== 0;
    if (this.tool === "move") {
      const id = this.idAt(point) || this.chosen;
      if (!id) return;
      this.choose(id);
    } else if (!rub && this.chosen === null) {
      const row = freshRow(this.drawing.rows);
      this.chosen = row.id;
      this.gesture = { before: this.drawing };
      this.drawing = { ...this.drawing, rows: [row] };
      this.table = colorTable(this.drawing.rows, OPACITY);
    }
    const before = this.gesture?.before ?? this.drawing, tool = rub ? "brush" : this.tool;
    this.drawing = { ...this.drawing, map: this.drawing.map.slice() };
    const pointer = event.pointerId, id = rub ? 0 : this.chosen;
    this.gesture = { before, pointer, tool, id, start: point, last: point, line: [point] };
    if (tool === "brush") this.paint(this.brush(point, event));
    if (tool === "bucket") this.paint(shapes.fill(this.drawing, point, this.gesture.id));
  }

  brush(point, event) {
    const pressure = event.pointerType === "pen" && event.pressure > 0 ? 0.3 + 0.7 * event.pressure : 1;
    const rect = shapes.stroke(this.drawing, this.gesture.last, point, this.radius * pressure, this.gesture.id);
    this.gesture.last = point;
    return rect;
  }

  drag(event) {
    const known = this.pointers.get(event.pointerId);
    if (known) this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (this.pinch) return this.pinched();
    if (this.panning) {
      this.panBy(event.clientX - this.panning.x, event.clientY - this.panning.y);
      this.panning = { x: event.clientX, y: event.clientY };
      return this.place();
    }
    const point = this.at(event);
    if (!this.gesture) return this.hover(point);
    if (this.gesture.pointer !== event.pointerId) return;
    event.stopPropagation();
    const { start, line, tool, before, id } = this.gesture;
    if (tool === "brush") {
      const events = event.getCoalescedEvents?.() ?? [];
      for (const part of events.length ? events : [event]) this.paint(this.brush(this.at(part), part));
      this.hover(point);
    } else if (tool === "lasso") {
      line.push(point);
      this.outline(svg("polyline", { points: line.map((p) => `${p.x},${p.y}`).join(" ") }));
    } else if (tool === "rectangle" || tool === "ellipse") {
      this.gesture.last = event.shiftKey ? this.square(start, point) : point;
      this.outline(this.boxLine(start, this.gesture.last));
    } else if (tool === "move") {
      this.paint(shapes.move(this.drawing, before.map, id, Math.round(point.x - start.x), Math.round(point.y - start.y)));
    }
  }

  square(a, b) {
    const side = Math.max(Math.abs(b.x - a.x), Math.abs(b.y - a.y));
    return { x: a.x + Math.sign(b.x - a.x) * side, y: a.y + Math.sign(b.y - a.y) * side };
  }

  up(event, canceled = false) {
    this.pointers.delete(event.pointerId);
    if (this.pinch) {
      if (!this.pointers.size) this.pinch = null;
      return;
    }
    this.panning = null;
    if (!this.gesture || this.gesture.pointer !== event.pointerId) return;
    if (canceled) return this.cancel();
    const { before, start, last, line, id, tool } = this.gesture;
    if (tool === "rectangle") shapes.rectangle(this.drawing, start, last, id);
    if (tool === "ellipse") shapes.ellipse(this.drawing, start, last, id);
    if (tool === "lasso") shapes.polygon(this.drawing, line, id);
    this.gesture = null;
    this.outline(null);
    this.settle(before);
  }

  /** A gesture is over: keep what was before, if anything changed. */
  settle(before) {
    const same = before.rows === this.drawing.rows && before.map.every((id, at) => id === this.drawing.map[at]);
    if (same) {
      this.drawing = before;
    } else {
      this.history.keep(before);
      this.source = null;
      this.finish();
    }
    this.refresh();
  }

  cancel() {
    if (!this.gesture && !this.corners.length) return;
    if (this.gesture) this.drawing = this.gesture.before;
    if (!this.drawing.rows.some((row) => row.id === this.chosen)) this.chosen = null;
    this.gesture = null;
    this.corners = [];
    this.outline(null);
    this.refresh();
  }

  corner(point) {
    const [first] = this.corners, near = 8 / (this.paper.getBoundingClientRect().width / this.drawing.width);
    if (first && this.corners.length > 2 && Math.hypot(point.x - first.x, point.y - first.y) < near) return this.closePolygon();
    this.corners.push(point);
    this.outline(this.cornerLine());
  }

  closePolygon() {
    if (this.tool !== "polygon" || this.corners.length < 3) return;
    const points = this.corners;
    this.corners = [];
    this.outline(null);
    if (this.chosen === null) this.addRow();
    const before = this.drawing;
    this.drawing = { ...before, map: before.map.slice() };
    shapes.polygon(this.drawing, points, this.chosen);
    this.settle(before);
  }

  // --- outlines over the paper --------------------------------------------------------------------------------------

  outline(shape) {
    this.lines.replaceChildren(...(shape ? [shape] : []));
  }

  hover(point) {
    if (this.tool === "brush" || this.tool === "eraser") {
      this.outline(svg("circle", { cx: point.x, cy: point.y, r: this.radius }));
    } else if (this.tool === "polygon" && this.corners.length) {
      this.outline(this.cornerLine(point));
    }
  }

  cornerLine(next = null) {
    const points = next ? [...this.corners, next] : this.corners;
    return svg("polyline", { points: points.map((p) => `${p.x},${p.y}`).join(" ") });
  }

  boxLine(a, b) {
    const x = Math.min(a.x, b.x), y = Math.min(a.y, b.y), width = Math.abs(a.x - b.x), height = Math.abs(a.y - b.y);
    if (this.tool === "rectangle") return svg("rect", { x, y, width, height });
    return svg("ellipse", { cx: x + width / 2, cy: y + height / 2, rx: width / 2, ry: height / 2 });
  }

  // --- zoom and pan -------------------------------------------------------------------------------------------------

  wheel(event) {
    event.preventDefault();
    event.stopPropagation();
    this.zoomAt(event.clientX, event.clientY, Math.exp(-event.deltaY / 400));
  }

  /** The stage's own pixels per pixel of the screen: the graph has a zoom, too. */
  shrink() {
    return this.stage.clientWidth / this.stage.getBoundingClientRect().width;
  }

  panBy(dx, dy) {
    const shrink = this.shrink();
    this.pan = { x: this.pan.x + dx * shrink, y: this.pan.y + dy * shrink };
  }

  /** Zoom so that the point under the pointer stays there. */
  zoomAt(x, y, factor) {
    const zoom = Math.min(Math.max(this.zoom * factor, 1), 16), ratio = zoom / this.zoom;
    const stage = this.stage.getBoundingClientRect(), shrink = this.shrink();
    const dx = (x - stage.left - stage.width / 2) * shrink - this.pan.x, dy = (y - stage.top - stage.height / 2) * shrink - this.pan.y;
    this.pan = zoom === 1 ? { x: 0, y: 0 } : { x: this.pan.x - dx * (ratio - 1), y: this.pan.y - dy * (ratio - 1) };
    this.zoom = zoom;
    this.place();
  }

  spread() {
    const [a, b] = [...this.pointers.values()];
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, length: Math.hypot(a.x - b.x, a.y - b.y) || 1 };
  }

  pinched() {
    if (this.pointers.size < 2) return;
    const now = this.spread();
    this.panBy(now.x - this.pinch.x, now.y - this.pinch.y);
    this.zoomAt(now.x, now.y, now.length / this.pinch.length);
    this.pinch = now;
  }

  /** Put the paper where zoom and pan want it. */
  place() {
    const { width, height } = this.drawing;
    const room = { width: this.stage.clientWidth, height: this.stage.clientHeight };
    if (!room.width || !room.height) return;
    const base = Math.min(room.width / width, room.height / height);
    const scale = base * this.zoom;
    const x = (room.width - width * scale) / 2 + this.pan.x, y = (room.height - height * scale) / 2 + this.pan.y;
    Object.assign(this.paper.style, { width: `${width}px`, height: `${height}px`, transform: `translate(${x}px, ${y}px) scale(${scale})` });
    this.lines.setAttribute("viewBox", `${-x / scale} ${-y / scale} ${room.width / scale} ${room.height / scale}`);
    this.lines.setAttribute("preserveAspectRatio", "none");
  }

  fit() {
    this.zoom = 1;
    this.pan = { x: 0, y: 0 };
    this.place();
  }

  /** Draw a part of the map. */
  paint(rect) {
    if (!rect) return;
    const { width, map } = this.drawing, { pixels, table } = this;
    for (let y = rect.y; y < rect.y + rect.height; y++) {
      for (let at = y * width + rect.x, end = at + rect.width; at < end; at++) pixels[at] = table[map[at]];
    }
    this.context.putImageData(this.image, 0, 0, rect.x, rect.y, rect.width, rect.height);
  }
}
