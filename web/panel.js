import { Cards } from "./cards.js";
import { events, freeMemory, get, samples, watch } from "./connection.js";
import { copyText, element } from "./dom.js";
import { Findings } from "./findings.js";
import { Job } from "./job.js";

export const TAB_ID = "xpu-nodes";

let mounted = null;

/** The sidebar tab: what the devices do, where the latest job ran, what the doctor says. */
export const sidebarTab = {
  id: TAB_ID,
  icon: "pi pi-microchip",
  title: "XPU",
  tooltip: "Devices: memory, load, doctor",
  type: "custom",
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
    this.job = new Job();
    this.findings = new Findings();
    this.said = element("p", { class: "xpu-said", role: "status" });
    const free = element("button", { type: "button", text: "Free memory", onclick: () => this.free(free) });
    const copy = element("button", { type: "button", text: "Copy report", onclick: () => this.copy(copy) });
    this.element = element(
      "div",
      { class: "xpu-panel" },
      this.cards.element,
      element("div", { class: "xpu-actions" }, free, copy),
      this.said,
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
    this.job.destroy();
    this.unwatch();
  }

  async free(button) {
    button.disabled = true;
    try {
      this.said.textContent = `Models are unloaded ${await freeMemory()}.`;
    } catch (error) {
      this.said.textContent = `Memory was not freed: ${error.message}`;
    } finally {
      button.disabled = false;
    }
  }

  async copy(button) {
    try {
      copyText(await report(), button);
    } catch (error) {
      this.said.textContent = `There is no report: ${error.message}`;
    }
  }
}

/** Devices, findings, hooks and jobs as text to paste into an issue, without what identifies a machine. */
async function report() {
  const [{ devices, rejected }, { findings }, { hooks }, { jobs }] = await Promise.all(
    ["devices", "doctor", "hooks", "jobs"].map(get),
  );
  const anonymous = devices.map(({ uuid, pci_address, ...device }) => device);
  const short = findings.map(({ code, state, what }) => ({ code, state, what }));
  const sample = samples.at(-1)?.devices ?? [];
  return JSON.stringify({ devices: anonymous, rejected, findings: short, hooks, job: jobs[0] ?? null, sample }, null, 2);
}
