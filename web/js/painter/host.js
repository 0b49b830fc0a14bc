/** What the painter needs of the editor: pictures that nodes have shown, and its place in the graph's undo. */

import { app } from "../../../../scripts/app.js";
import { api } from "../../../../scripts/api.js";
import { t } from "./texts.js";

const addressOf = (image) => api.apiURL(`/view?${new URLSearchParams(image)}`);

/** The editor's name for a node: in a subgraph its id alone is not enough. */
export const nameOf = ({ graph, id }) => (graph?.isRootGraph === false ? `${graph.id}:${id}` : `${id}`);

const resultsOf = (node) => app.nodeOutputs?.[nameOf(node)];

/** All nodes, those in subgraphs as well. */
export function allNodes() {
  const root = app.rootGraph ?? app.graph;
  return [root, ...(root.subgraphs?.values() ?? [])].flatMap((graph) => graph.nodes);
}

/** The last pictures that nodes have shown: our own input first, if it is linked, then results. */
export function backgroundsFor(node) {
  const found = [];
  const at = node.graph ? (node.inputs ?? []).findIndex((input) => input.name === "image") : -1; // not placed yet
  const isLinked = (node.inputs?.[at]?.link ?? null) !== null;
  const shown = isLinked ? resultsOf(node)?.fovea_background?.[0] : null;
  const source = at < 0 ? null : node.getInputNode?.(at) ?? null;
  const image = (source && resultsOf(source)?.images?.[0]) ?? shown; // before the editor has loaded it
  const url = source?.imgs?.[0]?.src ?? (image ? addressOf(image) : null);
  if (url) found.push({ key: "input", label: source ? t("Input: {}", source.title) : t("Input"), url });
  for (const other of node.graph?.nodes ?? []) {
    const image = other !== node && other !== source ? resultsOf(other)?.images?.[0] : null;
    if (image) found.push({ key: `node ${other.id}`, label: t("Result: {}", other.title), url: addressOf(image) });
  }
  return found;
}

let loras = null; // a promise

/** The LoRAs that the node Region offers, without its "none"; none at all where the server does not answer. */
export function loraNames() {
  loras ??= fetchLoras().catch(() => {
    forgetLoras();
    return [];
  });
  return loras;
}

/** Ask the server again next time. */
export function forgetLoras() {
  loras = null;
}

async function fetchLoras() {
  const reply = await api.fetchApi("/object_info/FoveaRegion"), { FoveaRegion } = await reply.json();
  const [type, options] = FoveaRegion.input.optional.lora_name;
  return (Array.isArray(type) ? type : options.options).slice(1);
}

/** The graph's undo. */
const graphUndo = () => app.extensionManager?.workflow?.activeWorkflow?.changeTracker;

/** Whether the graph's undo is making the graph anew. */
export const isGraphRestoring = () => graphUndo()?._restoringState === true;

/** One step of the graph's undo, and what "Run (On Change)" waits for. */
export function captureStep() {
  const tracker = graphUndo();
  (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
}

const kept = new WeakSet(); // keys that are the painter's own undo
const told = new WeakSet(); // the undos of graphs that leave them alone

/** Keep a key from the graph's undo. That one listens on the window before anybody else can, so the event cannot be
 *  stopped on its way; but it waits a frame before it asks what the key means, and there such a key means nothing. */
export function keepFromGraph(event) {
  kept.add(event);
  const tracker = graphUndo();
  if (!tracker?.undoRedo || told.has(tracker)) return;
  told.add(tracker);
  const { undoRedo } = tracker;
  tracker.undoRedo = async (key) => !kept.has(key) && undoRedo.call(tracker, key);
}
