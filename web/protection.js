import { events, samples } from "./connection.js";
import { actionButton, element } from "./dom.js";
import { DECIDED, PROTECT, setSetting, setting, settingsChanged } from "./settings.js";
import { text } from "./texts.js";

/** The switch for workflows of stock nodes; offered where there is an Intel GPU and nobody has decided yet. */
export class Protection {
  constructor() {
    this.box = element("input", { type: "checkbox", role: "switch", "aria-describedby": "xpu-promise" });
    this.box.addEventListener("change", () => this.decide(this.box.checked));
    this.later = actionButton(text("later"), () => this.decide(false), { class: "xpu-later" });
    this.element = element(
      "section",
      { class: "xpu-protection", "aria-label": text("protection") },
      element("label", {}, this.box, ` ${text("protect")}`),
      element("p", { id: "xpu-promise", text: text("promise") }),
      this.later,
    );
    this.show = () => {
      this.box.checked = setting(PROTECT);
      const offered = !setting(DECIDED) && !setting(PROTECT) && hasIntelGpu();
      this.element.classList.toggle("xpu-offered", offered);
      this.later.hidden = !offered;
    };
    settingsChanged.addEventListener("change", this.show);
    events.addEventListener("sample", this.show);
    this.show();
  }

  destroy() {
    settingsChanged.removeEventListener("change", this.show);
    events.removeEventListener("sample", this.show);
  }

  async decide(on) {
    await setSetting(PROTECT, on);
    await setSetting(DECIDED, true);
  }
}

function hasIntelGpu() {
  return samples.at(-1)?.devices.some(({ device }) => device.startsWith("xpu")) ?? false;
}
