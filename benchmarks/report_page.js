"use strict";
// Draws every plot of the page and lets a model's legend and scenario buttons show and hide traces.

const CONFIG = { displaylogo: false, displayModeBar: false };
const touch = matchMedia("(pointer: coarse)").matches;

function refresh(plot) {
  const hidden = new Set(
    [...plot.closest("section").querySelectorAll(".legend button[aria-pressed=false]")].map((b) => b.dataset.variant),
  );
  const chosen = plot.parentElement.querySelector(".choice button[aria-pressed=true]")?.dataset.scenario;
  const visible = plot.data.map(
    ({ meta = {} }) => !hidden.has(meta.variant) && (!chosen || !meta.scenario || meta.scenario === chosen),
  );
  const ticks = plot.layout.meta?.xaxis?.[chosen];
  const layout = ticks ? { "xaxis.tickvals": ticks.tickvals, "xaxis.ticktext": ticks.ticktext } : {};
  Plotly.update(plot, { visible }, layout, [...visible.keys()]);
}

for (const plot of document.querySelectorAll(".plot")) {
  const { data, layout } = JSON.parse(document.getElementById(`${plot.id}-data`).textContent);
  // A finger that drags over a plot scrolls the page.
  Plotly.newPlot(plot, data, { ...layout, dragmode: touch ? false : "zoom" }, CONFIG);
  new ResizeObserver(() => Plotly.Plots.resize(plot)).observe(plot);
}

for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    button.closest("section").querySelectorAll(".plot").forEach(refresh);
  });
}

for (const button of document.querySelectorAll(".choice button")) {
  button.addEventListener("click", () => {
    for (const other of button.parentElement.children) other.setAttribute("aria-pressed", String(other === button));
    refresh(button.closest(".card").querySelector(".plot"));
  });
}
