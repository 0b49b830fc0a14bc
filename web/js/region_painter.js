/** The widget of FoveaRegionPainter: puts the painter's panel on the node, in both renderers. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { Panel } from "./painter/panel.js";
import { install } from "./painter/style.js";

const WIDGET = "FOVEA_PAINTER"; // no name of the host's own, which would take its place in Nodes 2.0
const LEAST_HEIGHT = 440;
const SETTLE = 300; // ms without another stroke

const view = (image) => api.apiURL(`/view?${new URLSearchParams(image)}`);

/** The last pictures that nodes have shown: our own input first, then results. */
function backgrounds(node) {
  const outputs = app.nodeOutputs ?? {}, found = [];
  const shown = outputs[node.id]?.fovea_background?.[0];
  const slot = node.inputs?.find((input) => input.name === "image");
  const source = slot?.link != null ? node.graph?.getNodeById(node.graph.links?.[slot.link]?.origin_id ?? node.graph.getLink?.(slot.link)?.origin_id) : null;
  const url = source?.imgs?.[0]?.src ?? (shown ? view(shown) : null);
  if (source && url) found.push({ key: "input", label: `Input: ${source.title}`, url });
  for (const other of node.graph?.nodes ?? []) {
    const image = other !== node && other !== source ? outputs[other.id]?.images?.[0] : null;
    if (image) found.push({ key: `node ${other.id}`, label: `Result: ${other.title}`, url: view(image) });
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
api.addEventListener("executed", () => {
  for (const held of panels) {
    const panel = held.deref();
    if (panel) panel.listBackgrounds();
    else panels.delete(held);
  }
});

function painter(node, name) {
  install();
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
    setValue: (text) => panel.setText(text, ...size()),
    getMinHeight: () => LEAST_HEIGHT,
    hideOnZoom: false,
    socketless: true,
  });
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
    panel.dispose();
    return removed?.apply(this, given);
  };
  return { widget, minWidth: 400, minHeight: LEAST_HEIGHT + 220 };
}

app.registerExtension({
  name: "fovea.regionPainter",
  getCustomWidgets: () => ({ [WIDGET]: painter }),
});
