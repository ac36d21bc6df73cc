"use strict";
const at = id => document.getElementById(id);
const [grid, status, more, chips, filter, dialog] = ["grid", "status", "more", "chips", "filter", "why"].map(at);
const fields = ["folder", "since", "until", "size"], page = 60;
let names = {}, asked = 0, shown = [];  // names: id -> a file's name; asked: the number of the last question

// A name as a page shows it: nothing unseen, and what reads from right to left moves nothing else (timm_gam.core.page_text).
function plain(text) {
  const shown = text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, c => "\\u" + c.codePointAt(0).toString(16).padStart(4, "0"));
  return /[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}\p{Script=Adlam}]/u.test(shown) ? `\u2068${shown}\u2069` : shown;
}

function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") node.style.setProperty("--ratio", value);
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

async function ask(address, options) {
  let answer;
  try { answer = await fetch(address, options); } catch { throw new Error("the server does not answer; is it still running?"); }
  const content = await answer.json().catch(() => ({error: `the server answers ${answer.status}`}));
  if (!answer.ok) throw new Error(plain(content.error));
  return content;
}

function say(text, problem = false) {
  status.textContent = text;
  status.classList.toggle("problem", problem);
}

// What is looked for stands in the address, so that Back, Forward and reloading work.
const state = () => new URLSearchParams(location.hash.slice(1));
const looked = () => state().getAll("like");
function go(like, count) {
  const next = new URLSearchParams(like.map(id => ["like", id]));
  for (const name of fields) if (filter.elements[name].value) next.set(name, filter.elements[name].value);
  if (count) next.set("count", count);
  if ("#" + next === location.hash || (!String(next) && !location.hash)) show();
  else location.hash = String(next);
}
const add = id => go([...new Set([...looked(), id])]);

async function show() {
  const now = state(), like = looked(), number = ++asked;
  for (const name of fields) filter.elements[name].value = now.get(name) || "";
  at("clear").hidden = !fields.some(name => now.get(name));
  document.body.classList.toggle("asking", like.length > 0);
  at("asked").hidden = !like.length;
  chips.replaceChildren(...like.map(id => make("li", {class: "chip"}, make("img", {src: "thumbnails/" + id, alt: names[id] || "looked for"}),
    make("button", {type: "button", "aria-label": "Look without this one", onclick: () => go(like.filter(other => other !== id))}, "✕"))));
  if (!now.get("count")) now.set("count", page);
  grid.classList.add("waiting");
  try {
    const found = await ask((like.length ? "search?" : "photos?") + now);
    if (number !== asked) return;  // something else was asked meanwhile
    shown = found.photos;
    grid.replaceChildren(...shown.map((photo, place) => tile(photo, place, like)));
    more.hidden = shown.length < Number(now.get("count")) || shown.length >= 1000;
    const total = found.total.toLocaleString("en"), some = at("clear").hidden ? "" : " that the filter lets through";
    if (!shown.length) say(`No ${like.length ? "other " : ""}photograph${some}.`);
    else if (like.length) say(`The ${shown.length} most alike of ${total}${some}${like.length > 1 ? `, by the average of ${like.length}` : ""}. ${found.note}`);
    else say(`${total} photograph${found.total === 1 ? "" : "s"}${some}${shown[0].taken ? ", newest first" : ""}.`);
  } catch (error) {
    if (number === asked) { grid.replaceChildren(); more.hidden = true; say(error.message, true); }
  }
  grid.classList.remove("waiting");
}

function tile(photo, place, like) {
  const name = plain(photo.path.split("/").pop()), copies = (photo.copies || []).length;
  names[photo.id] = name;
  const title = [plain(photo.path), photo.taken && photo.taken.replace("T", " "), `${photo.width} × ${photo.height}`,
    copies && "also " + photo.copies.map(plain).join(", ")].filter(Boolean).join("\n");
  const stop = action => event => { event.preventDefault(); action(); };
  const acts = make("div", {class: "acts"},
    ...(like.length ? [make("button", {type: "button", tabindex: -1, title: "Why it was found (W)", onclick: stop(() => why(photo))}, "why"),
      make("button", {type: "button", tabindex: -1, title: "Look for this one too (A)",
        "aria-label": "Look for this one too", onclick: stop(() => add(photo.id))}, "+")] : []),
    make("a", {href: "originals/" + photo.id, target: "_blank", rel: "noopener", tabindex: -1, title: "Open the original (O)"}, "open"));
  const find = make("button", {type: "button", class: "find", "data-place": place, title, "aria-label": `Photographs like ${name}`,
    onclick: () => go([photo.id])}, make("img", {src: "thumbnails/" + photo.id, alt: "", loading: "lazy"}));
  const about = make("p", {class: "about"}, make("span", {}, copies ? `${name} (+${copies})` : name));
  const ratio = Math.min(3, Math.max(0.5, photo.width / photo.height || 1));
  const item = make("li", {class: "photo", style: ratio}, make("div", {class: "frame"}, find, acts), about);
  if (photo.score !== undefined) {
    about.append(make("b", {title: "cosine similarity"}, photo.score.toFixed(3)));
    const bar = make("i");
    bar.style.width = 100 * Math.max(0, photo.score) + "%";
    item.append(make("div", {class: "scale", "aria-hidden": "true"}, bar));
  }
  return item;
}

