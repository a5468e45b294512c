"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const signed = (x) => x.toPrecision(3).replace("-", "−");

// The current quantity and index into its units, the token whose loss is traced, and the token under
// the cursor (-1 for none).
let q = 0, u = 0, traced = -1, here = -1;

const saliency = bytes(data.saliency.values);
const decoded = data.quantities.map(() => null);
const values = (i) => (decoded[i] ??= bytes(data.quantities[i].values));

function value(t) {
  const quantity = data.quantities[q], a = quantity.gate ? 1 : quantity.largest[u];
  const share = values(q)[u * data.pieces.length + t] / 255;
  return quantity.gate ? share : a * (2 * share - 1);
}

// Returns the value after token t as text, rounded to the precision of the stored values, 1/255 of
// their range.
function shown(t) {
  const quantity = data.quantities[q], a = quantity.gate ? 1 : quantity.largest[u];
  const digits = a > 0 ? clamp(2 - Math.ceil(Math.log10(a)), 0, 100) : 0;
  return value(t).toFixed(digits).replace("-", "−");
}

// Returns the values that are shown in full red and in full blue.
function bounds() {
  const quantity = data.quantities[q];
  return quantity.gate ? [0, 1] : [-quantity.typical[u], quantity.typical[u]];
}

// Colors go from red over white to blue, whose ends are light enough for dark letters.
const RED = [214, 96, 77], WHITE = [255, 255, 255], BLUE = [67, 147, 195];
function color(x) {
  const end = x < 0.5 ? RED : BLUE, share = Math.abs(2 * x - 1);
  return "rgb(" + WHITE.map((w, i) => Math.round(w + share * (end[i] - w))).join(", ") + ")";
}

// Returns a visible sign for an invisible character, and null for a visible one.
function mark(piece) {
  if (piece === "") return "·";  // any byte but the last of a letter
  if (piece === "\n") return "↵";
  if (piece === "\t") return "→";
  const code = piece.charCodeAt(0);
  return piece.length === 1 && code < 32 ? String.fromCharCode(0x2400 + code) : null;
}

const NAMES = { " ": "a space", "\n": "a line end", "\t": "a tab", "": "part of a letter" };
function named(t) {
  const piece = data.pieces[t];
  return piece === undefined ? `the next ${data.token}` : NAMES[piece] ?? `“${mark(piece) ?? piece}”`;
}

const spans = data.pieces.map((piece, t) => {
  const span = document.createElement("span");
  span.textContent = piece;
  span.dataset.t = t;
  const sign = mark(piece);
  if (sign) span.dataset.mark = sign;
  return span;
});

// Returns ‖dL_t/dx_s‖ on a logarithmic scale: 1 for the largest, 0 if it is too small to show.
function share(t, s) {
  const lag = t - s, reach = data.saliency.reach;
  return lag < 0 || lag >= reach ? 0 : saliency[t * reach + lag] / 255;
}

function describe() {
  const t = here >= 0 ? here : traced;
  if (t < 0) return element("status").textContent = data.hint;
  const quantity = data.quantities[q];
  const probability = Math.exp(-data.losses[t]);
  let text = `${data.token} ${t}, ${named(t)}: ${quantity.name} ${quantity.units[u]} is ` +
    `${shown(t)} after it; ${named(t + 1)} follows with probability ` +
    `${probability.toPrecision(2)}, a loss of ${data.losses[t].toPrecision(2)} nats.`;
  if (traced >= 0) {
    const size = share(traced, t), power = data.saliency.decades * (size - 1);
    const largest = data.saliency.largest[traced];
    const least = (largest * 10 ** -data.saliency.decades).toPrecision(2);
    text += ` ‖dL/dx‖ of the loss after ${data.token} ${traced} is ` +
      (t > traced ? "0 here, since this is later." :
      traced - t >= data.saliency.reach ? "not computed this far back." :
      size === 0 ? `below ${least} here.` :
      `${(largest * 10 ** power).toPrecision(2)} here` +
      (t < traced ? `, at lag ${traced - t}.` : "."));
  }
  element("status").textContent = text;
}

function drawValues() {
  const quantity = data.quantities[q], [low, high] = bounds();
  spans.forEach((span, t) => {
    span.style.backgroundColor = color(clamp((value(t) - low) / (high - low), 0, 1));
  });
  element("quantity").value = q;
  element("unit").value = quantity.units[u];
  element("unit").max = quantity.units[quantity.units.length - 1];
  element("total").textContent = quantity.units.length === quantity.total ?
    `of ${quantity.total}` : `${quantity.units.length} of ${quantity.total} are on this page`;
  element("low").textContent = (quantity.gate ? "" : "≤ ") + signed(low);
  element("high").textContent = (quantity.gate ? "" : "≥ ") + signed(high);
  for (const row of element("matches").querySelectorAll("tr[data-q]")) {
    const current = Number(row.dataset.q) === q && Number(row.dataset.unit) === quantity.units[u];
    row.setAttribute("aria-current", current);
  }
}

