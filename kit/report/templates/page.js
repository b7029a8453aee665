"use strict";
// What every page does: light or dark, and plots in the colours of the page.

const byId = (id) => document.getElementById(id);

function readData(id) {
  const element = byId(id);
  return element ? JSON.parse(element.textContent) : null;
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function themed(layout) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true };
  const result = Object.assign({}, layout, {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("--ink"), size: 12, family: "system-ui, sans-serif" },
    margin: { l: 55, r: 12, t: 12, b: 50 },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    hoverlabel: { namelength: -1 },
  });
  for (const name of ["xaxis", "yaxis"]) {
    result[name] = Object.assign({}, axis, layout[name]);
    if (typeof result[name].title === "string") result[name].title = { text: result[name].title };
  }
  return result;
}

function draw(element, figure) {
  const settings = { responsive: true, displayModeBar: false };
  return Plotly.react(element, figure.data, themed(figure.layout), settings);
}

const redraws = [];

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  const button = byId("theme");
  if (button) button.textContent = theme === "dark" ? "Light" : "Dark";
  redraws.forEach((redraw) => redraw());
}

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
setTheme(prefersDark.matches ? "dark" : "light");
prefersDark.addEventListener("change", (event) => setTheme(event.matches ? "dark" : "light"));
byId("theme")?.addEventListener("click", () => {
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
});
