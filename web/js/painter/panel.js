/** The painter's panel: tools, the stage, the rows, the caption. It knows nothing of the host but what it is given:
 *  onChange(settled) when the text has changed (settled: not while somebody types), backgrounds() -> [{key, label, url}]. */

import {
  MAX_CAPTION_LENGTH, blank, colorTable, composed, freshRow, fromPicture, fromText, isPacked, pack, phrasesIn,
  toPicture, toText,
} from "./drawing.js";
import { element, iconButton, svg } from "./elements.js";
import { History } from "./history.js";
import { TOOLS, press } from "./keys.js";
import { rowElement } from "./rows.js";
import * as shapes from "./shapes.js";
import { OPACITY, Stage } from "./stage.js";
import { style } from "./style.js";
import { t } from "./texts.js";

const NO_DRAWING = "Choose a phrase's color, paint where it shall be, queue.";

export class Panel extends Stage {
  constructor({ width, height, onChange, backgrounds }) {
    super();
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
      this.say(t("The drawing cannot be read: {}", error.message), true);
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
      (error) => this.say(t("The drawing cannot be kept: {}", error.message), true),
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
    if (!row) return this.say(t("64 regions are the most."), true);
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
    this.size.title = t("Brush size: {} pixels ([ and ])", 2 * this.radius);
  }

