import { Chart } from "./chart.js";
import { KEPT_SAMPLES, samples } from "./connection.js";
import { bytes, element, quantity } from "./dom.js";
import { MemoryBar, memoryShare } from "./memory_bar.js";
import { CHARTS, INTERVAL, setting } from "./settings.js";
import { text } from "./texts.js";

const NONE = "–";

/** The busiest engine's name and share, or null. */
export function busiest(device) {
  const engines = Object.entries(device.engine_percent).sort(([, one], [, other]) => other - one);
  return engines.length > 0 ? { engine: engines[0][0], share: engines[0][1] } : null;
}

/** One device: built once, then only its texts change. */
class DeviceCard {
  constructor(device) {
    this.id = device.device;
    const heading = `xpu-card-${this.id.replace(":", "-")}`;
    this.memory = new MemoryBar(this.id);
    this.memoryChart = new Chart("memory", this.id);
    this.loadChart = new Chart("load", this.id);
    this.charts = element("div", { class: "xpu-charts" }, this.memoryChart.element, this.loadChart.element);
    this.engines = element("p", { class: "xpu-engines" });
    this.figures = new Figures(["temperature", "power", "frequency", "free"]);
    this.source = element("p", { class: "xpu-source" });
    this.missing = element("ul");
    this.why = element("details", { class: "xpu-missing" }, element("summary", { text: text("whyMissing") }), this.missing);
    this.element = element(
      "section",
      { class: "xpu-card", "aria-labelledby": heading, "data-device": this.id },
      element("h3", { id: heading }, element("span", { class: "xpu-id", text: this.id }), ` ${shortName(device.name)}`),
      this.memory.element,
      this.charts,
      this.engines,
      this.figures.element,
      this.source,
      this.why,
    );
  }

  update(device) {
    this.memory.update(device.memory);
    this.charts.hidden = !setting(CHARTS);
    if (!this.charts.hidden) this.updateCharts();
    this.figures.show("temperature", measured(device.temperature_celsius, "°C"));
    this.figures.show("power", measured(device.power_watts, "W"));
    this.figures.show("frequency", measured(device.frequency_mhz, "MHz"));
    this.figures.show("free", device.memory && bytes(device.memory.free_bytes));
    const engines = Object.entries(device.engine_percent).map(([name, share]) => `${name} ${quantity(share, "%")}`);
    this.engines.textContent = engines.length > 0 ? text("engines", { engines: engines.join(" · ") }) : "";
    this.source.textContent = device.memory ? text("memoryBy", device.memory) : "";
    this.source.title = device.memory?.distrusted.map((reason) => text("passedOver", { reason })).join("\n") ?? "";
    this.explain(device.missing);
  }

  updateCharts() {
    const points = (share) =>
      samples.map(({ taken_at, devices }) => {
        const own = devices.find(({ device }) => device === this.id);
        return { at: taken_at, share: own ? share(own) : null };
      });
    const interval = setting(INTERVAL);
    this.memoryChart.update(points(({ memory }) => memoryShare(memory)), interval, interval * KEPT_SAMPLES);
    this.loadChart.update(points((own) => busiest(own)?.share ?? null), interval, interval * KEPT_SAMPLES);
  }

  explain(missing) {
    const reasons = Object.entries(missing).map(([name, reason]) => element("li", { text: `${name}: ${reason}` }));
    this.why.hidden = reasons.length === 0;
    this.missing.replaceChildren(...reasons);
  }
}

/** Named figures, two by two. */
class Figures {
  constructor(names) {
    this.values = Object.fromEntries(names.map((name) => [name, element("dd")]));
    const pairs = names.map((name) => element("div", {}, element("dt", { text: text(name) }), this.values[name]));
    this.element = element("dl", { class: "xpu-figures" }, ...pairs);
  }

  show(name, text) {
    this.values[name].textContent = text ?? NONE;
  }
}

function measured(value, unit) {
  return value === null ? null : quantity(value, unit);
}

/** "Intel(R) Arc(TM) B580 Graphics" is "Intel Arc B580". */
function shortName(name) {
  return name.replace(/\((R|TM)\)/g, "").replace(/ Graphics$/, "");
}

/** The cards of all devices and of the host. */
export class Cards {
  constructor() {
    this.cards = new Map();
    this.host = element("p", { class: "xpu-host" });
    this.element = element("div", { class: "xpu-cards" }, this.host);
  }

  update(sample) {
    for (const device of sample.devices) {
      if (!this.cards.has(device.device)) {
        const card = new DeviceCard(device);
        this.cards.set(device.device, card);
        this.host.before(card.element);
      }
      this.cards.get(device.device).update(device);
    }
    for (const [id, card] of this.cards) {
      if (!sample.devices.some((device) => device.device === id)) {
        card.element.remove();
        this.cards.delete(id);
      }
    }
    this.host.textContent = sample.host ? hostText(sample.host) : text("hostUnread", { reason: sample.host_problem });
  }
}

function hostText({ used_bytes, total_bytes, own_bytes, cpu_percent }) {
  const [used, total, own] = [used_bytes, total_bytes, own_bytes].map(bytes);
  return text("hostLine", { used, total, own, cpu: quantity(cpu_percent, "%") });
}
