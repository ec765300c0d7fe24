import { Cards } from "./cards.js";
import { events, freeMemory, samples, watch } from "./connection.js";
import { actionButton, copyText, element } from "./dom.js";
import { Findings } from "./findings.js";
import { Job } from "./job.js";
import { shown, TAB_ID } from "./live.js";
import { Protection } from "./protection.js";
import { report } from "./report.js";
import { Restart } from "./restart.js";
import { text } from "./texts.js";

let mounted = null;

/** The sidebar tab: what the devices do, where the latest job ran, what the doctor says. */
export const sidebarTab = {
  id: TAB_ID,
  icon: "pi pi-microchip",
  title: "XPU",
  get tooltip() {
    return text("tabTooltip");
  },
  type: "custom",
  shown,
  render(container) {
    this.destroy(); // the front end may render again without destroying first
    mounted = new Panel();
    container.replaceChildren(mounted.element);
  },
  destroy() {
    mounted?.destroy();
    mounted = null;
  },
};

class Panel {
  constructor() {
    this.cards = new Cards();
    this.restart = new Restart();
    this.protection = new Protection();
    this.job = new Job();
    this.findings = new Findings();
    this.said = element("p", { class: "xpu-said", role: "status" });
    this.element = element(
      "div",
      { class: "xpu-panel" },
      this.cards.element,
      element(
        "div",
        { class: "xpu-actions" },
        actionButton(text("freeMemory"), () => this.free(), { class: "xpu-primary" }),
        actionButton(text("copyReport"), (button) => this.copy(button)),
      ),
      this.said,
      this.restart.element,
      this.protection.element,
      this.job.element,
      this.findings.element,
    );
    this.onSample = (event) => this.cards.update(event.detail);
    events.addEventListener("sample", this.onSample);
    if (samples.length > 0) this.cards.update(samples.at(-1));
    this.unwatch = watch();
  }

  destroy() {
    events.removeEventListener("sample", this.onSample);
    this.restart.destroy();
    this.protection.destroy();
    this.job.destroy();
    this.unwatch();
  }

  async free() {
    try {
      this.said.textContent = text("freed", { when: text(await freeMemory()) });
    } catch (error) {
      this.said.textContent = text("notFreed", { reason: error.message });
    }
  }

  async copy(button) {
    try {
      await copyText(await report(), button);
    } catch (error) {
      this.said.textContent = text("noReport", { reason: error.message });
    }
  }
}
