import { onResult } from "./node_results.js";

const USUAL = { fgColor: "#ffffff", bgColor: "#1f4d7a" };
const DIFFERS = { fgColor: "#ffffff", bgColor: "#b3261e" };
const RUNG = { fgColor: "#ffffff", bgColor: "#7a4f00" };

/** node -> the stage it ran last */
const stages = new WeakMap();

/** Shows on each of our nodes the device it ran on, red where that is not the one asked for, and the rungs it took. */
export function startNodeBadges() {
  onResult((node, output) => {
    const stage = output.xpu?.at(-1);
    if (!stage) return;
    if (!stages.has(node)) {
      const badges = [() => badge(deviceText, node), () => badge(rungText, node)];
      node.badges = [...(node.badges ?? []), ...badges];
    }
    stages.set(node, stage);
  });
}

function badge(text, node) {
  const stage = stages.get(node);
  const colours = text === rungText ? RUNG : differs(stage) ? DIFFERS : USUAL;
  return new window.LGraphBadge({ text: text(stage), ...colours });
}

/** "xpu:0" or "xpu:0, not xpu:1" */
function deviceText(stage) {
  return differs(stage) ? `${stage.effective}, not ${stage.requested}` : stage.effective;
}

/** A reason alone does not mean another device: it may be tiles, or another precision. */
function differs(stage) {
  return stage.reason !== "" && ![stage.effective, "auto"].includes(stage.requested);
}

/** "395 MiB freed, 45 % resident"; empty, and so not drawn, where nothing failed. */
function rungText(stage) {
  return stage.rungs.join(", ");
}
