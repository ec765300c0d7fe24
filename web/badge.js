import { app } from "../../scripts/app.js";
import { busiest } from "./cards.js";
import { events, samples, watch } from "./connection.js";
import { memoryShare } from "./memory_bar.js";
import { TAB_ID } from "./panel.js";
import { BADGE, setting, settingsChanged } from "./settings.js";

const CLASS = "xpu-badge";

/** Front ends before 1.27 have no place for the button: after so many samples without one, none are asked for. */
const PATIENCE_SAMPLES = 10;

/** The button of the top bar; its label is replaced by the figures as they come. */
export const badgeButton = {
  icon: "pi pi-microchip",
  label: "XPU",
  tooltip: "XPU: memory and load",
  class: CLASS,
  onClick: () => app.extensionManager.command.execute(`Workspace.ToggleSidebarTab.${TAB_ID}`),
};

let unwatch = null;
let missed = 0;

/** Begins to show figures, as long as the setting says so. */
export function startBadge() {
  events.addEventListener("sample", (event) => show(event.detail));
  settingsChanged.addEventListener("change", follow);
  follow();
}

function follow() {
  const wanted = setting(BADGE);
  missed = 0;
  if (wanted) unwatch ??= watch();
  else stopWatching();
  document.body.classList.toggle("xpu-no-badge", !wanted);
  if (samples.length > 0) show(samples.at(-1));
}

function stopWatching() {
  unwatch?.();
  unwatch = null;
}

function show(sample) {
  const label = document.querySelector(`.${CLASS} .p-button-label`);
  if (!label) {
    missed += 1;
    if (missed >= PATIENCE_SAMPLES) stopWatching();
    return;
  }
  const text = badgeText(sample);
  label.textContent = text;
  label.closest(`.${CLASS}`).setAttribute("aria-label", `XPU: ${text}`);
}

/** The device with the fullest memory: "xpu:0 42 %, load 97 %". */
function badgeText(sample) {
  const fullest = sample.devices.toSorted((a, b) => (memoryShare(b.memory) ?? 0) - (memoryShare(a.memory) ?? 0))[0];
  if (!fullest) return sample.host ? `RAM ${memoryShare(sample.host).toFixed(0)} %` : "XPU";
  const share = memoryShare(fullest.memory);
  const busy = busiest(fullest);
  const parts = [share === null ? fullest.device : `${fullest.device} ${share.toFixed(0)} %`];
  if (busy !== null) parts.push(`load ${busy.share.toFixed(0)} %`);
  return parts.join(", ");
}
