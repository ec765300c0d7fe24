import { app } from "../../scripts/app.js";
import { onResult } from "./node_results.js";
import { text } from "./texts.js";

/** Nodes whose answer is meant to be read, and the room it takes. */
const SIZES = {
  XPUBenchmark: [620, 420],
  XPUDoctor: [480, 380],
  XPUFreeMemory: [280, 120],
};
const NAME = "report";

/** Gives a report node a text field that only the node writes. */
export function addText(node) {
  const size = SIZES[node.comfyClass];
  if (!size) return;
  const { widget } = app.widgets.STRING(node, NAME, ["STRING", { multiline: true }], app);
  widget.serialize = false; // neither saved
  Object.assign(widget.options, { serialize: false, read_only: true }); // nor sent with a prompt
  widget.inputEl.readOnly = true;
  widget.inputEl.classList.add("xpu-report");
  widget.inputEl.placeholder = text("reportEmpty");
  widget.inputEl.setAttribute("aria-label", text("reportOf", node));
  node.setSize(size);
}

/** Begins to write what report nodes answer into their text fields. */
export function startTexts() {
  onResult((node, output) => {
    const widget = node.comfyClass in SIZES && node.widgets?.find(({ name }) => name === NAME);
    if (widget && output.text) widget.value = output.text.join("\n");
  });
}
