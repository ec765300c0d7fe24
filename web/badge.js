import { app } from "../../scripts/app.js";
import { load, memoryShare } from "./cards.js";
import { events, samples, watch } from "./connection.js";
import { TAB_ID } from "./panel.js";
import { BADGE, setting, settingsChanged } from "./settings.js";

const CLASS = "xpu-badge";

/** The button of the top bar; its label is replaced by the figures as they come. */
export const badgeButton = {
  icon: "pi pi-microchip",
  label: "XPU",
  tooltip: "XPU: memory and load",
  class: CLASS,
  onClick: () => app.extensionManager.command.execute(`Workspace.ToggleSidebarTab.${TAB_ID}`),
};

let unwatch = null;

/** Begins to show figures, as long as the setting says so. */
export function startBadge() {
  events.addEventListener("sample", (event) => show(event.detail));
  settingsChanged.addEventListener("change", follow);
  follow();
}

function follow() {
  const wanted = setting(BADGE);
  if (wanted && !unwatch) unwatch = watch();
  if (!wanted && unwatch) {
    unwatch();
    unwatch = null;
  }
  document.body.classList.toggle("xpu-no-badge", !wanted);
  if (samples.length > 0) show(samples.at(-1));
}

function show(sample) {
  const label = document.querySelector(`.${CLASS} .p-button-label`);
  if (label) label.textContent = badgeText(sample);
}

/** The device with the fullest memory: "xpu:0 42 %, load 97 %". */
function badgeText(sample) {
  const fullest = sample.devices.toSorted((a, b) => (memoryShare(b.memory) ?? 0) - (memoryShare(a.memory) ?? 0))[0];
  if (!fullest) return `RAM ${((100 * sample.host.used_bytes) / sample.host.total_bytes).toFixed(0)} %`;
  const share = memoryShare(fullest.memory);
  const busy = load(fullest);
  const parts = [share === null ? fullest.device : `${fullest.device} ${share.toFixed(0)} %`];
  if (busy !== null) parts.push(`load ${busy.toFixed(0)} %`);
  return parts.join(", ");
}
