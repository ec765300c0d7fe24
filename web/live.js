import { app } from "../../scripts/app.js";

export const TAB_ID = "xpu-nodes";

/** What parts of the page show of ours that the front end builds: the latest sample, and each node's latest stage. */
export const shown = { sample: null, stages: new WeakMap() };

let followed = null;

/**
 * The same, as the front end's Vue follows it: a getter of ours that reads from here is called again when it changed.
 * Extensions have no Vue of their own, but what they register as a sidebar tab is reactive where the tabs are listed.
 */
export function live() {
  followed ??= app.extensionManager?.sidebarTab?.sidebarTabs?.find(({ id }) => id === TAB_ID)?.shown;
  return followed ?? shown;
}
