/** Takes a warning off its node when that node runs again: the editor keeps text of a run on a node until it is reloaded. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const MARK = "\u26a0"; // what our texts begin with: nodes/ui/notices.py
const WIDGET = "$$node-text-preview"; // the editor's, for text that the server sends

/** A node by its id as the server has it: "3", or "7:3" for node 3 in the subgraph that is node 7. */
function nodeOf(id) {
  let graph = app.rootGraph ?? app.graph, node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(part) ?? graph?.getNodeById(Number(part)) ?? null;
    graph = node?.subgraph;
  }
  return node;
}

function clear(node) {
  const at = node.widgets?.findIndex(({ name, value }) => name === WIDGET && String(value).startsWith(MARK)) ?? -1;
  if (at < 0) return;
  const grown = node.size[1] <= node.computeSize()[1] + 1; // no higher than its widgets need: nobody made it so
  node.widgets[at].onRemove?.();
  node.widgets.splice(at, 1);
  if (grown) node.setSize([node.size[0], node.computeSize()[1]]);
  node.setDirtyCanvas(true, true);
}

app.registerExtension({
  name: "fovea.notices",
  setup() {
    api.addEventListener("executing", ({ detail }) => {
      const node = detail == null ? null : nodeOf(detail?.node ?? detail);
      if (node) clear(node);
    });
  },
});
