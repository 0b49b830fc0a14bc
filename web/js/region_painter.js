/** The widget of FoveaRegionPainter: puts the painter's panel on the node, in both renderers. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { Panel } from "./painter/panel.js";
import { t, useLanguage } from "./painter/texts.js";

const WIDGET = "FOVEA_PAINTER"; // no name of the host's own, which would take its place in Nodes 2.0
const MIN_HEIGHT = 440;
const SETTLE = 300; // ms without another stroke

const view = (image) => api.apiURL(`/view?${new URLSearchParams(image)}`);

/** The host's name for a node's results: in a subgraph its id alone is not enough. */
const resultsOf = (node) => app.nodeOutputs?.[node.graph?.isRootGraph === false ? `${node.graph.id}:${node.id}` : node.id];

/** The last pictures that nodes have shown: our own input first, then results. */
function backgrounds(node) {
  const found = [], shown = resultsOf(node)?.fovea_background?.[0];
  const source = node.getInputNode?.(node.inputs?.findIndex((input) => input.name === "image")) ?? null;
  const url = source?.imgs?.[0]?.src ?? (shown ? view(shown) : null);
  if (url) found.push({ key: "input", label: source ? t("Input: {}", source.title) : t("Input"), url });
  for (const other of node.graph?.nodes ?? []) {
    const image = other !== node && other !== source ? resultsOf(other)?.images?.[0] : null;
    if (image) found.push({ key: `node ${other.id}`, label: t("Result: {}", other.title), url: view(image) });
  }
  return found;
}

/** One step of the graph's undo, and what "Run (On Change)" waits for. Strokes in quick succession are one. */
function takeStock() {
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
}

// Nodes that are cloned and thrown away are never told so: panels are only held as long as somebody else does.
const panels = new Set();
api.addEventListener("executed", () => setTimeout(() => { // the host hears of the same event, and keeps what it brings
  for (const held of panels) {
    const panel = held.deref();
    if (panel) panel.listBackgrounds();
    else panels.delete(held);
  }
}));

// The graph's undo makes every node anew: a painter in the place of one just gone goes on with its tool and zoom.
const gone = new Map(), SOON = 2000; // ms

function resume(node, panel) {
  const before = gone.get(node.id);
  if (before && performance.now() - before.when < SOON) panel.manner = before.manner;
  gone.delete(node.id);
}

function painter(node, name) {
  useLanguage(app.extensionManager?.setting?.get("Comfy.Locale"));
  const of = (widget) => node.widgets?.find((other) => other.name === widget);
  const size = () => [of("width")?.value, of("height")?.value].map((value) => Math.min(Math.max(Math.round(Number(value)) || 512, 16), 4096));
  const [width, height] = size();
  let widget = null, waiting = 0;
  const panel = new Panel({
    width, height,
    backgrounds: () => backgrounds(node),
    onChange(settled) {
      widget?.callback?.(panel.text);
      clearTimeout(waiting);
      if (settled) waiting = setTimeout(takeStock, SETTLE);
    },
  });
  panels.add(new WeakRef(panel));
  widget = node.addDOMWidget(name, WIDGET, panel.root, {
    getValue: () => panel.text,
    setValue: (text) => panel.setText(text, ...size()).then(() => resume(node, panel)),
    getMinHeight: () => MIN_HEIGHT,
    hideOnZoom: false,
    socketless: true,
  });
  widget.serializeValue = async () => {
    await panel.ready; // a stroke that ended just now
    return panel.text;
  };
  for (const other of [of("width"), of("height")]) {
    if (!other) continue;
    const previous = other.callback;
    other.callback = function (...given) {
      const result = previous?.apply(this, given);
      panel.resize(...size());
      return result;
    };
  }
  const removed = widget.onRemove;
  widget.onRemove = function (...given) {
    clearTimeout(waiting);
    gone.set(node.id, { manner: panel.manner, when: performance.now() });
    panel.dispose();
    return removed?.apply(this, given);
  };
  return { widget, minWidth: 400, minHeight: MIN_HEIGHT + 220 };
}

app.registerExtension({
  name: "fovea.regionPainter",
  getCustomWidgets: () => ({ [WIDGET]: painter }),
});