  async importPicture(file) {
    try {
      const bitmap = await createImageBitmap(file);
      const { rows, map } = fromPicture(this.drawing, bitmap);
      this.keepChoice(rows);
      this.change({ rows, map });
      this.say(rows.length ? "" : t("No flat colors were found in that picture."), !rows.length);
    } catch {
      this.say(t("That file is no picture."), true);
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
      name, iconButton(name, t(label), () => this.useTool(name), { "aria-pressed": name === this.tool, "data-tool": name }),
    ]));
    this.size = element("input", { type: "range", min: 1, max: 128, "aria-label": t("Brush size") });
    this.size.addEventListener("input", () => this.setRadius(Number(this.size.value)));
    this.setRadius(this.radius);
    this.undoButton = iconButton("undo", t("Undo (Ctrl+Z)"), () => this.undo());
    this.redoButton = iconButton("redo", t("Redo (Ctrl+Y)"), () => this.undo(true));
    const file = element("input", { type: "file", accept: "image/*", hidden: true });
    file.addEventListener("change", () => {
      if (file.files[0]) this.importPicture(file.files[0]);
      file.value = "";
    });
    this.fullButton = iconButton("full", t("Full screen (Escape ends it)"), () => this.toggleFull());
    const tools = element(
      "div", { className: "fovea-bar", role: "toolbar", "aria-label": t("Painting tools") },
      ...Object.values(this.toolButtons), this.size, element("span", { className: "fovea-gap" }), this.undoButton,
      this.redoButton, iconButton("clear", t("Clear the chosen region (Delete)"), () => this.clearRegion()),
      iconButton("fit", t("See all of it"), () => this.fit()), this.fullButton,
    );
    this.backdrop = element("select", { title: t("Picture behind the painting"), "aria-label": t("Picture behind the painting") });
    this.backdrop.addEventListener("pointerdown", () => this.listBackgrounds());
    this.backdrop.addEventListener("focus", () => this.listBackgrounds());
    this.backdrop.addEventListener("change", () => this.showBackground());
    this.veil = element("input", { type: "range", min: 0, max: 100, value: 60, title: t("How much of it shows"), "aria-label": t("How much of the picture behind shows") });
    this.veil.addEventListener("input", () => this.showBackground());
    const pictures = element(
      "div", { className: "fovea-bar" }, this.backdrop, this.veil, element("span", { className: "fovea-gap" }),
      iconButton("import", t("Import a picture of flat colors"), () => file.click()),
      iconButton("export", t("Export as PNG"), () => this.exportPicture()), file,
    );

    this.behind = element("img", { alt: "", hidden: true });
    this.surface = element("canvas");
    this.paper = element("div", { className: "fovea-paper" }, this.behind, this.surface);
    this.lines = svg("svg", { class: "fovea-outline", "aria-hidden": "true" });
    this.hint = element("div", { className: "fovea-hint", textContent: t(NO_DRAWING) });
    this.stage = element(
      "div", { className: "fovea-stage", tabIndex: 0, role: "application", "data-capture-wheel": "true",
               "aria-label": t("Painting. Keys: B, E, R, O, L, P, G, V choose tools, brackets the size, digits a region.") },
      this.paper, this.lines, this.hint,
    ); // prettier-ignore
    this.listen();

    this.rows = element("div", { className: "fovea-rows", role: "list", "aria-label": t("Regions") });
    this.caption = element("textarea", { placeholder: t("Caption of the whole picture"), "aria-label": t("Caption"), spellcheck: false,
                                         maxLength: MAX_CAPTION_LENGTH }); // prettier-ignore
    this.marks = element("div", { className: "fovea-marks", "aria-hidden": "true" });
    this.caption.addEventListener("focus", () => (this.typing = this.drawing));
    this.caption.addEventListener("input", () => {
      this.drawing = { ...this.drawing, caption: this.caption.value };
      this.finish(false);
      this.refreshCaption();
    });
    this.caption.addEventListener("change", () => this.typed());
    this.caption.addEventListener("scroll", () => (this.marks.scrollTop = this.caption.scrollTop));
    const add = iconButton("add", t("Add a region"), () => this.addRow());
    add.append(t("Region"));
    const compose = element("button", { type: "button", textContent: t("Compose"), title: t("Write the caption from the phrases") });
    compose.addEventListener("click", () => this.change({ caption: composed(this.drawing.rows) }));
    this.said = element("div", { className: "fovea-said", role: "status" });

    this.panel = element(
      "div", { className: "fovea-panel", "data-capture-wheel": "true" }, tools, this.stage, pictures, this.rows,
      element("div", { className: "fovea-bar" }, add, element("span", { className: "fovea-gap" }), compose),
      element("div", { className: "fovea-caption" }, this.marks, this.caption), this.said,
    );
    this.panel.addEventListener("keydown", (event) => press(this, event));
    this.panel.addEventListener("keyup", (event) => {
      if (event.key === " ") this.space = false;
    });
    this.panel.addEventListener("wheel", (event) => event.stopPropagation()); // lists scroll, the graph stays
    this.root = element("div", { className: "fovea-painter" }, style(), this.panel);
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

  /** Rows that stay keep their elements, and with them focus and half-done clicks. */
  refreshRows() {
    const lines = this.drawing.rows.map((row, at) => {
      const line = this.lineOf.get(row.id) ?? rowElement(this, row);
      this.lineOf.set(row.id, line);
      line.update(row, at);
      return line;
    });
    const now = [...this.rows.children];
    if (now.length !== lines.length || lines.some((line, at) => line !== now[at])) this.rows.replaceChildren(...lines);
    const ids = new Set(this.drawing.rows.map((row) => row.id));
    for (const id of this.lineOf.keys()) if (!ids.has(id)) this.lineOf.delete(id);
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
    this.offered = [{ key: "", label: t("No picture behind"), url: "" }, ...this.backgrounds()];
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

  toggleFull() {
    if (this.dialog) return this.dialog.close();
    this.dialog = element("dialog", { className: "fovea-full", "aria-label": t("Region painter") }, this.panel);
    this.dialog.addEventListener("keydown", (event) => {
      if (event.target === this.dialog) press(this, event);
    });
    this.dialog.addEventListener("close", () => {
      this.root.append(this.panel);
      this.dialog.remove();
      this.dialog = null;
      this.place();
    });
    this.root.append(this.dialog);
    this.dialog.showModal();
    this.stage.focus();
    this.place();
  }
}
