import { app } from "../../scripts/app.js";

const PREFIX = "xpu-nodes";

export const INTERVAL = `${PREFIX}.interval`;
export const BADGE = `${PREFIX}.badge`;
export const CHARTS = `${PREFIX}.charts`;
export const TOASTS = `${PREFIX}.toasts`;
export const PROTECT = `${PREFIX}.protect`;
/** Whether the switch was thrown, or put off, once: it is not offered again. */
export const DECIDED = `${PREFIX}.protect-decided`;

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
  {
    id: PROTECT,
    name: "Protect every workflow",
    tooltip: "Stock nodes, too, survive running out of memory and a lost GPU. Takes effect with the next prompt.",
    type: "boolean",
    defaultValue: false,
    category: ["XPU Nodes", "Protection", "Switch"],
    onChange,
  },
  { id: DECIDED, name: "Protection was offered", type: "hidden", defaultValue: false },
  beside("device", "Device for protected models", "auto: the one that ComfyUI chose; or cpu, xpu:1 and the like.",
    { type: "text", defaultValue: "auto" }),
  choice("precision", "Precision of protected models", ["auto", "fp32", "bf16", "fp16", "int8"],
    "auto: ComfyUI's choice for the device. int8: diffusion models in half the memory on the card, quantised in each prompt."),
  choice("resident", "Weights that stay on the device", ["auto", "all", "90%", "75%", "60%", "45%", "30%", "20%", "10%", "0%"],
    "How much of a model's weights stays on its device; the rest streams. auto: as much as fits."),
  beside("exempt", "Nodes that are left alone", "Types or ids of nodes, separated by commas: KSampler, 12",
    { type: "text", defaultValue: "" }),
  choice("seeds", "Noise that samplers draw on the way", ["as ComfyUI", "the same everywhere"],
    "as ComfyUI: noise is drawn on the device, the picture is stock's there; or the same picture on every device."),
  choice("takeover", "Let the CPU take over", ["yes", "ask by stopping", "no"],
    "Where no GPU can go on. ask by stopping: the prompt stops; queued again, it goes on on the CPU."),
  choice("locked", "System memory that may be page-locked", ["auto", "50%", "25%", "10%", "0%"],
    "For copies to a GPU while it computes. auto: as much as the system allows."),
  beside("patience", "Seconds until a GPU counts as hanging",
    "At least, for one call of the driver; 0: never. XPU_NODES_PATIENCE decides where it is set.",
    { type: "number", defaultValue: 300, attrs: { min: 0, max: 86400, step: 10 } }),
  beside("hooks", "Changes to ComfyUI that are left out",
    "Names that XPU Doctor lists, separated by commas: protected VAEs, protected loading",
    { type: "text", defaultValue: "" }),
];

/** A setting beside the switch. */
function beside(what, name, tooltip, kind) {
  return { id: `${PROTECT}.${what}`, name, tooltip, category: ["XPU Nodes", "Protection", what], ...kind };
}

/** A choice beside the switch; the first option is the default. */
function choice(what, name, options, tooltip) {
  return beside(what, name, tooltip, { type: "combo", options, defaultValue: options[0] });
}

/** Stores a setting, as the settings' own page does. */
export async function setSetting(id, value) {
  await app.extensionManager.setting.set(id, value);
  onChange();
}

/** The value of a setting; its default where the front end does not know it yet. */
export function setting(id) {
  const value = app.extensionManager?.setting?.get(id);
  return value ?? settings.find((entry) => entry.id === id).defaultValue;
}
