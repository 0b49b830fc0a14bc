/** The widget of FoveaRegionPainter: puts the painter's panel on the node, in both renderers. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { listenFirst } from "./painter/before_editor.js";
import { usePalette } from "./painter/drawing.js";
import * as host from "./painter/host.js";
import { Panel } from "./painter/panel.js";
import { Store } from "./painter/store.js";
import { useLanguage } from "./painter/texts.js";
import { resolvedText } from "./painter/wildcards.js";
import { listBackgrounds, resumeWorkspace, workspaceOf } from "./painter/workspace.js";
import { PAGE, SETTINGS, VERSION_SHOWN, preferences } from "./preferences.js";

const WIDGET = "FOVEA_PAINTER"; // no name of ComfyUI's own, which would take its place in Nodes 2.0
const MIN_WIDTH = 720; // of a new node: the regions are beside the painting
const NEW_HEIGHT = 480; // of a new node's panel
const OTHER_WIDGETS = 220; // their height

const painters = new WeakMap(); // {store, root, leave} by nodes, until they are removed
// Nodes that are cloned and thrown away are never told so: they are only held as long as somebody else does.
const held = new Set();

function nodesWithPainter() {
  for (const reference of held) if (!painters.has(reference.deref())) held.delete(reference);
  return [...held].map((reference) => reference.deref());
}

const forEachStore = (act) => nodesWithPainter().forEach((node) => act(painters.get(node).store));
const listAllBackgrounds = () => forEachStore((store) => listBackgrounds(store));

// ComfyUI hears of the same event, and keeps what it brings.
api.addEventListener("executed", () => setTimeout(listAllBackgrounds));
api.addEventListener("graphChanged", listAllBackgrounds); // Load Image may have another file

let leaving = []; // painters whose nodes are about to be made anew
const workspaces = new Map(); // by the names of nodes

/** The graph's undo makes every node anew: a painter in the place of one before goes on with its tool and zoom. Another
 *  workflow has taken the nodes before it off the graph already; its subgraphs are no longer reached from there. */
function beforeNewNodes() {
  const nodes = nodesWithPainter().filter((node) => node.graph);
  leaving = nodes.map((node) => ({ node, name: host.nameOf(node), ...painters.get(node) }));
  workspaces.clear();
  if (!host.isGraphRestoring()) return;
  for (const node of nodes) workspaces.set(host.nameOf(node), workspaceOf(painters.get(node).store));
}

/** The editor tells nodes that they go; older ones do not tell those in subgraphs. */
function afterNewNodes() {
  for (const { node, name, root, leave } of leaving) {
    if (painters.has(node)) leave();
    const next = host.allNodes().find((other) => host.nameOf(other) === name);
    takePlace(root, painters.get(next)?.root);
  }
  leaving = [];
  workspaces.clear();
}

/** Nodes 2.0 may go on showing the element of the node that was there before, which does nothing any more. */
function takePlace(old, next) {
  if (next && !next.isConnected && old.closest(".lg-node")) old.replaceWith(next);
}

async function show(node, store, text) {
  const workspace = workspaces.get(host.nameOf(node));
  await store.setText(text, ...sizeOf(node));
  if (workspace) resumeWorkspace(store, workspace);
}

const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

/** Width and height as the node's widgets have them, within what a drawing may be. */
function sizeOf(node) {
  const sides = ["width", "height"].map((name) => Math.round(Number(widgetOf(node, name)?.value)) || 512);
  return sides.map((side) => Math.min(Math.max(side, 16), 4096));
}

function painter(node, name) {
  useLanguage(app.extensionManager?.setting?.get("Comfy.Locale"));
  const [width, height] = sizeOf(node), { palette, ...wishes } = preferences();
  let widget = null;
  usePalette(palette);
  const store = new Store({
    width, height, ...wishes,
    backgrounds: () => host.backgroundsFor(node),
    loraNames: host.loraNames,
    onChange(settled) {
      widget?.callback?.(store.text);
      // At once: the editor may write its draft at any time, and again only once it has captured another state.
      if (settled) host.captureStep();
    },
  });
  const panel = new Panel(store, host.keepFromGraph, () => widget && requestAnimationFrame(() => grow(node)));
  widget = node.addDOMWidget(name, WIDGET, panel.root, {
    getValue: () => store.text,
    setValue: (text) => show(node, store, text),
    getMinHeight: () => panel.minHeight,
    hideOnZoom: false,
    socketless: true,
  });
  widget.serializeValue = async () => { // for a prompt that is queued; workflows keep the value
    await store.ready; // a stroke that ended just now
    return resolvedText(store.text);
  };
  followSize(node, store);
  const removed = widget.onRemove;
  widget.onRemove = function (...given) {
    painters.delete(node);
    panel.dispose();
    return removed?.apply(this, given);
  };
  painters.set(node, { store, root: panel.root, leave: () => widget.onRemove() });
  held.add(new WeakRef(node));
  return { widget, minWidth: MIN_WIDTH, minHeight: NEW_HEIGHT + OTHER_WIDGETS };
}

/** A node that is too low for its panel becomes as high as it must. */
function grow(node) {
  const [width, height] = node.size, least = node.computeSize()[1];
  if (!node.graph || height >= least) return;
  node.setSize([width, least]);
  node.setDirtyCanvas(true, true);
}

/** Stretch the drawing when somebody changes the node's width or height. */
function followSize(node, store) {
  for (const widget of [widgetOf(node, "width"), widgetOf(node, "height")]) {
    if (!widget) continue;
    const previous = widget.callback;
    widget.callback = function (...given) {
      const result = previous?.apply(this, given);
      store.resize(...sizeOf(node));
      return result;
    };
  }
}

app.registerExtension({
  name: "fovea.regionPainter",
  settings: SETTINGS,
  aboutPageBadges: [{ label: `Fovea ${VERSION_SHOWN}`, url: PAGE, icon: "pi pi-eye" }],
  getCustomWidgets: () => ({ [WIDGET]: painter }),
  setup: listenFirst,
  beforeConfigureGraph: beforeNewNodes,
  afterConfigureGraph: afterNewNodes,
  refreshComboInNodes() {
    host.forgetLoras();
    forEachStore((store) => store.notify("loras"));
  },
});
