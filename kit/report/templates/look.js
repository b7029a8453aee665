// The records of a data file: cards with the target as it is taught, and their filters.

const CARDS = readData("card-data");
const PICTURES = readData("pictures");
const FINDINGS = readData("findings");

function viewOf(view) {
  const alone = view.label === "image";
  return make("div", {}, picture(view), alone ? null : make("div", { className: "view-words", textContent: view.label }));
}

function cardOf(card) {
  const tags = make("div", {});
  for (const words of [card.dataset, card.split, card.modality, card.answer_type]) {
    if (words) tags.append(make("span", { className: "tag", textContent: words }));
  }
  for (const name of card.why) tags.append(make("span", { className: "tag bad", textContent: FINDINGS[name] }));
  const answer = make("dl");
  pair(answer, "answer", card.answer, "good");
  for (const [name, value] of card.measured) pair(answer, name, value);
  const target = make("dl");
  if (card.target) {
    pair(target, "caption", card.target.caption);
    pair(target, "reasoning", card.target.reasoning.join(" "));
    pair(target, "boxes", card.target.boxes.map((box) => `[${box.join(", ")}]`).join(" ") || "none");
    pair(target, "answer", card.target.answer);
  }
  const more = make("details", { className: "small" }, make("summary", { textContent: card.texts.length ? "as it is taught, and where it is from" : "where it is from" }));
  for (const [mode, text] of card.texts) more.append(make("div", { className: "soft", textContent: mode }), make("pre", { textContent: text }));
  const from = make("dl");
  pair(from, "record", `${card.number}${card.qid ? `, qid ${card.qid}` : ""}${card.drawn ? "" : ", shown for its warning"}`);
  for (const name of ["content_type", "location", "image"]) if (card[name]) pair(from, name.replace("_", " "), card[name]);
  more.append(from);
  const several = card.views.length > 1;
  const views = make("div", { className: several ? "views even" : "views" }, ...card.views.map(viewOf));
  return make("article", { className: "card" }, tags, make("h3", { className: "lines", textContent: card.question }), answer, views, target, more);
}

const show = startGallery({
  cards: CARDS,
  cardOf,
  valueOf: (card, field) => card[field],
  fields: { dataset: null, split: null, modality: null, answer_type: null, content_type: null, boxes: null, why: (name) => FINDINGS[name] },
  textOf: (card) => [card.question, card.answer, card.qid, ...card.texts.map(([, text]) => text)],
  noun: "records",
});
show();
byId("f-why").parentElement.hidden = !CARDS.some((card) => card.why.length);

for (const button of document.querySelectorAll("[data-why]")) {
  button.addEventListener("click", () => {
    byId("f-clear").click();
    byId("f-why").value = button.dataset.why;
    byId("f-why").dispatchEvent(new Event("input"));
    byId("records").scrollIntoView();
  });
}
