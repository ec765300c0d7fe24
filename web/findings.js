import { get } from "./connection.js";
import { actionButton, copyText, element, icon } from "./dom.js";
import { text } from "./texts.js";

/** Where the findings' links lead; the same address as in pyproject.toml. */
const DOCUMENTATION = "https://github.com/xpu-nodes/xpu-nodes/blob/main/";

const ICONS = { note: "info-circle", warning: "exclamation-triangle", error: "times-circle" };

/** What the doctor finds, with fixes to copy. */
export class Findings {
  constructor() {
    this.list = element("div", { class: "xpu-findings", "aria-live": "polite" });
    this.element = element(
      "section",
      { class: "xpu-doctor", "aria-label": text("doctor") },
      element("h3", { text: text("doctor") }),
      this.list,
      actionButton(text("examine"), () => this.load(true)),
    );
    this.load(false);
  }

  /** @param {boolean} kernels Also run a real kernel on every device. */
  async load(kernels) {
    this.list.setAttribute("aria-busy", "true");
    try {
      const { findings } = await get(kernels ? "doctor?kernels=true" : "doctor");
      const good = findings.filter((finding) => finding.state === "ok");
      const bad = findings.filter((finding) => finding.state !== "ok");
      this.list.replaceChildren(summary(good.length, bad.length), ...bad.map(entry));
    } catch (error) {
      this.list.replaceChildren(element("p", { text: error.message }));
    } finally {
      this.list.removeAttribute("aria-busy");
    }
  }
}

function summary(good, bad) {
  const passed = text(bad > 0 ? "somePassed" : "allPassed", { good, bad });
  return element("p", { class: "xpu-ok" }, icon("check-circle"), element("span", { text: passed }));
}

function entry(finding) {
  const title = element("span", {}, element("b", { text: `${text(finding.state)}: ` }), finding.what);
  const details = element(
    "details",
    { class: `xpu-finding xpu-${finding.state}` },
    element("summary", {}, icon(ICONS[finding.state]), title),
    element("p", { text: finding.evidence }),
  );
  if (finding.fix) {
    const name = text("copyFix", finding);
    details.append(
      element("pre", { tabindex: "0", text: finding.fix }),
      actionButton(text("copy"), (button) => copyText(finding.fix, button), { "aria-label": name }),
    );
  }
  const href = new URL(finding.link, DOCUMENTATION).href;
  details.append(element("a", { href, target: "_blank", rel: "noopener", text: text("more") }));
  return details;
}
