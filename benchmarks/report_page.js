"use strict";
// Filters rows, sorts tables, draws the plots as they come into view, and switches between a light and a dark look.

const CONFIG = { displaylogo: false, displayModeBar: false };
const DASH = "–";
const PRINT_WIDTH_PX = 330; // of a plot on paper: two fit side by side on A4 and on letter
const CLOSEST = 0.09; // of a logarithmic axis: nearer labels would touch
const FINER = [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7]].concat(
  [1, 2, 5, 10].map((parts) => Array.from({ length: 9 * parts }, (_, i) => (i + parts) / parts)),
);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
let rows, pageLayout, figures; // what the page holds, once it is inflated
const touch = matchMedia("(pointer: coarse)").matches;

// ---- filters: the address holds them, so that a view can be shared

let chosen = { valid: false };

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  chosen = { valid: given.get("valid") === "1" };
  for (const chip of all(".filter button[data-field]")) {
    const { field, value } = chip.dataset;
    const pressed = given.getAll(field).includes(value);
    chip.setAttribute("aria-pressed", String(pressed));
    if (pressed) (chosen[field] ??= new Set()).add(value);
  }
  document.getElementById("valid").checked = chosen.valid;
  apply();
}

function writeAddress() {
  const wanted = new URLSearchParams();
  for (const chip of all(".filter button[aria-pressed=true]")) wanted.append(chip.dataset.field, chip.dataset.value);
  if (document.getElementById("valid").checked) wanted.set("valid", "1");
  history.replaceState(null, "", `#${wanted}`);
  readAddress();
}

function passes(key) {
  const row = rows[key];
  if (chosen.valid && !row.valid) return false;
  return Object.entries(chosen).every(([field, values]) => field === "valid" || values.has(String(row[field])));
}

const anyPasses = (keys) => [keys].flat().some(passes);

function apply() {
  for (const element of all("[data-rows]")) element.hidden = !anyPasses(JSON.parse(element.dataset.rows));
  const total = Object.keys(rows).length;
  const shown = Object.keys(rows).filter(passes).length;
  document.getElementById("count").textContent = shown === total ? `(all ${total} rows)` : `(${shown} of ${total} rows)`;
  all(".plot").forEach(refresh);
}

// ---- plots

const drawn = new Set();

// Every array with one entry a point is cut to the points that are kept.
function cut(value, kept, length) {
  if (Array.isArray(value)) return value.length === length ? kept.map((index) => value[index]) : value;
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, cut(part, kept, length)]));
}

function visiblePart(trace) {
  const { meta } = trace;
  if (meta.row) return passes(meta.row) ? trace : null;
  if (!meta.rows) return trace;
  const kept = [...meta.rows.keys()].filter((index) => anyPasses(meta.rows[index]));
  return kept.length ? { ...cut(trace, kept, meta.rows.length), meta: { ...meta, rows: cut(meta.rows, kept, meta.rows.length) } } : null;
}

function frontier(trace, points) {
  const sign = trace.meta.frontier === "less" ? 1 : -1;
  const best = [];
  for (const [x, y] of points.toSorted((a, b) => sign * (a[0] - b[0]) || b[1] - a[1])) {
    if (!best.length || y > best.at(-1)[1]) best.push([x, y]);
  }
  return { ...trace, x: best.map((point) => point[0]), y: best.map((point) => point[1]) };
}

// From three to ten round numbers, fewer where the two are very close.
function logTicks(low, high) {
  let ticks = [];
  for (const mantissas of FINER) {
    ticks = [];
    for (let decade = Math.floor(Math.log10(low)); decade <= Math.ceil(Math.log10(high)); decade++) {
      for (const mantissa of mantissas) {
        const tick = Number((mantissa * 10 ** decade).toPrecision(3));
        if (tick >= low && tick <= high) ticks.push(tick);
      }
    }
    if (ticks.length >= 3) break;
  }
  const step = Math.ceil(ticks.length / 10) || 1;
  const spread = [];
  for (const tick of ticks.filter((_, index) => index % step === 0)) {
    if (!spread.length || Math.log(tick / spread.at(-1)) > CLOSEST * Math.log(high / low)) spread.push(tick);
  }
  return spread;
}

function short(value) {
  for (const [size, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= size) return `${Number((value / size).toPrecision(3))}${letter}`;
  }
  return String(Number(value.toPrecision(3)));
}

function logAxis(letter, traces) {
  const ends = traces.flatMap((trace) => {
    const bars = trace[`error_${letter}`];
    return trace[letter].flatMap((value, index) => [value - (bars?.arrayminus[index] ?? 0), value + (bars?.array[index] ?? 0)]);
  });
  const positive = ends.filter((value) => value > 0);
  if (!positive.length) return {};
  const named = letter === "y" && traces.some((trace) => trace.mode?.includes("text") && trace.text.some(Boolean));
  const [low, high] = [Math.min(...positive) / 1.15, Math.max(...positive) * (named ? 1.5 : 1.15)]; // texts stand above
  const ticks = logTicks(low, high);
  return { type: "log", range: [Math.log10(low), Math.log10(high)], tickvals: ticks, ticktext: ticks.map(short) };
}

