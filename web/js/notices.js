/** Warnings on nodes: room for them, and taking them off when the node runs again, which the editor itself never does. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const MARK = "\u26a0"; // what our texts begin with: nodes/ui/notices.py
const WIDGET = "$$node-text-preview"; // the editor's, for text that the server sends
const LETTER = 6, LINE = 16, SIDES = 50, PADDING = 26; // of that widget, in the graph's units

/** A node by its id as the server has it: "3", or "7:3" for node 3 in the subgraph that is node 7. */
function nodeOf(id) {
  let graph = app.rootGraph ?? app.graph, node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(part) ?? graph?.getNodeById(Number(part)) ?? null;
    graph = node?.subgraph;
  }
  return node;
}

const isOurs = ({ name, value }) => name === WIDGET && String(value).startsWith(MARK);

/** The classic renderer has room for two lines: make the node as high as the text needs. */
function makeRoom(node) {
  const widget = node?.widgets?.find(isOurs);
  if (!widget) return;
  const perLine = Math.max(Math.floor((node.size[0] - SIDES) / LETTER), 10);
  const lines = widget.value.split("\n").reduce((sum, line) => sum + Math.ceil(line.length / perLine), 0);
  widget.options.getMinHeight = () => lines * LINE + PADDING;
  fit(node, (height, least) => Math.max(height, least));
}

function clear(node) {
  const at = node?.widgets?.findIndex(isOurs) ?? -1;
  if (at < 0) return;
  const grown = node.size[1] <= node.computeSize()[1] + 1; // no higher than its widgets need: nobody made it so
  node.widgets[at].onRemove?.();
  node.widgets.splice(at, 1);
  fit(node, (height, least) => (grown ? least : height));
}

function fit(node, heightOf) {
  const [width, height] = node.size, wanted = heightOf(height, node.computeSize()[1]);
  if (wanted !== height) node.setSize([width, wanted]);
  node.setDirtyCanvas(true, true);
}

app.registerExtension({
  name: "fovea.notices",
  setup() {
    // The editor hears of the same event, and makes the widget.
    api.addEventListener("progress_text", ({ detail }) => requestAnimationFrame(() => makeRoom(nodeOf(detail.nodeId))));
    api.addEventListener("executing", ({ detail }) => {
      if (detail != null) clear(nodeOf(detail.node ?? detail));
    });
  },
});
