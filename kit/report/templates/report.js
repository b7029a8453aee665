"use strict";
// The report: the mode that is shown, its plots, and the gallery with its filters.

const FIGURES = readData("figures");
const CARDS = readData("card-data");
const PICTURES = readData("pictures");
const KINDS = readData("kinds");
const BEST = readData("best");
const FAILURES = ["confident_error", "miss", "unmoved", "random_flip", "blind"];
const AT_ONCE = 12;
const FIELDS = ["model", "kind", "right", "modality", "content_type", "answer_type", "dataset"];

let mode = Object.keys(FIGURES)[0];
let shown = AT_ONCE;

function drawAll() {
  for (const element of document.querySelectorAll("[data-figure]")) {
    const figure = FIGURES[mode][element.dataset.figure];
    element.parentElement.hidden = !figure;
    if (figure) draw(element, figure);
  }
}

function setMode(name) {
  mode = name;
  for (const element of document.querySelectorAll("[data-mode]")) {
    element.hidden = element.dataset.mode !== name;
  }
  drawAll();
  showFailures();
  showCards();
}

function showFailures() {
  if (!CARDS.length) return;
  const own = CARDS.filter((card) => card.mode === mode && card.model === BEST[mode]);
  const failures = [];
  for (const fresh of [true, false]) { // of different images as far as there are
    for (const kind of FAILURES) {
      const found = own.find((card) => card.kinds.includes(kind) && !failures.some((other) => other === card || (fresh && other.image === card.image)));
      if (found && failures.length < 3) failures.push(found);
    }
  }
  byId("failing").textContent = BEST[mode];
  byId("failures").hidden = !failures.length;
  byId("failure-cards").replaceChildren(...failures.map(cardOf));
}

function svg(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const STROKES = {
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

function viewOf(view) {
  const words = make("div", { className: "view-words" }, `${view.label}: ${view.answer || "(no answer)"}`);
  if (view.changed !== null) {
    const changed = view.changed ? "changed" : "same";
    words.append(make("strong", { textContent: ` ${changed}` }));
  }
  return make("div", {}, picture(view), words);
}

function pair(list, name, value, className = "") {
  list.append(make("dt", { textContent: name }), make("dd", { textContent: value, className }));
}

function cardOf(card) {
  const tags = make("div", {}, make("span", { className: "tag", textContent: card.model }));
  for (const kind of card.kinds) tags.append(make("span", { className: "tag", textContent: KINDS[kind].words }));
  const answers = make("dl");
  pair(answers, "answer", card.answer || "(none)", card.right ? "good" : "bad");
  pair(answers, "gold", card.gold);
  if (card.sure !== null) pair(answers, "probability", card.sure.toFixed(2));
  const absent = ["gold", "claimed"].filter((kind) => !card.has[kind]).map((kind) => `no ${kind} box`);
  const said = make("dl");
  if (card.caption) pair(said, "caption", card.caption);
  if (card.reasoning.length) pair(said, "reasoning", card.reasoning.join(" "));
  if (card.problem) pair(said, "not valid", `${card.problem}: ${card.text}`, "bad");
  const scores = make("dl");
  for (const [name, value] of card.scores) pair(scores, name, value.toFixed(2));
  pair(scores, "record", `${card.dataset} ${card.qid}, ${card.modality} ${card.content_type} ${card.answer_type}`);
  pair(scores, "image", card.image);
  const first = card.views.filter((view) => view.first);
  const rest = card.views.filter((view) => !view.first);
  const views = make("div", { className: "views" }, ...first.map(viewOf));
  const more = make("details", { className: "small" }, make("summary", { textContent: "scores and other images" }), scores);
  if (rest.length) more.append(make("div", { className: "views even" }, ...rest.map(viewOf)));
  return make("article", { className: "card" }, tags, make("h3", { textContent: card.question }), answers, views, absent.length ? make("div", { className: "view-words", textContent: absent.join(", ") }) : null, said, more);
}

function fits(card) {
  if (card.mode !== mode) return false;
  for (const field of FIELDS) {
    const wanted = byId(`f-${field}`).value;
    if (!wanted) continue;
    if (field === "kind" ? !card.kinds.includes(wanted) : field === "right" ? (wanted === "right") !== card.right : card[field] !== wanted) return false;
  }
  const text = byId("f-search").value.trim().toLowerCase();
  return !text || [card.question, card.answer, card.gold, card.caption].join(" ").toLowerCase().includes(text);
}

function showCards() {
  if (!CARDS.length) return;
  const chosen = CARDS.filter(fits);
  byId("cards").replaceChildren(...chosen.slice(0, shown).map(cardOf));
  byId("count").textContent = `${Math.min(shown, chosen.length)} of ${chosen.length} cases`;
  byId("more").hidden = chosen.length <= shown;
  const kind = byId("f-kind").value;
  byId("meaning").textContent = kind ? `${KINDS[kind].words}: ${KINDS[kind].meaning}.` : "";
}

function fill(field, values, words = (value) => value) {
  const select = byId(`f-${field}`);
  select.replaceChildren(make("option", { value: "", textContent: "all" }));
  for (const value of values) select.append(make("option", { value, textContent: words(value) }));
  select.parentElement.hidden = values.length < 2;
}

if (CARDS.length) {
  const distinct = (field) => [...new Set(CARDS.map((card) => card[field]))].filter(Boolean).sort();
  fill("model", [...new Set(CARDS.map((card) => card.model))]);
  const kinds = Object.keys(KINDS).filter((kind) => CARDS.some((card) => card.kinds.includes(kind)));
  fill("kind", kinds, (kind) => KINDS[kind].words);
  for (const field of ["modality", "content_type", "answer_type", "dataset"]) fill(field, distinct(field));
  byId("f-model").value = BEST[mode];
  for (const field of [...FIELDS, "search"]) {
    byId(`f-${field}`).addEventListener("input", () => { shown = AT_ONCE; showCards(); });
  }
  byId("f-clear").addEventListener("click", () => {
    for (const field of [...FIELDS, "search"]) byId(`f-${field}`).value = "";
    shown = AT_ONCE;
    showCards();
  });
  byId("more").addEventListener("click", () => { shown += AT_ONCE; showCards(); });
}

byId("mode")?.addEventListener("change", (event) => setMode(event.target.value));
setMode(mode);
redraws.push(drawAll);
