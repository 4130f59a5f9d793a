// Charts: one SVG each, redrawn at every sample. A chart is read with the pointer or the arrow keys: it is a
// slider over its times, so a screen reader says each value by itself.

import { clock, clockShort, duration, element, setText, tick, when, withUnit } from "./dom.js";
import * as series from "./series.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 600;
const charts = [];

// Without a caption a chart is a small one.
export function makeChart(key, { label, unit, low = null, high = null, caption = true }) {
  const svg = document.createElementNS(SVG, "svg");
  const attributes = {
    viewBox: `0 0 ${WIDTH} 100`, preserveAspectRatio: "none", tabindex: "0", role: "slider",
    "aria-roledescription": "chart", "aria-valuemin": "0", "aria-valuemax": "0", "aria-valuenow": "0",
  };
  for (const [name, value] of Object.entries(attributes)) svg.setAttribute(name, value);
  const shape = (tag, name) => {
    const made = document.createElementNS(SVG, tag);
    made.setAttribute("class", name);
    svg.append(made);
    return made;
  };
  for (const y of [0, 50, 100]) line(shape("line", "grid"), 0, y, WIDTH, y);
  const band = shape("path", "band");
  const area = shape("path", "area");
  const bounds = [low, high].filter((bound) => bound !== null).map((bound) => [bound, shape("line", "bound")]);
  const curve = shape("path", "curve");
  const cursor = shape("line", "cursor");
  cursor.setAttribute("visibility", "hidden");
  const chart = { key, label, unit, low, high, svg, band, area, curve, bounds, cursor, at: null, most: 1, small: !caption };
  chart.value = element("b");
  chart.readout = element("div", { class: "readout", hidden: true });
  chart.top = element("span");
  chart.axis = [element("span"), element("span"), element("span")];
  chart.box = element(
    "div", { class: "chart" },
    ...(caption ? [element("div", { class: "caption" }, element("span", {}, label), chart.value)] : []),
    element(
      "div", { class: "plot" },
      element("div", { class: "y", "aria-hidden": "true" }, chart.top, element("span", {}, "0")),
      element("div", { class: "drawing" }, svg, chart.readout),
      element("div", { class: "x", "aria-hidden": "true" }, ...chart.axis),
    ),
  );
  svg.addEventListener("pointermove", (event) => point(chart, nearest(chart, event)));
  svg.addEventListener("pointerleave", () => point(chart, null));
  svg.addEventListener("focus", () => point(chart, last(chart)));
  svg.addEventListener("blur", () => point(chart, null));
  svg.addEventListener("keydown", (event) => step(chart, event));
  charts.push(chart);
  return chart.box;
}

export function drawAll() {
  for (const chart of charts) if (!chart.box.hidden) draw(chart);
}

function line(node, x1, y1, x2, y2) {
  for (const [name, value] of Object.entries({ x1, y1, x2, y2 })) node.setAttribute(name, value);
}

const known = (value) => value !== null && value !== undefined;

// The axis ends at a round number, so that it can be read.
function round(most) {
  if (most <= 0) return 1;
  const size = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 2.5, 5, 10].map((step) => step * size).find((step) => step >= most * 0.999);
}

function top(chart, data) {
  const most = Math.max(0, ...(data.high ?? data.values).filter(known));
  if (chart.unit === "%" && chart.low !== null) return Math.max(100, most);
  const least = Math.max(chart.low ?? 0, chart.high ?? 0) * 1.25;
  const wanted = round(Math.max(most, least));
  return chart.unit === "%" && most <= 100 ? Math.min(Math.max(wanted, 5), 100) : wanted;
}

const across = (data, at) => ((at - data.from) / (data.to - data.from || 1)) * WIDTH;
const up = (chart, value) => 100 - (Math.min(Math.max(value, 0), chart.most) / chart.most) * 100;

// Runs of points without a gap, as indices.
function runs(data) {
  const found = [];
  let open = null;
  data.t.forEach((at, index) => {
    const gone = !known(data.values[index]) || at < data.from;
    if (gone || (open && at - data.t[open[open.length - 1]] > data.gap)) open = null;
    if (gone) return;
    if (!open) found.push((open = []));
    open.push(index);
  });
  return found;
}

