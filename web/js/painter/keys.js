/** Tools and the keys of the panel. */

import * as shapes from "./shapes.js";

/** Name, what it is called, its key. */
export const TOOLS = [
  ["brush", "Brush (B)", "b"], ["eraser", "Eraser (E)", "e"], ["rectangle", "Rectangle (R)", "r"],
  ["ellipse", "Ellipse (O)", "o"], ["lasso", "Lasso (L): draw round", "l"],
  ["polygon", "Polygon (P): click corners, double-click to close", "p"], ["bucket", "Bucket (G)", "g"],
  ["move", "Move a region (V)", "v"],
]; // prettier-ignore

/** Act on a key of the panel; keys that are not ours go on to the editor. */
export function press(panel, event) {
  const typing = event.target.matches("input:not([type=range]):not([type=color]), textarea, select");
  const slider = event.target.matches("input[type=range]");
  const command = event.ctrlKey || event.metaKey, key = event.key.toLowerCase();
  if (command && (key === "z" || key === "y") && !typing) {
    panel.undo(key === "y" || event.shiftKey);
    // The graph hears of every key first and acts a frame later: this one is not its undo.
    Object.defineProperty(event, "key", { value: "Unidentified" });
  } else if (typing || command) {
    if (typing && !command) event.stopPropagation(); // the graph's own keys
    return;
  } else if (key === "[" || key === "]") {
    panel.setRadius(key === "[" ? panel.radius / 1.25 : panel.radius * 1.25 + 1);
  } else if (/^[1-9]$/.test(key) && panel.drawing.rows[key - 1]) {
    panel.choose(panel.drawing.rows[key - 1].id);
  } else if (key === "delete" || key === "backspace") {
    panel.clearRegion(); // and never the node
  } else if (key === " " && event.target === panel.stage) {
    panel.space = true;
  } else if (["+", "=", "-", "0"].includes(key)) {
    const { left, top, width, height } = panel.stage.getBoundingClientRect();
    if (key === "0") panel.fit();
    else panel.zoomAt(left + width / 2, top + height / 2, key === "-" ? 0.8 : 1.25);
  } else if (key === "enter" && panel.corners.length) {
    panel.closePolygon();
  } else if (key === "escape" && (panel.gesture || panel.corners.length)) {
    panel.cancel();
  } else if (key === "escape" && panel.dialog) {
    panel.toggleFull();
  } else if (key.startsWith("arrow") && !slider && panel.tool === "move" && panel.chosen !== null) {
    nudge(panel, key, event.shiftKey ? 10 : 1);
  } else {
    const tool = TOOLS.find(([, , letter]) => letter === key);
    if (!tool) return;
    panel.useTool(tool[0]);
  }
  event.preventDefault();
  event.stopPropagation();
}

/** Move the chosen region by pixels. */
function nudge(panel, key, by) {
  const [dx, dy] = { arrowleft: [-by, 0], arrowright: [by, 0], arrowup: [0, -by], arrowdown: [0, by] }[key];
  const before = panel.drawing;
  panel.drawing = { ...before, map: before.map.slice() };
  shapes.move(panel.drawing, before.map, panel.chosen, dx, dy);
  panel.settle(before);
}
