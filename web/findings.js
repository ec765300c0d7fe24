import { get } from "./connection.js";
import { copyText, element } from "./dom.js";

const DOCUMENTATION = "https://github.com/xpu-nodes/xpu-nodes/blob/main/";

/** What the doctor finds, with fixes to copy. */
export class Findings {
  constructor() {
    this.list = element("div", { class: "xpu-findings", "aria-live": "polite" });
    this.button = element("button", { type: "button", text: "Examine thoroughly", onclick: () => this.load(true) });
    this.element = element(
      "section",
      { class: "xpu-doctor", "aria-label": "Doctor" },
      element("h3", { text: "Doctor" }),
      this.list,
      this.button,
    );
    this.load(false);
  }

  /** @param {boolean} kernels Also run a real kernel on every device. */
  async load(kernels) {
    this.button.disabled = true;
    this.list.setAttribute("aria-busy", "true");
    try {
      const { findings } = await get(kernels ? "doctor?kernels=true" : "doctor");
      const good = findings.filter((finding) => finding.state === "ok");
      const bad = findings.filter((finding) => finding.state !== "ok");
      const summary = element("p", { text: `${good.length} checks passed, ${bad.length} with something to say.` });
      this.list.replaceChildren(summary, ...bad.map(entry));
    } catch (error) {
      this.list.replaceChildren(element("p", { text: error.message }));
    } finally {
      this.list.removeAttribute("aria-busy");
      this.button.disabled = false;
    }
  }
}

function entry(finding) {
  const details = element(
    "details",
    { class: `xpu-finding xpu-${finding.state}` },
    element("summary", {}, element("b", { text: `${finding.state}: ` }), finding.what),
    element("p", { text: finding.evidence }),
  );
  if (finding.fix) {
    const button = element("button", { type: "button", "aria-label": `Copy the fix for: ${finding.what}`, text: "Copy" });
    button.addEventListener("click", () => copyText(finding.fix, button));
    details.append(element("pre", { tabindex: "0", text: finding.fix }), button);
  }
  details.append(element("a", { href: DOCUMENTATION + finding.link, target: "_blank", rel: "noopener", text: "More" }));
  return details;
}
