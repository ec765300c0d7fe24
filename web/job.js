import { events, get } from "./connection.js";
import { bytes, element } from "./dom.js";

/** Where the latest prompt's stages ran, and what was done about faults. */
export class Job {
  constructor() {
    this.list = element("ul", { "aria-live": "polite" });
    this.element = element("section", { class: "xpu-job", "aria-label": "Latest job" }, element("h3", { text: "Latest job" }), this.list);
    this.refresh = () => this.load();
    events.addEventListener("placement", this.refresh);
    events.addEventListener("fault", this.refresh);
    this.load();
  }

  destroy() {
    events.removeEventListener("placement", this.refresh);
    events.removeEventListener("fault", this.refresh);
  }

  async load() {
    try {
      const [job] = (await get("jobs")).jobs;
      this.list.replaceChildren(...(job ? lines(job) : [element("li", { text: "None yet." })]));
    } catch (error) {
      this.list.replaceChildren(element("li", { text: error.message }));
    }
  }
}

function lines(job) {
  const stages = job.stages.map((stage) => {
    const peak = stage.peak_bytes === null ? "" : `, peak ${bytes(stage.peak_bytes)}`;
    const text = `${stage.name}: ${stage.effective}, ${stage.precision}, ${stage.seconds.toFixed(1)} s${peak}`;
    return stage.reason
      ? element("li", { class: "xpu-differs", text: `${text}. ${stage.reason}` })
      : element("li", { text });
  });
  const faults = job.faults.map((fault) => {
    const where = fault.step === null ? fault.stage : `${fault.stage}, step ${fault.step}`;
    const end = fault.rung ? `continued with ${fault.rung}` : "the job failed";
    return element("li", { class: "xpu-fault", text: `${fault.device}: ${fault.kind} (${where}): ${end}` });
  });
  return [...stages, ...faults];
}
