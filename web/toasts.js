import { app } from "../../scripts/app.js";
import { events } from "./connection.js";
import { faultText } from "./job.js";
import { findNode } from "./node_results.js";
import { setting, TOASTS } from "./settings.js";

/** Announces faults and what was done about them. */
export function startToasts() {
  events.addEventListener("fault", ({ detail }) => {
    const node = detail.node_id ? findNode(detail.node_id) : null;
    const told = `${detail.device}: ${faultText(detail)}`;
    const text = node?.title ? `${node.title}, ${told}` : told;
    if (setting(TOASTS)) announce(text, detail.rung ? "warn" : "error");
  });
}

/** Front ends differ: most have `toast.add`, early ones only `toast.addAlert`. */
function announce(text, severity) {
  const toast = app.extensionManager?.toast;
  if (toast?.add) toast.add({ severity, summary: "XPU Nodes", detail: text, life: 15000 });
  else toast?.addAlert?.(text);
}
