"use strict";
// The certificate: its curve, and the answers that it gives and withholds.

const FIGURES = readData("figures");
const PICTURES = readData("pictures");
const KINDS = readData("kinds");

function viewOf(view) {
  const words = make("div", { className: "view-words" }, `${view.label}: ${view.answer || "(no answer)"}`);
  if (view.changed !== null) words.append(make("strong", { textContent: view.changed ? " changed" : " same" }));
  return make("div", {}, picture(view), words);
}

function cardOf(card) {
  const list = make("dl");
  pair(list, "answer", card.answer || "(none)", card.right ? "good" : "bad");
  pair(list, "gold", card.gold);
  for (const [name, value] of card.scores) pair(list, name, value.toFixed(3));
  const tag = make("span", { className: "tag", textContent: KINDS[card.kinds[0]] });
  return make(
    "article", { className: "card" }, make("div", {}, tag), make("h3", { textContent: card.question }), list,
    card.why ? make("p", { className: "small soft", textContent: `Withheld: ${card.why}.` }) : null,
    make("div", { className: "views" }, ...card.views.map(viewOf)),
  );
}

function drawAll() {
  for (const element of document.querySelectorAll("[data-figure]")) draw(element, FIGURES[element.dataset.figure]);
}

const CARDS = readData("card-data");
startGallery({
  cards: CARDS,
  cardOf,
  valueOf: (card, field) => (field === "kind" ? card.kinds : card[field]),
  fields: { kind: (kind) => KINDS[kind], modality: null },
  textOf: (card) => [card.question, card.answer, card.gold],
  noun: "answers",
  unsorted: ["kind"],
})();
drawAll();
redraws.push(drawAll);
