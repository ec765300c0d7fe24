import { events, newestJob } from "./connection.js";
import { bytes, element, icon, quantity } from "./dom.js";
import { text, word } from "./texts.js";

const STATES = { running: "spinner pi-spin", done: "check", stopped: "ban" };

/** Where the latest prompt's stages run or ran, and what was done about faults. */
export class Job {
  constructor() {
    this.list = element("ul");
    this.news = element("p", { class: "xpu-hidden-text", role: "status" });
    this.element = element(
      "section",
      { class: "xpu-job", "aria-label": text("job") },
      element("h3", { text: text("job") }),
      this.list,
      this.news,
    );
    this.outdated = false;
    this.requests = 0;
    this.refresh = () => {
      this.outdated = true;
      this.follow();
    };
    this.follow = () => {
      if (this.outdated && !document.hidden) this.load();
    };
    events.addEventListener("placement", this.refresh);
    events.addEventListener("fault", this.refresh);
    document.addEventListener("visibilitychange", this.follow);
    this.refresh();
  }

  destroy() {
    events.removeEventListener("placement", this.refresh);
    events.removeEventListener("fault", this.refresh);
    document.removeEventListener("visibilitychange", this.follow);
  }

  async load() {
    this.outdated = false;
    const request = ++this.requests;
    try {
      const job = await newestJob();
      if (request !== this.requests) return; // a later one may have been answered already
      if (!job) {
        this.list.replaceChildren(element("li", { text: text("noJob") }));
        return;
      }
      const stages = job.stages.map(stageLine);
      this.list.replaceChildren(...stages, ...job.faults.map(faultLine));
      this.news.textContent = stages.at(-1)?.textContent ?? ""; // faults have toasts, which are read out too
    } catch (error) {
      this.list.replaceChildren(element("li", { text: error.message }));
    }
  }
}

function stageLine(stage) {
  const figures = [stage.effective, stage.precision];
  figures.push(stage.state === "running" ? text("running") : quantity(stage.seconds, "s", 1));
  if (stage.state === "stopped") figures.push(text("stopped"));
  if (stage.peak_bytes !== null && stage.state !== "running") figures.push(text("peak", { bytes: bytes(stage.peak_bytes) }));
  const line = element("span", {}, element("b", { text: `${word(stage.name)} ` }), figures.join(" · "));
  const remarks = [stage.reason, ...stage.notes].filter(Boolean);
  line.append(...remarks.map((remark) => element("span", { class: "xpu-remark", text: remark })));
  if (!stage.reason) return element("li", { class: `xpu-${stage.state}` }, icon(STATES[stage.state]), line);
  return element("li", { class: `xpu-differs xpu-${stage.state}` }, icon("exclamation-triangle"), line);
}

/** What failed where, and what was done about it. */
export function faultText(fault) {
  const stage = word(fault.stage);
  const where = fault.step === null ? stage : text("atStep", { ...fault, stage });
  const end = fault.rung ? text("continued", { what: word(fault.rung_name, fault.rung) }) : text(fault.hangs ? "hangs" : "failed");
  return text("fault", { kind: word(fault.kind), where, end });
}

function faultLine(fault) {
  const line = element("span", {}, element("b", { text: `${fault.device} ` }), faultText(fault));
  const severity = fault.rung ? "warning" : "error";
  const sign = fault.rung ? "exclamation-triangle" : "times-circle";
  return element("li", { class: `xpu-fault xpu-${severity}` }, icon(sign), line);
}