function draw(chart) {
  const data = series.of(chart.key);
  chart.most = top(chart, data);
  const x = (index) => across(data, data.t[index]).toFixed(1);
  const path = (indices, values, first = "M") =>
    indices.map((index, place) => `${place ? "L" : first}${x(index)} ${up(chart, values[index]).toFixed(1)}`).join("");
  let curve = "";
  let area = "";
  let band = "";
  for (const run of runs(data)) {
    curve += path(run, data.values) + (run.length === 1 ? "h1" : "");
    if (data.low) band += `${path(run, data.high)}${path([...run].reverse(), data.low, "L")}Z`;
    else area += `${path(run, data.values)}L${x(run[run.length - 1])} 100L${x(run[0])} 100Z`;
  }
  chart.curve.setAttribute("d", curve);
  chart.area.setAttribute("d", area);
  chart.band.setAttribute("d", band);
  for (const [bound, node] of chart.bounds) line(node, 0, up(chart, bound), WIDTH, up(chart, bound));
  setText(chart.top, tick(chart.most, chart.unit));
  const short = chart.small || data.to - data.from > 1800 ? clockShort : clock;
  [data.from, (data.from + data.to) / 2, data.to].forEach((at, place) => setText(chart.axis[place], short(at)));
  setText(chart.value, withUnit(series.current(chart.key), chart.unit));
  const values = data.values.filter(known);
  const told = values.length
    ? `between ${withUnit(Math.min(...(data.low ?? data.values).filter(known)), chart.unit)} and ${withUnit(Math.max(...(data.high ?? data.values).filter(known)), chart.unit)}`
    : "no figures";
  chart.svg.setAttribute("aria-label", `${chart.label}, last ${duration(Math.round(data.to - data.from))}: ${told}`);
  chart.svg.setAttribute("aria-valuemax", Math.max(0, data.t.length - 1));
  point(chart, chart.at === null ? null : closest(data, chart.at), data);
  if (chart.at === null) describe(chart, data, data.t.length - 1);
}

function words(chart, data, index) {
  const value = data.values[index];
  if (!known(value)) return `${when(data.t[index])}: nothing to show`;
  const spread = data.low ? ` (${withUnit(data.low[index], chart.unit)} to ${withUnit(data.high[index], chart.unit)})` : "";
  return `${when(data.t[index])}: ${withUnit(value, chart.unit)}${spread}`;
}

function describe(chart, data, index) {
  chart.svg.setAttribute("aria-valuenow", Math.max(0, index));
  chart.svg.setAttribute("aria-valuetext", index >= 0 ? words(chart, data, index) : "no figures yet");
}

function closest(data, at) {
  let found = null;
  data.t.forEach((time, index) => {
    if (time >= data.from && (found === null || Math.abs(time - at) < Math.abs(data.t[found] - at))) found = index;
  });
  return found;
}

function nearest(chart, event) {
  const data = series.of(chart.key);
  const box = chart.svg.getBoundingClientRect();
  const at = data.from + ((event.clientX - box.left) / box.width) * (data.to - data.from);
  const found = closest(data, at);
  return found !== null && Math.abs(data.t[found] - at) <= data.gap && known(data.values[found]) ? found : null;
}

const last = (chart) => {
  const data = series.of(chart.key);
  return data.t.length ? data.t.length - 1 : null;
};

const STEPS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -15, PageUp: 15 };

function step(chart, event) {
  const data = series.of(chart.key);
  const end = data.t.length - 1;
  const here = chart.at === null ? end : closest(data, chart.at);
  let to = null;
  if (event.key in STEPS) to = here + STEPS[event.key];
  else if (event.key === "Home") to = 0;
  else if (event.key === "End") to = end;
  else if (event.key === "Escape" && chart.at !== null) {
    point(chart, null);
    return;
  }
  if (to === null || end < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  point(chart, Math.min(Math.max(to, 0), end), data);
}

// Put the cursor on a sample, or take it away.
function point(chart, index, data = series.of(chart.key)) {
  const shown = index !== null && data.t.length > 0;
  chart.at = shown ? data.t[index] : null;
  chart.readout.hidden = !shown;
  chart.cursor.setAttribute("visibility", shown ? "visible" : "hidden");
  if (!shown) return;
  const x = across(data, data.t[index]);
  line(chart.cursor, x, 0, x, 100);
  setText(chart.readout, words(chart, data, index));
  describe(chart, data, index);
  const width = chart.svg.getBoundingClientRect().width;
  const half = chart.readout.offsetWidth / 2;
  chart.readout.style.left = `${Math.min(Math.max((x / WIDTH) * width, half), Math.max(half, width - half))}px`;
}
