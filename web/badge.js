import { app } from "../../scripts/app.js";
import { busiest } from "./cards.js";
import { events, samples, watch } from "./connection.js";
import { live, TAB_ID } from "./live.js";
import { memoryShare } from "./memory_bar.js";
import { BADGE, setting } from "./settings.js";
import { text } from "./texts.js";

/** Focus mode hides the top bar: after so many samples that nobody showed, none are asked for. */
const PATIENCE_SAMPLES = 10;

let unwatch = null;
let unseen = 0;

/** What the top bar shows of ours. The front end asks again when a sample came or the setting changed, while it shows. */
export function badgeButtons() {
  const { sample } = live();
  const wanted = setting(BADGE);
  unseen = 0;
  queueMicrotask(wanted ? startWatching : stopWatching);
  return wanted ? [button(sample ? badgeText(sample) : "XPU")] : [];
}

/** Begins to hand samples on to the button. */
export function startBadge() {
  events.addEventListener("sample", (event) => show(event.detail));
  if (samples.length > 0) show(samples.at(-1));
}

function button(label) {
  return {
    icon: "pi pi-microchip",
    label,
    tooltip: label === "XPU" ? text("badgeTooltip") : `XPU: ${label}`,
    class: "xpu-badge",
    onClick: () => app.extensionManager.command.execute(`Workspace.ToggleSidebarTab.${TAB_ID}`),
  };
}

function startWatching() {
  unwatch ??= watch();
}

function stopWatching() {
  unwatch?.();
  unwatch = null;
}

function show(sample) {
  live().sample = sample;
  unseen += 1;
  if (unseen >= PATIENCE_SAMPLES) stopWatching();
}

/** The device with the fullest memory: "xpu:0 42 %, load 97 %". */
function badgeText(sample) {
  const fullest = sample.devices.toSorted((a, b) => (memoryShare(b.memory) ?? 0) - (memoryShare(a.memory) ?? 0))[0];
  if (!fullest) return sample.host ? `RAM ${memoryShare(sample.host).toFixed(0)} %` : "XPU";
  const share = memoryShare(fullest.memory);
  const busy = busiest(fullest);
  const parts = [share === null ? fullest.device : `${fullest.device} ${share.toFixed(0)} %`];
  if (busy !== null) parts.push(text("badgeLoad", { share: `${busy.share.toFixed(0)} %` }));
  return parts.join(", ");
}
