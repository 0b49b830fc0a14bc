/** The painter's panel: tools, the stage, the rows, the caption. It knows nothing of the host but what it is given:
 *  onChange(settled) when the text has changed (settled: not while somebody types), backgrounds() -> [{key, label, url}]. */

import * as shapes from "./shapes.js";
import {
  LONGEST_CAPTION, LONGEST_PHRASE, blank, colorTable, composed, freshRow, fromPicture, fromText, isPacked, pack, phrasesIn,
  toPicture, toText,
} from "./drawing.js";
import { element, iconButton, svg } from "./elements.js";
import { History } from "./history.js";

const TOOLS = [
  ["brush", "Brush (B)", "b"], ["eraser", "Eraser (E)", "e"], ["rectangle", "Rectangle (R)", "r"],
  ["ellipse", "Ellipse (O)", "o"], ["lasso", "Lasso (L): draw round", "l"],
  ["polygon", "Polygon (P): click corners, double-click to close", "p"], ["bucket", "Bucket (G)", "g"],
  ["move", "Move a region (V)", "v"],
]; // prettier-ignore
const OPACITY = 190;
const NO_DRAWING = "Choose a phrase's colour, paint where it shall be, queue.";

export class Panel {
  constructor({ width, height, onChange, backgrounds }) {
    Object.assign(this, { onChange, backgrounds, tool: "brush", radius: 24, zoom: 1, pan: { x: 0, y: 0 }, corners: [] });
    this.drawing = blank(width, height);
    this.chosen = null;
    this.text = "";
    this.texts = new WeakMap(); // of drawings, so that undo gives back the very same text
    this.history = new History();
    this.ready = Promise.resolve(); // until the text is the drawing's
    this.pointers = new Map();
    this.lineOf = new Map(); // elements of rows, by id
    this.source = null; // what is resized again and again, so that no step loses anything
    this.build();
    this.refresh();
  }

  // --- what the host asks -------------------------------------------------------------------------------------------

  /** Show another drawing: a loaded workflow, an undo of the graph. */
  async setText(text, width, height) {
    const wanted = text ?? "";
    if (wanted === this.text && (wanted || (width === this.drawing.width && height === this.drawing.height))) return;
    this.cancel();
    this.text = wanted;
    this.loading = { width, height };
    try {
      const drawing = await fromText(wanted, width, height);
      if (this.text !== wanted) return; // a later one came meanwhile
      this.drawing = drawing;
      this.texts.set(drawing, wanted);
      this.say("");
    } catch (error) {
      if (this.text !== wanted) return;
      this.say(`The drawing cannot be read: ${error.message}`, true);
      this.drawing = blank(width, height);
      this.texts.set(this.drawing, wanted); // it stays in the workflow until somebody paints
    }
    const size = this.loading;
    this.loading = null;
    this.source = null;
    this.history.clear();
    this.keepChoice();
    this.refresh();
    if (this.drawing.rows.length) this.resize(size.width, size.height);
  }

  /** The picture's size changed: what is painted is stretched. */
  resize(width, height) {
    if (this.loading) return void (this.loading = { width, height });
    if (width === this.drawing.width && height === this.drawing.height) return;
    this.cancel();
    this.source ??= this.drawing;
    const kept = this.source;
    this.drawing = { ...this.drawing, ...shapes.resized(this.source, width, height) };
    this.finish(false);
    this.source = kept;
    this.refresh();
  }

  /** How somebody works with it: what the drawing does not tell. */
  get manner() {
    const { tool, radius, zoom, pan, chosen, backdrop, veil } = this;
    return { tool, radius, zoom, pan, chosen, behind: backdrop.value, veil: veil.value };
  }

  /** Go on as with the panel that was here before. */
  set manner({ tool, radius, zoom, pan, chosen, behind, veil }) {
    Object.assign(this, { zoom, pan, chosen });
    this.useTool(tool);
    this.setRadius(radius);
    this.veil.value = veil;
    this.listBackgrounds(behind);
    this.keepChoice();
    this.refreshRows();
    this.place();
  }

  dispose() {
    this.onChange = () => {};
    this.observer.disconnect();
    this.dialog?.remove();
  }

  // --- changes ------------------------------------------------------------------------------------------------------

  /** Change something: kept for undo, shown, told. */
  change(next) {
    this.cancel();
    this.history.keep(this.drawing);
    this.drawing = { ...this.drawing, ...next };
    if (next.map) this.source = null;
    this.finish();
    this.refresh();
  }