async function take(files) {
  const images = [...files].filter(file => file.type.startsWith("image/") || !file.type).slice(0, 20);
  if (!images.length) return say("That is no photograph.", true);
  say(images.length > 1 ? `Looking at ${images.length} photographs …` : "Looking at it …");
  grid.classList.add("waiting");
  try {
    const like = [];
    for (const file of images) {
      const {id} = await ask("photos", {method: "POST", body: file, headers: {"Content-Type": "application/octet-stream"}});
      names[id] = plain(file.name);
      like.push(id);
    }
    go([...new Set(like)]);
  } catch (error) { say(error.message, true); }
  grid.classList.remove("waiting");
}

async function why(photo, query = looked()[0]) {
  at("why-text").textContent = "Asking the network …";
  at("sides").replaceChildren();
  const choice = looked().length > 1 ? looked() : [];
  at("why-chips").replaceChildren(...choice.map(id => make("button", {type: "button", "aria-pressed": id === query, "aria-label": names[id] || "looked for",
    onclick: () => why(photo, id)}, make("img", {src: "thumbnails/" + id, alt: ""}))));
  if (!dialog.open) dialog.showModal();
  try {
    const {score, sides} = await ask(`why?query=${query}&match=${photo.id}`);
    at("sides").replaceChildren(...sides.map((side, place) => make("figure", {}, overlay(side), make("figcaption", {}, place ? plain(photo.path) : names[query] || "looked for"))));
    at("why-text").textContent = `Orange places add more than their share to the cosine of ${score.toFixed(3)}, blue ones less; all places add up to it. ` +
      "Both pictures as the network sees them.";
  } catch (error) { at("why-text").textContent = error.message; }
}

function overlay({picture, parts}) {
  const canvas = make("canvas", {width: parts[0].length, height: parts.length, "aria-hidden": "true"}), draw = canvas.getContext("2d");
  const all = parts.flat(), even = all.reduce((a, b) => a + b, 0) / all.length;
  const most = Math.max(...all.map(value => Math.abs(value - even))) || 1;
  parts.forEach((row, y) => row.forEach((value, x) => {
    draw.fillStyle = `rgb(${value >= even ? "255 122 0" : "27 79 216"} / ${0.7 * Math.abs(value - even) / most})`;
    draw.fillRect(x, y, 1, 1);
  }));
  return make("div", {class: "seen"}, make("img", {src: picture, alt: ""}), canvas);
}

function move(from, key) {
  const tiles = [...grid.querySelectorAll(".find")], place = tiles.indexOf(from);
  const aside = {ArrowRight: 1, ArrowLeft: -1}[key];
  if (aside) return tiles[place + aside];
  const here = from.getBoundingClientRect(), middle = here.left + here.width / 2, down = key === "ArrowDown";
  const rows = tiles.map(tile => [tile, tile.getBoundingClientRect()]).filter(([, box]) => down ? box.top > here.top + 5 : box.top < here.top - 5);
  const next = down ? Math.min(...rows.map(([, box]) => box.top)) : Math.max(...rows.map(([, box]) => box.top));
  return rows.filter(([, box]) => Math.abs(box.top - next) < 5)
    .sort(([, a], [, b]) => Math.abs(a.left + a.width / 2 - middle) - Math.abs(b.left + b.width / 2 - middle))[0]?.[0];
}

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || dialog.open || event.target.closest("input, select")) return;
  const tile = event.target.closest(".find"), photo = tile && shown[tile.dataset.place];
  if (event.key === "Escape" && looked().length) history.back();
  else if (!tile && event.key === "ArrowDown" && event.target === document.body) grid.querySelector(".find")?.focus();
  else if (!tile) return;
  else if (event.key.startsWith("Arrow")) { const next = move(tile, event.key); if (next) next.focus(); else return; }
  else if (event.key === "a") add(photo.id);
  else if (event.key === "w" && looked().length) why(photo);
  else if (event.key === "o") open("originals/" + photo.id, "_blank", "noopener");
  else return;
  event.preventDefault();
});

const holds = event => [...(event.dataTransfer?.types || [])].includes("Files");
addEventListener("dragover", event => { if (holds(event)) { event.preventDefault(); at("veil").hidden = false; } });
addEventListener("dragleave", event => { if (!event.relatedTarget) at("veil").hidden = true; });
addEventListener("drop", event => { at("veil").hidden = true; if (holds(event)) { event.preventDefault(); take(event.dataTransfer.files); } });
addEventListener("paste", event => { if (event.clipboardData?.files.length) take(event.clipboardData.files); });
at("file").addEventListener("change", event => { if (event.target.files.length) take(event.target.files); event.target.value = ""; });
filter.addEventListener("change", () => go(looked()));
filter.addEventListener("reset", () => setTimeout(() => go(looked())));
at("all").addEventListener("click", () => go([]));
at("home").addEventListener("click", event => { event.preventDefault(); for (const name of fields) filter.elements[name].value = ""; go([]); });
more.addEventListener("click", () => go(looked(), Number(state().get("count") || page) + page));
addEventListener("hashchange", show);
show();
