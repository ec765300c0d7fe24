import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const listeners = new Set();
let opening = null;

/** Has a function called with each node that ran and what it answered for display. */
export function onResult(listener) {
  listeners.add(listener);
}

/** Begins to hear of nodes that ran. */
export function startResults() {
  api.addEventListener("executed", ({ detail }) => tell(String(detail.display_node ?? detail.node), detail.output));
}

/** Notes the stored workflow that is being opened: the graph made of it may get an id of its own. */
export function noteOpening(workflow) {
  opening = workflow;
}

/** After a workflow was opened: what its nodes answered, if the newest prompt was one of it. */
export async function restoreResults() {
  const opened = opening;
  const answer = await api.fetchApi("/history?max_items=1");
  const [newest] = Object.values(await answer.json());
  if (opening !== opened) return; // another was opened meanwhile
  opening = null; // not every graph is made of a stored workflow
  if (!newest || !opened?.id) return;
  const [, , prompt, { extra_pnginfo }] = newest.prompt;
  if (extra_pnginfo?.workflow?.id !== opened.id) return;
  for (const [id, output] of Object.entries(newest.outputs)) {
    if (findNode(id)?.comfyClass === prompt[id]?.class_type) tell(id, output);
  }
}

function tell(id, output) {
  const node = findNode(id);
  if (!node || !output) return;
  for (const listener of listeners) listener(node, output);
  node.setDirtyCanvas?.(true, true);
}

/** A node by its execution id; nodes in subgraphs have ids such as "4:2". */
export function findNode(id) {
  let graph = app.graph;
  const path = id.split(":");
  const last = path.pop();
  for (const part of path) {
    graph = graph?.getNodeById?.(Number(part))?.subgraph;
  }
  return graph?.getNodeById?.(Number.isNaN(Number(last)) ? last : Number(last));
}