  /** Tell the text. A new map is packed first, by the browser and within milliseconds; whoever cannot do with the text
   *  before awaits `ready`. */
  finish(settled = true) {
    const { drawing } = this;
    if (this.texts.has(drawing) || isPacked(drawing)) return this.tell(drawing, settled);
    this.ready = pack(drawing).then(
      () => drawing === (this.gesture?.before ?? this.drawing) && this.tell(drawing, settled),
      (error) => this.say(`The drawing cannot be kept: ${error.message}`, true),
    );
  }

  tell(drawing, settled) {
    if (!this.texts.has(drawing)) this.texts.set(drawing, toText(drawing));
    this.text = this.texts.get(drawing);
    this.onChange(settled);
  }

  undo(forth = false) {
    if (this.gesture || this.corners.length) return this.cancel();
    const state = forth ? this.history.forth(this.drawing) : this.history.back(this.drawing);
    if (!state) return;
    const { width, height } = this.drawing;
    this.drawing = state;
    if (state.width !== width || state.height !== height) this.drawing = { ...state, ...shapes.resized(state, width, height) };
    this.source = null;
    this.keepChoice();
    this.finish();
    this.refresh();
  }

  addRow() {
    const row = freshRow(this.drawing.rows);
    if (!row) return this.say("64 regions are the most.", true);
    this.chosen = row.id;
    this.change({ rows: [...this.drawing.rows, row] });
  }

  changeRow(id, next, again = true) {
    const rows = this.drawing.rows.map((row) => (row.id === id ? { ...row, ...next } : row));
    if (again) return this.change({ rows });
    this.drawing = { ...this.drawing, rows }; // while typing
    this.finish(false);
    this.refreshCaption();
  }

  removeRow(id) {
    const rows = this.drawing.rows.filter((row) => row.id !== id), map = this.drawing.map.slice();
    shapes.replace({ ...this.drawing, map }, id);
    if (this.chosen === id) this.chosen = rows[0]?.id ?? null;
    this.change({ rows, map });
  }

  moveRow(id, by) {
    const rows = [...this.drawing.rows], at = rows.findIndex((row) => row.id === id), to = at + by;
    if (to < 0 || to >= rows.length) return;
    [rows[at], rows[to]] = [rows[to], rows[at]];
    this.change({ rows });
  }

  clearRegion() {
    if (this.chosen === null) return;
    const map = this.drawing.map.slice();
    shapes.replace({ ...this.drawing, map }, this.chosen);
    this.change({ map });
  }

  /** The chosen row stays, as long as it is there. */
  keepChoice(rows = this.drawing.rows) {
    if (!rows.some((row) => row.id === this.chosen)) this.chosen = rows[0]?.id ?? null;
  }

  choose(id) {
    this.chosen = id;
    this.refreshRows();
  }

  useTool(name) {
    this.tool = name;
    this.corners = [];
    this.outline(null);
    for (const [other, button] of Object.entries(this.toolButtons)) button.setAttribute("aria-pressed", other === name);
  }

  setRadius(radius) {
    this.radius = Math.min(Math.max(Math.round(radius), 1), 256);
    this.size.value = this.radius;
    this.size.title = `Brush size: ${2 * this.radius} pixels ([ and ])`;
  }

  async importPicture(file) {
    try {
      const bitmap = await createImageBitmap(file);
      const { rows, map } = fromPicture(this.drawing, bitmap);
      this.keepChoice(rows);
      this.change({ rows, map });
      this.say(rows.length ? "" : "No flat colours were found in that picture.", !rows.length);
    } catch {
      this.say("That file is no picture.", true);
    }
  }

