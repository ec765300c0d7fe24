import { samples } from "./connection.js";
import { Chart } from "./chart.js";
import { bytes, element } from "./dom.js";
import { CHARTS, setting } from "./settings.js";

const NONE = "–";

/** Share of memory in use, or null. */
export function memoryShare(memory) {
  return memory && memory.total_bytes > 0 ? (100 * memory.used_bytes) / memory.total_bytes : null;
}

/** Share of the busiest engine, or null. */
export function load(device) {
  const shares = Object.values(device.engine_percent);
  return shares.length > 0 ? Math.max(...shares) : null;
}

/** One device: built once, then only its texts change. */
class DeviceCard {
  constructor(device) {
    this.id = device.device;
    const heading = `xpu-card-${this.id.replace(":", "-")}`;
    this.meter = element("meter", { min: 0, max: 100, high: 85, optimum: 0, "aria-label": `Memory of ${this.id}` });
    this.memory = element("p", { class: "xpu-memory" });
    this.memoryChart = new Chart(`Memory of ${this.id}`);
    this.loadChart = new Chart(`Load of ${this.id}`);
    this.charts = element(
      "div",
      { class: "xpu-charts" },
      element("div", {}, element("span", { text: "Memory" }), this.memoryChart.element),
      element("div", {}, element("span", { text: "Load" }), this.loadChart.element),
    );
    this.values = {};
    const list = element("dl");
    for (const name of ["Engines", "Temperature", "Power", "Frequency"]) {
      this.values[name] = element("dd");
      list.append(element("div", {}, element("dt", { text: name }), this.values[name]));
    }
    this.element = element(
      "section",
      { class: "xpu-card", "aria-labelledby": heading, "data-device": this.id },
      element("h3", { id: heading }, element("b", { text: this.id }), ` ${device.name}`),
      this.meter,
      this.memory,
      this.charts,
      list,
    );
  }

  update(device) {
    const { memory, missing } = device;
    this.meter.value = memoryShare(memory) ?? 0;
    this.memory.textContent = memory ? memoryText(memory) : "Memory cannot be read";
    this.memory.title = memory ? `Source: ${memory.source}` : (missing.memory ?? "");
    this.charts.hidden = !setting(CHARTS);
    if (!this.charts.hidden) this.updateCharts();
    const busy = Object.entries(device.engine_percent).map(([engine, share]) => `${engine} ${share.toFixed(0)} %`);
    this.show("Engines", busy.join(", "), missing.engines);
    this.show("Temperature", device.temperature_celsius, missing.temperature, (value) => `${value.toFixed(0)} °C`);
    this.show("Power", device.power_watts, missing.power, (value) => `${value.toFixed(0)} W`);
    this.show("Frequency", device.frequency_mhz, missing.frequency, (value) => `${value.toFixed(0)} MHz`);
  }

  updateCharts() {
    const own = samples.map((sample) => sample.devices.find((device) => device.device === this.id));
    this.memoryChart.update(own.map((device) => (device ? memoryShare(device.memory) : null)));
    this.loadChart.update(own.map((device) => (device ? load(device) : null)));
  }

  show(name, value, reason, format = String) {
    const known = value !== null && value !== "";
    this.values[name].textContent = known ? format(value) : NONE;
    this.values[name].title = known ? "" : (reason ?? "No reading yet");
  }
}

function memoryText(memory) {
  const parts = [`${bytes(memory.used_bytes)} of ${bytes(memory.total_bytes)}`, `here ${bytes(memory.own_bytes)}`];
  if (memory.others_bytes !== null) parts.push(`others ${bytes(memory.others_bytes)}`);
  else parts.push("others unknown");
  return parts.join(" · ");
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
    const { used_bytes, total_bytes, own_bytes, cpu_percent } = sample.host;
    const cpu = `CPU ${cpu_percent.toFixed(0)} %`;
    this.host.textContent = `RAM ${bytes(used_bytes)} of ${bytes(total_bytes)} · here ${bytes(own_bytes)} · ${cpu}`;
  }
}
