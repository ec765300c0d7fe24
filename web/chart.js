import { element } from "./dom.js";

const WIDTH = 240;
const HEIGHT = 36;
const SVG = "http://www.w3.org/2000/svg";

/** A line of shares over time, 0 to 100 %. */
export class Chart {
  /** @param {string} label What the chart shows, for people who do not see it. */
  constructor(label) {
    this.label = label;
    this.line = document.createElementNS(SVG, "polyline");
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.append(this.line);
    this.svg = svg;
    this.element = element("div", { class: "xpu-chart" }, svg);
  }

  /** @param {(number|null)[]} shares Percent, oldest first; null where there was no reading. */
  update(shares) {
    const known = shares.filter((share) => share !== null);
    const step = WIDTH / Math.max(1, shares.length - 1);
    const points = shares.map((share, index) =>
      share === null ? null : `${(index * step).toFixed(1)},${(HEIGHT - 1 - (share / 100) * (HEIGHT - 2)).toFixed(1)}`,
    );
    this.line.setAttribute("points", points.filter((point) => point !== null).join(" "));
    const latest = known.at(-1);
    const text = latest === undefined ? "no readings" : `now ${latest.toFixed(0)} %, at most ${Math.max(...known).toFixed(0)} %`;
    this.svg.setAttribute("aria-label", `${this.label}: ${text}`);
  }
}
