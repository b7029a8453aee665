"use strict";
// The report: the mode that is shown, its plots, and the gallery with its filters.

const FIGURES = readData("figures");
const CARDS = readData("card-data");
const PICTURES = readData("pictures");
const KINDS = readData("kinds");
const BEST = readData("best");
const FAILURES = ["confident_error", "miss", "unmoved", "random_flip", "blind"];

let mode = Object.keys(FIGURES)[0];

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

function viewOf(view) {
  const words = make("div", { className: "view-words" }, `${view.label}: ${view.answer || "(no answer)"}`);
  if (view.changed !== null) {
    const changed = view.changed ? "changed" : "same";
    words.append(make("strong", { textContent: ` ${changed}` }));
  }
  return make("div", {}, picture(view), words);
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

function valueOf(card, field) {
  if (field === "kind") return card.kinds;
  return field === "right" ? (card.right ? "right" : "wrong") : card[field];
}

const showCards = startGallery({
  cards: CARDS,
  cardOf,
  valueOf,
  fields: { model: null, kind: (kind) => KINDS[kind].words, right: null, modality: null, content_type: null, answer_type: null, dataset: null },
  start: { model: BEST[mode] },
  within: (card) => card.mode === mode,
  textOf: (card) => [card.question, card.answer, card.gold, card.caption],
  noun: "cases",
  unsorted: ["model", "kind"],
  onShow: () => {
    const kind = byId("f-kind").value;
    byId("meaning").textContent = kind ? `${KINDS[kind].words}: ${KINDS[kind].meaning}.` : "";
  },
});

byId("mode")?.addEventListener("change", (event) => setMode(event.target.value));
setMode(mode);
redraws.push(drawAll);
