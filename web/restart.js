import { events, get, restart } from "./connection.js";
import { actionButton, element } from "./dom.js";
import { text } from "./texts.js";

/** Offers a restart with the queue while only that gets a device back. */
export class Restart {
  constructor() {
    this.why = element("p", { id: "xpu-why-restart" });
    this.said = element("p", { role: "status" });
    this.element = element(
      "section",
      { class: "xpu-restart", "aria-label": text("restart"), hidden: "" },
      this.why,
      actionButton(text("restart"), () => this.restart(), { "aria-describedby": "xpu-why-restart" }),
      this.said,
    );
    this.show = () => this.load();
    for (const event of ["fault", "reconnected"]) events.addEventListener(event, this.show);
    this.load();
  }

  destroy() {
    for (const event of ["fault", "reconnected"]) events.removeEventListener(event, this.show);
  }

  async load() {
    const { reason } = await get("restart");
    this.why.textContent = text("whyRestart", { reason });
    this.said.textContent = "";
    this.element.hidden = !reason;
  }

  async restart() {
    try {
      this.said.textContent = text("restarting", { kept: await restart() });
    } catch (error) {
      this.said.textContent = text("notRestarted", { reason: error.message });
    }
  }
}