function compose(plot) {
  const { data, layout } = figures[plot.id];
  const parts = data.map(visiblePart);
  const card = plot.closest("figure");
  const buttons = all(".choice button", card);
  // A button is of use if something of it passes the filters.
  const useful = new Set(parts.filter((part) => part && (part.meta.row || part.meta.rows)).map((part) => part.meta.choice));
  for (const button of buttons) button.hidden = !useful.has(button.dataset.choice);
  let pressed = buttons.find((button) => button.getAttribute("aria-pressed") === "true");
  if (pressed?.hidden) pressed = buttons.find((button) => !button.hidden) ?? pressed;
  for (const button of buttons) button.setAttribute("aria-pressed", String(button === pressed));
  const choice = pressed?.dataset.choice;
  const traces = parts.filter((part) => part && (!choice || !part.meta.choice || part.meta.choice === choice));
  const points = traces
    .filter((trace) => trace.meta.rows)
    .flatMap((trace) => trace.meta.rows.flatMap((key, i) => (rows[key]?.valid ? [[trace.x[i], trace.y[i]]] : [])));
  const complete = traces.map((trace) => (trace.meta.frontier ? frontier(trace, points) : trace));
  const wanted = { ...pageLayout, ...layout, dragmode: touch ? false : "zoom" };
  for (const [name, titles] of Object.entries(layout.meta.titles ?? {})) {
    wanted[name] = { ...wanted[name], title: { text: titles[choice ?? Object.keys(titles)[0]] } };
  }
  for (const letter of layout.meta.log) {
    const name = `${letter}axis`;
    wanted[name] = { ...wanted[name], ...logAxis(letter, complete) };
  }
  return { traces: complete, layout: wanted };
}

function refresh(plot) {
  if (!window.Plotly || !drawn.has(plot) || plot.closest("[hidden]")) return;
  const { traces, layout } = compose(plot);
  Plotly.react(plot, traces, { ...layout, width: plot.clientWidth }, CONFIG);
}

function draw(plot) {
  if (drawn.has(plot)) return;
  drawn.add(plot);
  refresh(plot);
}

async function inflate(id) {
  const packed = atob(document.getElementById(id).textContent);
  const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
}

async function start() {
  ({ rows, layout: pageLayout, figures } = JSON.parse(await inflate("data")));
  readAddress();
  const script = document.createElement("script");
  script.textContent = await inflate("plotly");
  document.head.append(script);
  watch();
  document.body.dataset.ready = "";
}

function watch() {
  const seen = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
    { rootMargin: "600px" },
  );
  const widths = new Map();
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (!target.clientWidth || widths.get(target) === target.clientWidth) continue;
      widths.set(target, target.clientWidth);
      if (target.data && !printing) Plotly.relayout(target, { width: target.clientWidth });
    }
  });
  for (const plot of all(".plot")) {
    seen.observe(plot);
    resized.observe(plot);
  }
}

// ---- paper: every plot is drawn, at a width that fits

let printing = false;

function onPaper(starts) {
  printing = starts;
  if (!window.Plotly) return;
  for (const plot of all(".plot")) {
    if (starts) draw(plot);
    if (plot.data && !plot.closest("[hidden]")) Plotly.relayout(plot, { width: starts ? PRINT_WIDTH_PX : plot.clientWidth });
  }
}

addEventListener("beforeprint", () => onPaper(true));
addEventListener("afterprint", () => onPaper(false));

// ---- tables

// "1,234", "x1.50", "12.3 ±0.4" and "1.20M" as numbers; words stay words; a dash comes last.
function sortKey(words) {
  const plain = words.trim().replace(/^[!*x\s]+/, "");
  const found = plain.match(/^([-−]?[\d,]*\.?\d+(?:e[-+]?\d+)?)([kMG]?)(?=$|[^\w,.])/i);
  if (!found) return plain === DASH || plain === "" ? null : plain.toLowerCase();
  return Number(found[1].replaceAll(",", "")) * ({ k: 1e3, M: 1e6, G: 1e9 }[found[2]] ?? 1);
}

function compare(a, b) {
  if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b);
  return typeof a === "number" ? -1 : 1;
}

function sort(header) {
  const column = header.cellIndex;
  const down = header.getAttribute("aria-sort") === "ascending";
  for (const other of header.parentElement.cells) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  for (const body of header.closest("table").tBodies) {
    const lines = [...body.rows].filter((line) => !line.matches(".experiment, .reference"));
    const keyed = lines.map((line) => [sortKey(line.cells[column]?.textContent ?? ""), line]);
    keyed.sort(([a], [b]) => (a === null ? (b === null ? 0 : 1) : b === null ? -1 : (down ? -1 : 1) * compare(a, b)));
    const last = [...body.rows].filter((line) => line.matches(".reference"));
    body.append(...keyed.map(([, line]) => line), ...last);
  }
}

// ---- light and dark

const LOOKS = ["auto", "light", "dark"];

function setLook(look) {
  if (look === "auto") delete document.documentElement.dataset.look;
  else document.documentElement.dataset.look = look;
  document.querySelector("#theme span").textContent = look;
}

document.getElementById("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.look ?? "auto";
  setLook(LOOKS[(LOOKS.indexOf(now) + 1) % LOOKS.length]);
});

for (const button of all(".filter button[data-field]")) {
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    writeAddress();
  });
}
document.getElementById("valid").addEventListener("change", writeAddress);
document.getElementById("reset").addEventListener("click", () => {
  history.replaceState(null, "", "#");
  readAddress();
});
addEventListener("hashchange", readAddress);
for (const button of all(".choice button")) {
  button.addEventListener("click", () => {
    for (const other of button.parentElement.children) other.setAttribute("aria-pressed", String(other === button));
    refresh(button.closest("figure").querySelector(".plot"));
  });
}
for (const button of all("th button.sort")) button.addEventListener("click", () => sort(button.closest("th")));
if (matchMedia("(max-width: 760px)").matches) document.querySelector(".filters").open = false;

start().catch((error) => {
  document.getElementById("count").textContent = "(not in this browser: it cannot inflate the page's data; browsers since 2024 can)";
  throw error;
});
