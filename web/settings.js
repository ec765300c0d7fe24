import { app } from "../../scripts/app.js";

const PREFIX = "xpu-nodes";

export const INTERVAL = `${PREFIX}.interval`;
export const BADGE = `${PREFIX}.badge`;
export const CHARTS = `${PREFIX}.charts`;
export const TOASTS = `${PREFIX}.toasts`;

/** Fires "change" when a setting changed. */
export const settingsChanged = new EventTarget();

/** The front end calls this before it stores the new value. */
const onChange = () => setTimeout(() => settingsChanged.dispatchEvent(new Event("change")));

export const settings = [
  {
    id: INTERVAL,
    name: "Seconds between readings",
    type: "slider",
    defaultValue: 2,
    attrs: { min: 0.5, max: 30, step: 0.5 },
    category: ["XPU Nodes", "Monitor", "Interval"],
    onChange,
  },
  {
    id: BADGE,
    name: "Show memory and load in the top bar",
    type: "boolean",
    defaultValue: true,
    category: ["XPU Nodes", "Monitor", "Badge"],
    onChange,
  },
  {
    id: CHARTS,
    name: "Show charts in the sidebar",
    type: "boolean",
    defaultValue: true,
    category: ["XPU Nodes", "Monitor", "Charts"],
    onChange,
  },
  {
    id: TOASTS,
    name: "Announce faults",
    type: "boolean",
    defaultValue: true,
    category: ["XPU Nodes", "Monitor", "Faults"],
    onChange,
  },
];

/** The value of a setting; its default where the front end does not know it yet. */
export function setting(id) {
  const value = app.extensionManager?.setting?.get(id);
  return value ?? settings.find((entry) => entry.id === id).defaultValue;
}
