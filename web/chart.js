import { element, quantity } from "./dom.js";
import { text } from "./texts.js";

const WIDTH = 240;
const HEIGHT = 48;
const SVG = "http://www.w3.org/2000/svg";

/** Shares over time, 0 to 100 %: a filled line under a line of 100 %, with the latest value in figures. */
export class Chart {
  /**
   * @param {string} kind What the chart shows: "memory" or "load", whose texts are its title.
   * @param {string} device Whose it is, for people who do not see where it stands.
   */
  constructor(kind, device) {
    this.names = { title: text(kind), device };
    this.area = shape("path", { class: "xpu-area" });
    this.line = shape("path", { class: "xpu-line" });
    this.svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.svg.append(shape("path", { class: "xpu-full", d: `M0,${height(100)}H${WIDTH}` }), this.area, this.line);
    this.now = element("b");
    this.element = element(
      "div",
      { class: `xpu-chart xpu-chart-${kind}` },
      element("div", { class: "xpu-chart-title" }, element("span", { text: text(kind) }), this.now),
      element("div", { class: "xpu-plot", "data-full": "100\u00a0%" }, this.svg),
    );
  }

  /**
   * @param {{at: number, share: number|null}[]} points Seconds and percent, oldest first; null where nothing was read.
   * @param {number} interval Seconds between readings; a much longer pause is left open.
   * @param {number} span Seconds from the left edge to the right one.
   */
  update(points, interval, span) {
    const latest = points.at(-1);
    const stretches = unbroken(points, 3 * interval).map((stretch) =>
      stretch.map(({ at, share }) => [WIDTH * (1 - (latest.at - at) / span), height(share)]),
    );
    this.line.setAttribute("d", stretches.map(path).join(""));
    this.area.setAttribute("d", stretches.map((stretch) => `${path(stretch)}V${HEIGHT}H${fixed(stretch[0][0])}Z`).join(""));
    const known = points.map(({ share }) => share).filter((share) => share !== null);
    this.now.textContent = latest && latest.share !== null ? quantity(latest.share, "%") : "–";
    const values = { ...this.names, now: this.now.textContent, most: `${Math.max(...known).toFixed(0)} %` };
    this.svg.setAttribute("aria-label", text(known.length > 0 ? "chartMost" : "chart", values));
  }
}

function unbroken(points, longestPause) {
  const stretches = [];
  let before = null;
  for (const point of points) {
    if (point.share !== null) {
      if (before === null || before.share === null || point.at - before.at > longestPause) stretches.push([]);
      stretches.at(-1).push(point);
    }
    before = point;
  }
  return stretches;
}

/** A line through the points; a lone one becomes a dot. */
function path(stretch) {
  const corners = stretch.map(([x, y]) => `${fixed(x)},${fixed(y)}`);
  return `M${corners[0]}L${(corners.length > 1 ? corners.slice(1) : corners).join(" ")}`;
}

function height(share) {
  return HEIGHT - 1 - (Math.min(share, 100) / 100) * (HEIGHT - 4);
}

function fixed(number) {
  return number.toFixed(1);
}

function shape(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
