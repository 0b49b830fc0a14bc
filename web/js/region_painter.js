/** The widget of FoveaRegionPainter: puts the painter's panel on the node, in both renderers. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { Panel } from "./painter/panel.js";
import { install } from "./painter/style.js";

const WIDGET = "FOVEA_PAINTER"; // no name of the host's own, which would take its place in Nodes 2.0
const LEAST_HEIGHT = 440;

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

function painter(node, name) {
  install();
  const of = (widget) => node.widgets?.find((other) => other.name === widget);
  const size = () => [of("width")?.value, of("height")?.value].map((value) => Math.min(Math.max(Math.round(Number(value)) || 512, 16), 4096));
  const [width, height] = size();
  let widget = null;
  const panel = new Panel({
    width, height,
    backgrounds: () => backgrounds(node),
    onChange(text) {
      widget?.callback?.(text);
      node.graph?.setDirtyCanvas?.(true, false);
      const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker; // one step of the graph's undo
      (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
    },
  });
  widget = node.addDOMWidget(name, WIDGET, panel.root, {
    getValue: () => panel.text,
    setValue: (text) => panel.setText(text, ...size()),
    getMinHeight: () => LEAST_HEIGHT,
    hideOnZoom: false,
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
  const executed = () => panel.listBackgrounds();
  api.addEventListener("executed", executed);
  const removed = widget.onRemove;
  widget.onRemove = function (...given) {
    api.removeEventListener("executed", executed);
    panel.dispose();
    return removed?.apply(this, given);
  };
  if (node.size[1] < LEAST_HEIGHT + 220) node.setSize([Math.max(node.size[0], 400), LEAST_HEIGHT + 220]);
  return { widget };
}

app.registerExtension({
  name: "fovea.regionPainter",
  getCustomWidgets: () => ({ [WIDGET]: painter }),
});
