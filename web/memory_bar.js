import { bytes, element, quantity } from "./dom.js";
import { text } from "./texts.js";

/** Share of memory in use, or null. */
export function memoryShare(memory) {
  return memory && memory.total_bytes > 0 ? (100 * usedBytes(memory)) / memory.total_bytes : null;
}

function usedBytes({ own_bytes, others_bytes }) {
  return own_bytes + (others_bytes ?? 0);
}

/** What this ComfyUI and what other programs hold of a device's memory. */
export class MemoryBar {
  constructor(device) {
    this.own = element("span", { class: "xpu-own" });
    this.others = element("span", { class: "xpu-others" });
    this.bar = element(
      "div",
      { class: "xpu-bar", role: "meter", "aria-label": text("memoryOf", { device }), "aria-valuemin": 0, "aria-valuemax": 100 },
      this.own,
      this.others,
    );
    this.share = element("b", { class: "xpu-share" });
    this.text = element("p", { class: "xpu-memory" });
    this.element = element("div", {}, element("div", { class: "xpu-bar-row" }, this.bar, this.share), this.text);
  }

  update(memory) {
    const share = memoryShare(memory);
    this.share.textContent = share === null ? "–" : quantity(share, "%");
    this.bar.setAttribute("aria-valuenow", share ?? 0);
    this.own.style.width = memory ? `${(100 * memory.own_bytes) / memory.total_bytes}%` : 0;
    this.others.style.width = memory ? `${(100 * (memory.others_bytes ?? 0)) / memory.total_bytes}%` : 0;
    this.text.replaceChildren(...(memory ? parts(memory) : [text("memoryUnread")]));
    this.bar.setAttribute("aria-valuetext", this.text.textContent);
  }
}

function parts(memory) {
  const others = memory.others_bytes === null ? text("othersUnknown") : text("others", { bytes: bytes(memory.others_bytes) });
  return [
    element("span", { class: "xpu-key xpu-own", text: text("here", { bytes: bytes(memory.own_bytes) }) }),
    " ",
    element("span", { class: "xpu-key xpu-others", text: others }),
    " ",
    element("span", { text: text("usedOf", { used: bytes(usedBytes(memory)), total: bytes(memory.total_bytes) }) }),
  ];
}
