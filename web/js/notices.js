/** Warnings on nodes: kept by workflow until the node runs again, and shown in the node, whichever graph is on screen. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const EVENT = "fovea.notice"; // nodes/ui/notices.py
const NAME = "fovea_notice", TYPE = "FOVEA_NOTICE";
const LETTER = 6, LINE = 16, SIDES = 50, PADDING = 30, HIGHEST = 260; // in the graph's units; beyond, the text scrolls
const TOAST_MS = 20_000;
const LAYOUT_MS = 100; // until Nodes 2.0 has laid out a node anew
const STYLE = `box-sizing: border-box; width: 100%; height: 100%; max-height: ${HIGHEST}px; padding: 4px 8px;
  overflow-y: auto; white-space: pre-wrap; overflow-wrap: anywhere; user-select: text; border-radius: 6px;
  font: 12px/${LINE}px sans-serif; color: var(--input-text, #ddd); background: var(--comfy-input-bg, #222);`;

// By workflow, then by the node's id as the server has it: {queued, said, job}. queued: lines about the graph that was
// queued last; said: lines of the node's last execution, in that job. Undo and other tabs make nodes anew, so nodes
// cannot keep it; and what ran before is cached, so nobody says it again.
const kept = new Map();
const boxes = new WeakMap(); // by node: {widget, root, before, grown}: its heights without and with the text
let running = { job: null, workflow: Promise.resolve(null) };

const shown = () => (app.rootGraph ?? app.graph)?.id;
const linesOf = ({ queued, said }) => [...queued, ...said];

/** A node by its id as the server has it: "3", or "7:3" for node 3 in the subgraph that is node 7. */
function nodeOf(id) {
  let graph = app.rootGraph ?? app.graph, node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(part) ?? graph?.getNodeById(Number(part)) ?? null;
    graph = node?.subgraph;
  }
  return node;
}

/** Change what is kept of a node. workflow: null is the one on screen, of runs that name none. */
function change(workflow, id, part) {
  const of = workflow ?? shown(), nodes = kept.get(of) ?? new Map();
  const notice = { queued: [], said: [], job: null, ...nodes.get(id), ...part };
  if (linesOf(notice).length) nodes.set(id, notice);
  else nodes.delete(id);
  if (nodes.size) kept.set(of, nodes);
  else kept.delete(of);
  if (of === shown()) draw(id);
}

function draw(id) {
  const node = nodeOf(id), notice = kept.get(shown())?.get(id);
  if (!node) return;
  const text = notice ? linesOf(notice).map((line) => `\u26a0 ${line}`).join("\n") : "";
  if (text) show(node, text);
  else hide(node);
}

function show(node, text) {
  const box = boxes.get(node) ?? newBox(node);
  if (!isGrown(node, box)) box.before = node.size[1];
  box.root.textContent = text;
  if (!node.widgets.includes(box.widget)) node.widgets.push(box.widget);
  box.widget.hidden = false;
  resize(node, Math.max(box.before, node.computeSize()[1]));
  box.grown = node.size[1];
  setTimeout(() => box.grown !== null && (box.grown = node.size[1]), LAYOUT_MS);
}

/** The same widget comes and goes: for each that is made, the editor hangs handlers on the node for good. */
function newBox(node) {
  const root = document.createElement("div");
  root.style.cssText = STYLE;
  const widget = node.addDOMWidget(NAME, TYPE, root, {
    serialize: false, // in prompts
    hideOnZoom: false,
    getMinHeight: () => neededHeight(node, root.textContent),
    getMaxHeight: () => HIGHEST + PADDING,
  });
  widget.serialize = false; // in workflows
  const box = { root, widget, before: node.size[1], grown: null };
  boxes.set(node, box);
  keepHeight(node, box);
  return box;
}

/** Workflows, copies and steps of undo have the node as high as it is without the text. */
function keepHeight(node, box) {
  const previous = node.onSerialize;
  node.onSerialize = function (data) {
    const result = previous?.call(this, data);
    if (isGrown(this, box) && data.size) data.size = [data.size[0], box.before];
    return result;
  };
}

const isGrown = (node, { grown }) => grown !== null && Math.abs(node.size[1] - grown) < 1; // nobody has changed it since

function neededHeight(node, text) {
  const perLine = Math.max(Math.floor((node.size[0] - SIDES) / LETTER), 10);
  const lines = text.split("\n").reduce((sum, line) => sum + Math.max(Math.ceil(line.length / perLine), 1), 0);
  return Math.min(lines * LINE, HIGHEST) + PADDING;
}

function hide(node) {
  const box = boxes.get(node), at = box ? node.widgets.indexOf(box.widget) : -1;
  if (at < 0) return;
  const height = isGrown(node, box) ? box.before : node.size[1];
  box.grown = null;
  box.widget.hidden = true; // the classic renderer goes by it
  node.widgets.splice(at, 1);
  resize(node, height);
}

function resize(node, height) {
  if (height !== node.size[1]) node.setSize([node.size[0], height]);
  node.setDirtyCanvas(true, true);
}

/** Say it beside the graph, too, where the node is in one that is not on screen. */
function tellAside(id, lines) {
  const node = nodeOf(id), graph = app.canvas?.graph;
  if (!node || !lines.length || node.graph === graph) return;
  app.extensionManager?.toast?.add({ severity: "warn", summary: node.title, detail: lines.join("\n"), life: TOAST_MS });
}

/** The workflow of a job: asked for only where a warning is to be taken off. */
async function workflowOf(job) {
  try {
    const reply = await api.fetchApi(`/jobs/${job}`);
    return (await reply.json()).workflow_id ?? null;
  } catch {
    return null; // then it is taken for the one on screen
  }
}

app.registerExtension({
  name: "fovea.notices",
  setup() {
    api.addEventListener(EVENT, ({ detail: { workflow, node, job, lines } }) => {
      const before = kept.get(workflow ?? shown())?.get(node);
      change(workflow, node, job === null ? { queued: lines } : { said: lines, job });
      if (workflow && workflow !== shown()) return;
      const known = before ? linesOf(before) : [];
      tellAside(node, lines.filter((line) => !known.includes(line)));
    });
    api.addEventListener("execution_start", ({ detail }) => {
      running = { job: detail.prompt_id, workflow: kept.size ? workflowOf(detail.prompt_id) : Promise.resolve(null) };
    });
    api.addEventListener("executing", ({ detail }) => {
      if (detail == null) return;
      const id = String(detail.node ?? detail), { job } = running;
      // Of the same job, it is a connection that came back: the server says again which node is running.
      running.workflow.then((workflow) => {
        const notice = kept.get(workflow ?? shown())?.get(id);
        if (notice?.said.length && notice.job !== job) change(workflow, id, { said: [], job: null });
      });
    });
  },
  afterConfigureGraph() {
    for (const id of kept.get(shown())?.keys() ?? []) draw(id);
  },
});
