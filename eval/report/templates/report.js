"use strict";
const content = JSON.parse(document.getElementById("content").textContent);

function make(name, attributes = {}, ...children) {
  const svg = ["svg", "rect"].includes(name);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function tile(number, kind, text) {
  const image = content.images[number];
  const picture = make("span", {class: "picture"});
  picture.append(image.uri ? make("img", {src: image.uri, alt: image.class, loading: "lazy"})
                           : make("span", {class: "noimage"}, image.id));
  const caption = make("figcaption", {}, make("span", {}, image.class), ...(text ? [make("span", {}, text)] : []));
  return make("figure", {class: "tile " + kind, title: image.id}, picture, caption);
}

function ranking(query, metric, label) {
  const value = query.metrics[metric];
  const about = make("p", {class: "small quiet"}, (label ? label + ": " : "") + metric + " " + (100 * value).toFixed(1) + "\u00a0%");
  const left = make("div", {class: "query"}, tile(query.image, "query", ""), about);
  const tiles = query.ranked.map(([image, score, right]) => tile(image, right ? "right" : "wrong", score.toFixed(3)));
  return make("div", {class: "ranking"}, left, make("div", {class: "tiles"}, ...tiles));
}

function press(buttons, chosen) {
  buttons.forEach(b => b.setAttribute("aria-pressed", b === chosen));
}

function overlay(parts, colour) {
  const h = parts.length, w = parts[0].length;
  const svg = make("svg", {viewBox: `0 0 ${w} ${h}`, preserveAspectRatio: "none", "aria-hidden": "true"});
  parts.forEach((row, y) => row.forEach((value, x) => {
    const [fill, opacity] = colour(value);
    svg.append(make("rect", {x, y, width: 1, height: 1, fill, opacity: opacity.toFixed(3), "shape-rendering": "crispEdges"}));
  }));
  return svg;
}

function seen(uri, parts, colour, alt) {
  return make("div", {class: "seen"}, make("img", {src: uri, alt, loading: "lazy"}), overlay(parts, colour));
}

function byPart(parts) {
  const all = parts.flat(), even = all.reduce((a, b) => a + b, 0) / all.length;
  const most = Math.max(...all.map(value => Math.abs(value - even))) || 1;
  return value => [value >= even ? "#ff7a00" : "#1b4fd8", 0.7 * Math.abs(value - even) / most];
}

function byGate(parts) {
  const all = parts.flat(), least = Math.min(...all), most = Math.max(...all);
  return value => ["#000", 0.85 * (most - value) / ((most - least) || 1)];
}

function showMatches(box) {
  content.explanations[box.dataset.matches].matches.forEach(match => {
    const right = match.query.class_name === match.match.class_name;
    const two = make("div", {class: "two"}, ...[match.query, match.match].map(
      side => seen(side.picture, side.parts, byPart(side.parts), side.class_name)));
    const text = right ? `${match.query.class_name}, found first: ` : `${match.query.class_name}, but ${match.match.class_name} was first: `;
    const sum = match.query.parts.flat().reduce((a, b) => a + b, 0);
    box.append(make("div", {class: "match" + (right ? "" : " wrong")}, two,
      make("p", {}, text, make("b", {}, match.score.toFixed(3)), make("span", {class: "quiet"}, ` (parts add up to ${sum.toFixed(6)})`))));
  });
}

function showGates(box) {
  content.explanations[box.dataset.gates].gates.forEach(gate => {
    const row = make("div", {class: "gate"}, make("figure", {}, make("div", {class: "seen"}, make("img", {src: gate.picture, alt: gate.id})),
      make("figcaption", {}, gate.id)));
    for (const [layer, parts] of Object.entries(gate.layers)) {
      const all = parts.flat();
      const range = `${Math.min(...all).toFixed(2)} to ${Math.max(...all).toFixed(2)}`;
      row.append(make("figure", {}, seen(gate.picture, parts, byGate(parts), layer), make("figcaption", {}, `${layer}: ${range}`)));
    }
    box.append(row);
  });
}

const rankings = document.getElementById("rankings"), metric = document.getElementById("metric");
const model = document.getElementById("model"), kinds = [...document.querySelectorAll("[data-kind]")];
const more = document.getElementById("more"), few = 4;
let kind = "random", all = false;
function showRankings() {
  const chosen = content.models[model ? model.value : 0];
  const places = kind === "random" ? chosen.random : chosen[kind][metric.value];
  more.hidden = all || places.length <= few;
  rankings.replaceChildren(...places.slice(0, all ? places.length : few).map(place => ranking(chosen.queries[place], metric.value)));
  const box = document.getElementById("confused");
  box.replaceChildren(...chosen.confused.map(pair => make("div", {class: "pair"},
    make("div", {class: "two"}, tile(pair.query, "", ""), tile(pair.match, "wrong", "")),
    make("p", {}, make("b", {}, (100 * pair.share).toFixed(1) + " %"), ` of the first ten for ${pair.class} are ${pair.other}`))));
}
kinds.forEach(b => b.addEventListener("click", () => { kind = b.dataset.kind; all = false; press(kinds, b); showRankings(); }));
more.addEventListener("click", () => { all = true; showRankings(); });
[metric, model].forEach(select => select && select.addEventListener("change", showRankings));
showRankings();

const near = document.getElementById("near");
if (near) near.append(...content.near_duplicates.map(pair => make("div", {class: "pair"},
  make("div", {class: "two"}, tile(pair.query, "", ""), tile(pair.match, "", "")),
  make("p", {}, "likeness ", make("b", {}, pair.likeness.toFixed(3)), pair.across_splits ? ", across splits" : ""))));

const decisive = document.getElementById("decisive"), sides = [...document.querySelectorAll("[data-side]")];
if (decisive) {
  const against = document.getElementById("against");
  let side = "won";
  const show = () => {
    const c = content.comparisons[against ? against.value : 0];
    const rows = c.decisive[side].map(pair => make("div", {class: "versus"}, ranking(pair.a, c.metric, c.a), ranking(pair.b, c.metric, c.b)));
    decisive.replaceChildren(...(rows.length ? rows : [make("p", {class: "quiet"}, "None.")]));
  };
  sides.forEach(b => b.addEventListener("click", () => { side = b.dataset.side; press(sides, b); show(); }));
  if (against) against.addEventListener("change", show);
  show();
}
document.querySelectorAll("[data-matches]").forEach(showMatches);
document.querySelectorAll("[data-gates]").forEach(showGates);
