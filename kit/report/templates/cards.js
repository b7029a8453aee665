"use strict";
// Pictures (of the page's PICTURES) with boxes over them, and a gallery of cards with filters.

function svg(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const STROKES = {
  evidence: { stroke: "var(--gold)", "stroke-width": 2.5 },
  target: { stroke: "var(--claimed)", "stroke-width": 2.5, "stroke-dasharray": "6 3" },
  gold: { stroke: "var(--gold)", "stroke-width": 2.5 },
  claimed: { stroke: "var(--claimed)", "stroke-width": 2.5, "stroke-dasharray": "6 3" },
  removed: { stroke: "var(--removed)", "stroke-width": 2, "stroke-dasharray": "3 2" },
  random: { stroke: "var(--removed)", "stroke-width": 2, "stroke-dasharray": "3 2" },
};

function picture(view) {
  if (!view.picture) {
    const words = view.picture === null ? "image file is missing" : view.label;
    return make("div", { className: "picture none", textContent: words });
  }
  const overlay = svg("svg", { "aria-hidden": "true" });
  for (const box of view.boxes) {
    const rectangle = svg("rect", {
      x: `${box.x}%`, y: `${box.y}%`, width: `${box.w}%`, height: `${box.h}%`, fill: "none",
      ...STROKES[box.kind],
    });
    const title = svg("title", {});
    title.textContent = box.label ? `${box.kind}: ${box.label}` : box.kind;
    rectangle.append(title);
    overlay.append(rectangle);
  }
  const image = make("img", { src: PICTURES[view.picture], alt: view.label, loading: "lazy" });
  return make("div", { className: "picture" }, image, overlay);
}

function pair(list, name, value, className = "") {
  list.append(make("dt", { textContent: name }), make("dd", { textContent: value, className }));
}

// A select #f-NAME for each of ``fields`` (with the words of its values, or null; in the order of
// the cards where ``unsorted``), a search, and the cards that fit them all, a dozen more with each
// press of #more. Returns what shows them.
function startGallery({ cards, cardOf, valueOf, fields, start = {}, within = () => true, textOf, noun, unsorted = [], onShow = () => {} }) {
  const atOnce = 12;
  let shown = atOnce;
  if (!cards.length) return () => {};
  const inputs = [...Object.keys(fields), "search"].map((name) => byId(`f-${name}`));

  function fits(card) {
    if (!within(card)) return false;
    for (const field of Object.keys(fields)) {
      const wanted = byId(`f-${field}`).value;
      if (wanted && ![valueOf(card, field)].flat().includes(wanted)) return false;
    }
    const text = byId("f-search").value.trim().toLowerCase();
    return !text || textOf(card).join(" ").toLowerCase().includes(text);
  }

  function show() {
    const chosen = cards.filter(fits);
    byId("cards").replaceChildren(...chosen.slice(0, shown).map(cardOf));
    byId("count").textContent = `${Math.min(shown, chosen.length)} of ${chosen.length} ${noun}`;
    byId("more").hidden = chosen.length <= shown;
    onShow();
  }

  function again() {
    shown = atOnce;
    show();
  }

  for (const [field, words] of Object.entries(fields)) {
    const values = [...new Set(cards.flatMap((card) => valueOf(card, field)))].filter(Boolean);
    const select = byId(`f-${field}`);
    if (!unsorted.includes(field)) values.sort();
    const options = values.map((value) => make("option", { value, textContent: words ? words(value) : value }));
    select.replaceChildren(make("option", { value: "", textContent: "all" }), ...options);
    select.parentElement.hidden = values.length < 2;
    select.value = start[field] ?? "";
  }
  for (const input of inputs) input.addEventListener("input", again);
  byId("f-clear").addEventListener("click", () => {
    for (const input of inputs) input.value = "";
    again();
  });
  byId("more").addEventListener("click", () => { shown += atOnce; show(); });
  return show;
}
