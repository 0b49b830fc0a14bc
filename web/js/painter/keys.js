/** The keys of the panel. */

import { chooseRowAt, clearRegion, closePolygon, moveRegion } from "./actions.js";
import { keepFocus } from "./focus.js";
import { TOOLS } from "./tools.js";
import { holdSpace, seeAll, setFull, setHardness, setRadius, useTool, zoomBy } from "./workspace.js";

const TEXT_FIELDS = "input:not([type=range]):not([type=color]):not([type=checkbox]), textarea"; // with their own undo
const CHOICES = "select, input[type=checkbox]"; // letters and blanks choose
const ARROWS = { arrowleft: [-1, 0], arrowright: [1, 0], arrowup: [0, -1], arrowdown: [0, 1] };

/** Act on a key; one that is not ours goes on to the editor. keepFromGraph(event): it is the painter's undo. */
export function press(store, event, keepFromGraph) {
  const isTyping = event.target.matches(TEXT_FIELDS), isCommand = event.ctrlKey || event.metaKey;
  const isField = isTyping || event.target.matches(CHOICES);
  if (isField && !isCommand) return event.stopPropagation(); // the graph's own keys
  if (isTyping) return;
  const act = isCommand ? undoOf(store, event) : actionOf(store, event);
  if (!act) return;
  if (isCommand) keepFromGraph(event);
  keepFocus(event.target, act);
  event.preventDefault();
  event.stopPropagation();
}

export function release(store, event) {
  if (event.key === " ") holdSpace(store, false);
}

function undoOf(store, event) {
  const key = event.key.toLowerCase();
  if (key === "y" || (key === "z" && event.shiftKey)) return () => store.redo();
  return key === "z" ? () => store.undo() : null;
}

/** What a key does now, or null. */
function actionOf(store, event) {
  const key = event.key.toLowerCase(), isDrawing = store.before !== null || store.corners.length > 0;
  if (key === "{") return () => setHardness(store, store.brush.hardness - 25);
  if (key === "}") return () => setHardness(store, store.brush.hardness + 25);
  if (key === "[") return () => setRadius(store, Math.min(store.brush.radius / 1.25, store.brush.radius - 0.5));
  if (key === "]") return () => setRadius(store, store.brush.radius * 1.25 + 1);
  if (/^[1-9]$/.test(key) && store.drawing.rows[key - 1]) return () => chooseRowAt(store, key - 1);
  if (key === "delete" || key === "backspace") return () => clearRegion(store); // and never the node
  if (key === " " && event.target.matches(".fovea-stage")) return () => holdSpace(store, true);
  if (key === "0") return () => seeAll(store);
  if (key === "+" || key === "=") return () => zoomBy(store, 1.25);
  if (key === "-") return () => zoomBy(store, 0.8);
  if (key === "enter" && store.corners.length) return () => closePolygon(store);
  if (key === "escape" && isDrawing) return () => store.cancel();
  if (key === "escape" && store.full) return () => setFull(store, false);
  if (key in ARROWS && movesRegion(store, event)) return () => moveBy(store, ARROWS[key], event.shiftKey ? 10 : 1);
  const tool = TOOLS.find(([, , letter]) => letter === key);
  return tool ? () => useTool(store, tool[0]) : null;
}

/** Arrows belong to a slider that has the focus. */
function movesRegion(store, event) {
  return store.tool === "move" && store.row?.area && !event.target.matches("input[type=range]");
}

function moveBy(store, [x, y], pixels) {
  moveRegion(store, x * pixels, y * pixels);
}