function drawSaliency() {
  spans.forEach((span, s) => {
    const height = traced < 0 ? 0 : 10 * share(traced, s);
    span.style.borderBottomWidth = height ? height.toFixed(1) + "px" : "";
    span.classList.toggle("chosen", s === traced);
    span.classList.toggle("next", traced >= 0 && s === traced + 1);
  });
}

function draw() {
  drawValues();
  drawSaliency();
  describe();
}

function remember() {
  const state = { q: data.quantities[q].name, u: data.quantities[q].units[u] };
  if (traced >= 0) state.t = traced;
  history.replaceState(null, "", "#" + new URLSearchParams(state));
  draw();
}

function recall() {
  const state = new URLSearchParams(location.hash.slice(1));
  const known = data.quantities.findIndex((quantity) => quantity.name === state.get("q"));
  const best = data.matches.reduce(
    (a, b) => (Math.abs(b.held_out) > Math.abs(a.held_out) ? b : a), data.matches[0]);
  q = known >= 0 ? known : best ? number(best.quantity) : 0;
  u = nearest(known >= 0 ? Number(state.get("u")) || 0 : best ? best.unit : 0);
  const t = state.has("t") ? Number(state.get("t")) : -1;
  traced = Number.isInteger(t) && t >= 0 && t < spans.length ? t : -1;
  draw();
  spans[traced]?.scrollIntoView({ block: "center" });
}

// Returns the index of the quantity with this name.
function number(name) {
  return data.quantities.findIndex((quantity) => quantity.name === name);
}

// Returns the index of the unit on the page that is closest to this number.
function nearest(unit) {
  const units = data.quantities[q].units;
  let best = 0;
  units.forEach((other, i) => {
    if (Math.abs(other - unit) < Math.abs(units[best] - unit)) best = i;
  });
  return best;
}

function move(by) {
  const count = data.quantities[q].units.length;
  u = (u + by + count) % count;
  remember();
}

function point(t) {
  spans[here]?.classList.remove("here");
  here = t;
  spans[here]?.classList.add("here");
  describe();
}

function trace(t) {
  traced = t === traced ? -1 : t;
  remember();
}

element("title").textContent = document.title = data.title;
element("about").textContent = data.about;
element("help").textContent = data.help;
element("rules").textContent = data.rules;
element("method").textContent = data.method;
element("ranking").hidden = data.matches.length === 0;
element("scale").style.background =
  `linear-gradient(to right, ${[0, 0.5, 1].map(color).join(", ")})`;
element("text").append(...spans);

data.quantities.forEach((quantity, i) => {
  element("quantity").append(new Option(quantity.name, i));
});

let group = null;
for (const match of data.matches) {
  if (match.feature !== group) {
    group = match.feature;
    const head = element("matches").insertRow().appendChild(document.createElement("th"));
    head.colSpan = 3;
    head.scope = "rowgroup";
    head.textContent = group;
    const legend = head.appendChild(document.createElement("div"));
    legend.className = "faint";
    legend.textContent = data.legends[group];
  }
  const row = element("matches").insertRow(), button = document.createElement("button");
  row.dataset.q = number(match.quantity);
  row.dataset.unit = match.unit;
  button.textContent = `${match.quantity} ${match.unit}`;
  row.insertCell().append(button);
  for (const r of [match.held_out, match.selection]) {
    const cell = row.insertCell();
    cell.className = "number";
    cell.textContent = r.toFixed(2).replace("-", "−");
  }
  row.addEventListener("click", () => {
    q = Number(row.dataset.q);
    u = nearest(match.unit);
    remember();
  });
}

element("quantity").addEventListener("change", (event) => {
  const unit = data.quantities[q].units[u];
  q = Number(event.target.value);
  u = nearest(unit);
  remember();
});
element("unit").addEventListener("change", (event) => {
  u = nearest(Number(event.target.value));
  remember();
});
element("previous").addEventListener("click", () => move(-1));
element("following").addEventListener("click", () => move(1));

const place = (event) => Number(event.target.dataset.t ?? -1);
element("text").addEventListener("mouseover", (event) => point(place(event)));
element("text").addEventListener("mouseleave", () => point(-1));
element("text").addEventListener("click", (event) => {
  if (place(event) >= 0) trace(place(event));
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (event.key === "Escape" && traced >= 0) return trace(traced);
  if (event.target === element("text")) {
    if (by) {
      point(clamp((here < 0 ? traced : here) + by, 0, spans.length - 1));
      spans[here].scrollIntoView({ block: "nearest" });
    } else if ((event.key === "Enter" || event.key === " ") && here >= 0) trace(here);
    else return;
    event.preventDefault();
  } else if (by && !["INPUT", "SELECT"].includes(event.target.tagName)) {
    move(by);
    event.preventDefault();
  }
});
window.addEventListener("hashchange", recall);
recall();