  async exportPicture() {
    const link = element("a", { href: URL.createObjectURL(await toPicture(this.drawing)), download: "regions.png" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  say(text, wrong = false) {
    this.said.textContent = text;
    this.said.dataset.wrong = wrong;
  }

  // --- building -----------------------------------------------------------------------------------------------------

  build() {
    this.toolButtons = Object.fromEntries(TOOLS.map(([name, label]) => [
      name, iconButton(name, label, () => this.useTool(name), { "aria-pressed": name === this.tool, "data-tool": name }),
    ]));
    this.size = element("input", { type: "range", min: 1, max: 128, "aria-label": "Brush size" });
    this.size.addEventListener("input", () => this.setRadius(Number(this.size.value)));
    this.setRadius(this.radius);
    this.undoButton = iconButton("undo", "Undo (Ctrl+Z)", () => this.undo());
    this.redoButton = iconButton("redo", "Redo (Ctrl+Y)", () => this.undo(true));
    const file = element("input", { type: "file", accept: "image/*", hidden: true });
    file.addEventListener("change", () => {
      if (file.files[0]) this.importPicture(file.files[0]);
      file.value = "";
    });
    this.fullButton = iconButton("full", "Full screen (Escape ends it)", () => this.toggleFull());
    const tools = element(
      "div", { className: "fovea-bar", role: "toolbar", "aria-label": "Painting tools" },
      ...Object.values(this.toolButtons), this.size, element("span", { className: "fovea-gap" }), this.undoButton,
      this.redoButton, iconButton("clear", "Clear the chosen region (Delete)", () => this.clearRegion()),
      iconButton("fit", "See all of it", () => this.fit()), this.fullButton,
    );
    this.backdrop = element("select", { title: "Picture behind the painting", "aria-label": "Picture behind the painting" });
    this.backdrop.addEventListener("pointerdown", () => this.listBackgrounds());
    this.backdrop.addEventListener("focus", () => this.listBackgrounds());
    this.backdrop.addEventListener("change", () => this.showBackground());
    this.veil = element("input", { type: "range", min: 0, max: 100, value: 60, title: "How much of it shows", "aria-label": "How much of the picture behind shows" });
    this.veil.addEventListener("input", () => this.showBackground());
    const pictures = element(
      "div", { className: "fovea-bar" }, this.backdrop, this.veil, element("span", { className: "fovea-gap" }),
      iconButton("import", "Import a picture of flat colours", () => file.click()),
      iconButton("export", "Export as PNG", () => this.exportPicture()), file,
    );

    this.behind = element("img", { alt: "", hidden: true });
    this.surface = element("canvas");
    this.paper = element("div", { className: "fovea-paper" }, this.behind, this.surface);
    this.lines = svg("svg", { class: "fovea-outline", "aria-hidden": "true" });
    this.hint = element("div", { className: "fovea-hint", textContent: NO_DRAWING });
    this.stage = element(
      "div", { className: "fovea-stage", tabIndex: 0, role: "application", "data-capture-wheel": "true",
               "aria-label": "Painting. Keys: B, E, R, O, L, P, G, V choose tools, brackets the size, digits a region." },
      this.paper, this.lines, this.hint,
    ); // prettier-ignore
    this.listen();

    this.rows = element("div", { className: "fovea-rows", role: "list", "aria-label": "Regions" });
    this.caption = element("textarea", { placeholder: "Caption of the whole picture", "aria-label": "Caption", spellcheck: false,
                                         maxLength: LONGEST_CAPTION }); // prettier-ignore
    this.marks = element("div", { className: "fovea-marks", "aria-hidden": "true" });
    this.caption.addEventListener("focus", () => (this.typing = this.drawing));
    this.caption.addEventListener("input", () => {
      this.drawing = { ...this.drawing, caption: this.caption.value };
      this.finish(false);
      this.refreshCaption();
    });
    this.caption.addEventListener("change", () => this.typed());
    this.caption.addEventListener("scroll", () => (this.marks.scrollTop = this.caption.scrollTop));
    const add = iconButton("add", "Add a region", () => this.addRow());
    add.append("Region");
    const compose = element("button", { type: "button", textContent: "Compose", title: "Write the caption from the phrases" });
    compose.addEventListener("click", () => this.change({ caption: composed(this.drawing.rows) }));
    this.said = element("div", { className: "fovea-said", role: "status" });

    this.panel = element(
      "div", { className: "fovea-panel", "data-capture-wheel": "true" }, tools, this.stage, pictures, this.rows,
      element("div", { className: "fovea-bar" }, add, element("span", { className: "fovea-gap" }), compose),
      element("div", { className: "fovea-caption" }, this.marks, this.caption), this.said,
    );
    this.panel.addEventListener("keydown", (event) => this.key(event));
    this.panel.addEventListener("keyup", (event) => {
      if (event.key === " ") this.space = false;
    });
    this.panel.addEventListener("wheel", (event) => event.stopPropagation()); // lists scroll, the graph stays
    this.root = element("div", { className: "fovea-painter" }, this.panel);
    this.observer = new ResizeObserver(() => this.place());
    this.observer.observe(this.stage);
    this.listBackgrounds();
  }

  /** A text field was left: one step of undo for all that was typed. */
  typed() {
    if (this.typing && this.typing !== this.drawing) {
      this.history.keep(this.typing);
      this.onChange(true);
    }
    this.typing = this.drawing;
    this.refreshButtons();
  }

  // --- showing ------------------------------------------------------------------------------------------------------

  refresh() {
    const { width, height } = this.drawing;
    if (this.surface.width !== width || this.surface.height !== height || !this.image) {
      Object.assign(this.surface, { width, height });
      this.context = this.surface.getContext("2d");
      this.image = this.context.createImageData(width, height);
      this.pixels = new Uint32Array(this.image.data.buffer);
      this.place();
    }
    this.table = colorTable(this.drawing.rows, OPACITY);
    this.paint({ x: 0, y: 0, width, height });
    this.refreshRows();
    this.refreshCaption();
    this.refreshButtons();
  }

  refreshButtons() {
    this.undoButton.disabled = !this.history.past.length;
    this.redoButton.disabled = !this.history.future.length;
    this.hint.hidden = this.drawing.rows.length > 0;
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

  /** Rows that stay keep their elements, and with them focus and half-done clicks. */
  refreshRows() {
    const lines = this.drawing.rows.map((row, at) => {
      const line = this.lineOf.get(row.id) ?? this.rowElement(row, at);
      this.lineOf.set(row.id, line);
      line.update(row, at);
      return line;
    });
    const now = [...this.rows.children];
    if (now.length !== lines.length || lines.some((line, at) => line !== now[at])) this.rows.replaceChildren(...lines);
    const ids = new Set(this.drawing.rows.map((row) => row.id));
    for (const id of this.lineOf.keys()) if (!ids.has(id)) this.lineOf.delete(id);
  }

  rowElement(row, at) {
    const color = element("input", { type: "color", value: row.color, title: "Colour", "aria-label": `Colour of region ${at + 1}` });
    color.addEventListener("change", () => this.changeRow(row.id, { color: color.value }));
    const phrase = element("input", { type: "text", className: "fovea-phrase", value: row.phrase, placeholder: "a phrase",
                                      maxLength: LONGEST_PHRASE, "aria-label": `Phrase of region ${at + 1}`, spellcheck: false }); // prettier-ignore
    phrase.addEventListener("focus", () => {
      this.typing = this.drawing;
      this.choose(row.id);
    });
    phrase.addEventListener("input", () => this.changeRow(row.id, { phrase: phrase.value }, false));
    phrase.addEventListener("change", () => this.typed());
    const strength = element("input", { type: "number", className: "fovea-strength", min: 0, max: 10, step: 0.05, value: row.strength,
                                        title: "Strength", "aria-label": `Strength of region ${at + 1}` }); // prettier-ignore
    strength.addEventListener("change", () => {
      const value = Math.min(Math.max(Number(strength.value) || 0, 0), 10);
      this.changeRow(row.id, { strength: value });
    });
    const hidden = (now) => this.changeRow(row.id, { hidden: now });
    const eye = iconButton("shown", "Leave this region out", () => hidden(true));
    const shut = iconButton("hidden", "Left out: take it in again", () => hidden(false));
    const line = element(
      "div", { className: "fovea-row", role: "listitem" }, color, phrase, strength, eye, shut,
      iconButton("up", "Move up", () => this.moveRow(row.id, -1)),
      iconButton("down", "Move down", () => this.moveRow(row.id, 1)),
      iconButton("clear", `Delete region ${at + 1}`, () => this.removeRow(row.id)),
    ); // prettier-ignore
    line.addEventListener("pointerdown", (event) => {
      if (event.target === line) this.choose(row.id);
    });
    color.addEventListener("click", (event) => {
      if (this.chosen === row.id) return; // the second click opens the chooser
      event.preventDefault();
      this.choose(row.id);
    });
    line.update = (now, place) => {
      const chosen = now.id === this.chosen;
      Object.assign(line.dataset, { chosen, hidden: now.hidden });
      line.setAttribute("aria-current", chosen);
      if (color.value !== now.color) color.value = now.color;
      if (phrase.value !== now.phrase) phrase.value = now.phrase;
      if (document.activeElement !== strength) strength.value = now.strength;
      eye.hidden = now.hidden;
      shut.hidden = !now.hidden;
      for (const [field, label] of [[color, "Colour"], [phrase, "Phrase"], [strength, "Strength"]]) {
        field.setAttribute("aria-label", `${label} of region ${place + 1}`);
      }
    };
    return line;
  }

  refreshCaption() {
    const { caption, rows } = this.drawing;
    if (this.caption.value !== caption) this.caption.value = caption;
    let at = 0;
    const parts = [];
    for (const { start, end, row } of phrasesIn(caption, rows)) {
      const mark = element("span", { textContent: caption.slice(start, end) });
      mark.style.textDecorationColor = row.color;
      parts.push(caption.slice(at, start), mark);
      at = end;
    }
    this.marks.replaceChildren(...parts, caption.slice(at));
    this.marks.scrollTop = this.caption.scrollTop;
  }

  /** Offer the pictures that there are now; the chosen one may have a new version. */
  listBackgrounds(chosen = this.backdrop.value) {
    const before = JSON.stringify(this.offered?.map(({ key, label }) => [key, label]));
    this.offered = [{ key: "", label: "No picture behind", url: "" }, ...this.backgrounds()];
    if (JSON.stringify(this.offered.map(({ key, label }) => [key, label])) !== before) { // an open list stays open
      this.backdrop.replaceChildren(...this.offered.map(({ key, label }) => element("option", { textContent: label, value: key })));
    }
    this.backdrop.value = this.offered.some(({ key }) => key === chosen) ? chosen : "";
    this.showBackground();
  }

  showBackground() {
    const url = this.offered.find(({ key }) => key === this.backdrop.value)?.url ?? "";
    this.behind.hidden = !url;
    if (url && this.behind.getAttribute("src") !== url) this.behind.src = url;
    this.behind.style.opacity = this.veil.value / 100;
    this.veil.hidden = !url;
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

  toggleFull() {
    if (this.dialog) return this.dialog.close();
    this.dialog = element("dialog", { className: "fovea-full", "aria-label": "Region painter" }, this.panel);
    this.dialog.addEventListener("keydown", (event) => {
      if (event.target === this.dialog) this.key(event);
    });
    this.dialog.addEventListener("close", () => {
      this.root.append(this.panel);
      this.dialog.remove();
      this.dialog = null;
      this.place();
    });
    document.body.append(this.dialog);
    this.dialog.showModal();
    this.stage.focus();
    this.place();
  }

  // --- the stage ----------------------------------------------------------------------------------------------------

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

  up(event, cancelled = false) {
    this.pointers.delete(event.pointerId);
    if (this.pinch) {
      if (!this.pointers.size) this.pinch = null;
      return;
    }
    this.panning = null;
    if (!this.gesture || this.gesture.pointer !== event.pointerId) return;
    if (cancelled) return this.cancel();
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

  // --- zoom, pan, keys ----------------------------------------------------------------------------------------------

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

  key(event) {
    const typing = event.target.matches("input:not([type=range]):not([type=color]), textarea, select");
    const slider = event.target.matches("input[type=range]");
    const command = event.ctrlKey || event.metaKey, key = event.key.toLowerCase();
    if (command && (key === "z" || key === "y") && !typing) {
      this.undo(key === "y" || event.shiftKey);
      // The graph hears of every key first and acts a frame later: this one is not its undo.
      Object.defineProperty(event, "key", { value: "Unidentified" });
    } else if (typing || command) {
      if (typing && !command) event.stopPropagation(); // the graph's own keys
      return;
    } else if (key === "[" || key === "]") {
      this.setRadius(key === "[" ? this.radius / 1.25 : this.radius * 1.25 + 1);
    } else if (/^[1-9]$/.test(key) && this.drawing.rows[key - 1]) {
      this.choose(this.drawing.rows[key - 1].id);
    } else if (key === "delete" || key === "backspace") {
      this.clearRegion(); // and never the node
    } else if (key === " " && event.target === this.stage) {
      this.space = true;
    } else if (["+", "=", "-", "0"].includes(key)) {
      const { left, top, width, height } = this.stage.getBoundingClientRect();
      if (key === "0") this.fit();
      else this.zoomAt(left + width / 2, top + height / 2, key === "-" ? 0.8 : 1.25);
    } else if (key === "enter" && this.corners.length) {
      this.closePolygon();
    } else if (key === "escape" && (this.gesture || this.corners.length)) {
      this.cancel();
    } else if (key === "escape" && this.dialog) {
      this.toggleFull();
    } else if (key.startsWith("arrow") && !slider && this.tool === "move" && this.chosen !== null) {
      this.nudge(key, event.shiftKey ? 10 : 1);
    } else {
      const tool = TOOLS.find(([, , letter]) => letter === key);
      if (!tool) return;
      this.useTool(tool[0]);
    }
    event.preventDefault();
    event.stopPropagation();
  }

  nudge(key, by) {
    const [dx, dy] = { arrowleft: [-by, 0], arrowright: [by, 0], arrowup: [0, -by], arrowdown: [0, by] }[key];
    const before = this.drawing;
    this.drawing = { ...before, map: before.map.slice() };
    shapes.move(this.drawing, before.map, this.chosen, dx, dy);
    this.settle(before);
  }
}
