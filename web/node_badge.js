import { events } from "./connection.js";
import { live } from "./live.js";
import { findNode, onResult } from "./node_results.js";
import { text } from "./texts.js";

const USUAL = { fgColor: "#ffffff", bgColor: "#1f4d7a" };
const DIFFERS = { fgColor: "#ffffff", bgColor: "#b3261e" };
const RUNG = { fgColor: "#ffffff", bgColor: "#7a4f00" };
const worn = new WeakSet();
const NOT_SHOWN = { text: "", bgColor: "transparent" };

/** Gives a node of ours badges: the device it ran on, red where that is not the one asked for, and the rungs it took. */
export function addBadges(node) {
  if (node.comfyClass?.startsWith("XPU")) wearBadges(node);
}

function wearBadges(node) {
  worn.add(node);
  node.badges?.push(() => deviceBadge(node), () => rungBadge(node));
}

/** Begins to hear on which devices nodes ran. */
export function startNodeBadges() {
  onResult((node, output) => {
    const stage = output.xpu?.at(-1);
    if (stage) live().stages.set(node, stage);
  });
  events.addEventListener("placement", ({ detail }) => {
    const node = detail.state === "done" && detail.node_id ? findNode(detail.node_id) : null;
    if (!node) return;
    if (!worn.has(node)) wearBadges(node); // a stock node that is protected
    live().stages.set(node, detail);
    node.setDirtyCanvas?.(true, true);
  });
}

/** "xpu:0" or "xpu:0, not xpu:1" */
function deviceBadge(node) {
  const stage = live().stages.get(node);
  if (!stage) return badge(NOT_SHOWN);
  if (elsewhere(stage)) return badge({ text: text("ranOnAnother", stage), ...DIFFERS });
  return badge({ text: stage.effective, ...USUAL });
}

/** "395 MiB freed, 45 % resident" */
function rungBadge(node) {
  const taken = live().stages.get(node)?.rungs.join(", ");
  return badge(taken ? { text: taken, ...RUNG } : NOT_SHOWN);
}

/** Whether a node ran on another device than it was asked to: "xpu" asks for any of them. */
function elsewhere({ requested, effective }) {
  return !["auto", effective, effective.split(":")[0]].includes(requested);
}

function badge(options) {
  return new window.LGraphBadge(options);
}
