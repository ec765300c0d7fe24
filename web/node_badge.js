import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const USUAL = { fgColor: "#ffffff", bgColor: "#1f4d7a" };
const DIFFERS = { fgColor: "#ffffff", bgColor: "#b3261e" };

/** node -> the stage it ran last */
const stages = new WeakMap();

/** Shows on each of our nodes the device it ran on: red where that is not the one asked for. */
export function startNodeBadges() {
  api.addEventListener("executed", ({ detail }) => {
    const stage = detail?.output?.xpu?.at(-1);
    const node = stage && findNode(String(detail.display_node ?? detail.node));
    if (!node) return;
    if (!stages.has(node)) {
      node.badges ??= [];
      node.badges.push(() => badge(stages.get(node)));
    }
    stages.set(node, stage);
    node.setDirtyCanvas?.(true, true);
  });
}

function badge(stage) {
  return new window.LGraphBadge({ text: badgeText(stage), ...(stage.reason ? DIFFERS : USUAL) });
}

/** "xpu:0" or "xpu:0, not xpu:1" */
export function badgeText(stage) {
  return stage.reason ? `${stage.effective}, not ${stage.requested}` : stage.effective;
}

/** A node by its execution id; nodes in subgraphs have ids such as "4:2". */
function findNode(id) {
  let graph = app.graph;
  const path = id.split(":");
  const last = path.pop();
  for (const part of path) {
    graph = graph?.getNodeById?.(Number(part))?.subgraph;
  }
  return graph?.getNodeById?.(Number.isNaN(Number(last)) ? last : Number(last));
}
