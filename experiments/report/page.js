"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);

// Returns a new element; texts among the children are shown as plain text.
function make(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made[name] = value;
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;

// ---------------------------------------------------------------- data

const STEPS_PER_DECADE = 500;
const settings = data.settings, places = new Map(settings.map((s, i) => [s.name, i]));
const drawnRuns = data.curves.runs;
const curves = new Map();
const divergedSteps = data.outcomes.find((outcome) => outcome.name === "diverged_step")?.values;
const isDiverged = (run) => typeof divergedSteps?.[run] === "number";

// Returns the values of a group of curves as an array of floats, decoded once.
function decoded(text, isLogarithm) {
  if (!curves.has(text)) {
    const own = isLogarithm ? new Int16Array(bytes(text)) : new Float32Array(bytes(text));
    curves.set(text, own);
  }
  return curves.get(text);
}

function logarithm(step) {
  if (step === -32768) return NaN;
  if (step === -32767) return -Infinity;
  return step === 32767 ? Infinity : step / STEPS_PER_DECADE;
}

// ---------------------------------------------------------------- state

// What the user chose. The link holds it, so that reloading the page keeps it.
const PLAIN = {
  color: "", dash: "", lines: "auto", layer: "1", metric: "loss",
  lagx: "linear", lagy: "log", timex: "linear", timey: "log", metricx: "linear", metricy: "linear",
};
const state = { ...PLAIN, filters: settings.map(() => new Set()), hidden: new Set() };

// Returns the setting that distinguishes lines unless the user chooses another one.
function firstColor() {
  const found = ["folder", "cell"].find((name) => places.has(name));
  if (found) return found;
  const others = settings.filter((s) => !["seed", "status"].includes(s.name));
  others.sort((a, b) => b.values.length - a.values.length);
  return (others[0] ?? settings[0])?.name ?? "";
}

// Returns the only other setting, if it has few values.
function firstDash(color) {
  const others = settings.filter((s) => ![color, "seed", "status"].includes(s.name));
  return others.length === 1 && others[0].values.length <= 3 ? others[0].name : "none";
}

function readLink() {
  const link = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(PLAIN)) if (link.has(name)) state[name] = link.get(name);
  if (!places.has(state.color)) state.color = firstColor();
  if (!places.has(state.dash) && state.dash !== "none") state.dash = firstDash(state.color);
  settings.forEach((setting, i) => {
    for (const value of link.getAll(`is.${setting.name}`)) {
      const code = value === "" ? -1 : setting.values.indexOf(value);
      if (code >= 0 || value === "") state.filters[i].add(code);
    }
  });
  for (const value of link.getAll("hide")) state.hidden.add(Number(value));
}

function writeLink() {
  const link = new URLSearchParams();
  for (const [name, plain] of Object.entries(PLAIN)) {
    if (state[name] !== plain) link.set(name, state[name]);
  }
  settings.forEach((setting, i) => {
    for (const code of state.filters[i]) link.append(`is.${setting.name}`, setting.values[code] ?? "");
  });
  for (const code of state.hidden) link.append("hide", code);
  history.replaceState(null, "", `#${link}`);
}

const isSelected = (run) =>
  state.filters.every((codes, i) => codes.size === 0 || codes.has(settings[i].codes[run]));

// ---------------------------------------------------------------- lines

const MAX_LINES = 120, AUTO_LINES = 40, MAX_BANDS = 24;
const DASHES = ["solid", "dash", "dashdot", "longdash", "longdashdot"];
const PALETTE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1"];
const CELLS = { elman: "#e69f00", gru: "#009e73", lstm: "#0072b2" };
const SHADES = [[68, 57, 131], [48, 104, 142], [32, 144, 141], [53, 183, 121], [165, 203, 52]];
const dark = matchMedia("(prefers-color-scheme: dark)");

function shade(share) {
  const at = Math.max(0, Math.min(share, 1)) * (SHADES.length - 1);
  const low = Math.min(Math.floor(at), SHADES.length - 2);
  const mixed = SHADES[low].map((a, i) => a + (at - low) * (SHADES[low + 1][i] - a));
  return `rgb(${mixed.map((a) => Math.round(dark.matches ? a + 0.25 * (255 - a) : a))})`;
}

// Returns the color of each value of the setting that distinguishes colors.
function colors() {
  const setting = settings[places.get(state.color)];
  if (!setting) return () => PALETTE[0];
  const { name, values } = setting;
  const order = values.map(Number);
  const isNumeric = !order.some((x) => isNaN(x)) && values.length > 2;
  const sorted = [...order].sort((a, b) => a - b);
  const free = PALETTE.filter((c) => name !== "cell" || !values.some((v) => CELLS[v] === c));
  let next = 0;
  const found = values.map((value, i) => {
    if (name === "cell" && CELLS[value]) return CELLS[value];
    if (isNumeric) return shade(sorted.indexOf(order[i]) / (values.length - 1));
    if (values.length > PALETTE.length) {
      const l = dark.matches ? 65 : 45;
      return `hsl(${Math.round(360 * i / values.length)}, 65%, ${l}%)`;
    }
    return free[next++ % free.length];
  });
  const absent = dark.matches ? "#9aa0a8" : "#777c84";
  return (code) => found[code] ?? absent;
}

const valueText = (i, code) => settings[i].values[code] ?? "no effect";
function settingText(i, code) {
  const { name, label } = settings[i];
  if (name === "cell" || name === "folder") return valueText(i, code);
  return name === "status" ? valueText(i, code) : `${label} ${valueText(i, code)}`;
}

// Returns the groups of curves of which each is drawn as one line, and how they are pooled.
function groups() {
  const chosen = [];
  drawnRuns.forEach((run, row) => { if (isSelected(run)) chosen.push([run, row]); });
  const every = settings.map((_, i) => i);
  const apart = every.filter((i) => settings[i].name !== "seed");
  const named = [state.color, state.dash, "status"];
  const pooled = every.filter((i) => named.includes(settings[i].name));
  const by = { settings: apart, runs: every, pooled };
  const split = (kind) => {
    const found = new Map();
    for (const [run, row] of chosen) {
      const codes = by[kind].map((i) => settings[i].codes[run]);
      const key = kind === "runs" ? run : codes.join();
      if (!found.has(key)) found.set(key, { run, codes, rows: [] });
      found.get(key).rows.push(row);
    }
    return [...found.values()];
  };
  let kind = state.lines, found;
  if (kind === "auto") {
    found = split("settings");
    kind = found.length > AUTO_LINES ? "pooled" : "settings";
  }
  if (kind !== "settings" || !found) found = split(kind);
  const ci = places.get(state.color), di = places.get(state.dash), si = places.get("status");
  const color = colors();
  for (const group of found) {
    group.code = ci === undefined ? -1 : settings[ci].codes[group.run];
    group.color = color(group.code);
    group.isDiverged = isDiverged(group.run);
    const dash = di === undefined ? 0 : Math.max(settings[di].codes[group.run], 0);
    group.dash = group.isDiverged ? "dot" : DASHES[dash % DASHES.length];
    const parts = by[kind].map((i, at) => settingText(i, group.codes[at]));
    if (kind === "runs" && parts.length === 0) parts.push(data.runs[group.run]);
    if (group.rows.length > 1) parts.push(`${group.rows.length} runs`);
    group.label = parts.join(", ") || "all runs";
  }
  found.sort((a, b) => a.code - b.code);
  return { kind, all: found, runs: chosen.length, hasStatus: si !== undefined };
}

const sortNumbers = (array) => Float64Array.from(array).sort();
function quantile(sorted, q) {
  const at = q * (sorted.length - 1), low = Math.floor(at), high = Math.ceil(at);
  if (low === high || sorted[low] === sorted[high]) return sorted[low];
  return sorted[low] + (at - low) * (sorted[high] - sorted[low]);
}

// Returns the median of a group's curves, and the bounds of its band.
function summary(group, size, at, kind) {
  const middle = [], low = [], high = [];
  const q = kind === "pooled" ? 0.25 : 0;
  for (let x = 0; x < size; x++) {
    const found = [];
    for (const row of group.rows) {
      const value = at(row, x);
      if (value === value) found.push(value);
    }
    if (found.length === 0) {
      middle.push(null); low.push(null); high.push(null);
      continue;
    }
    const sorted = sortNumbers(found);
    middle.push(quantile(sorted, 0.5));
    low.push(quantile(sorted, q));
    high.push(quantile(sorted, 1 - q));
  }
  return { middle, low, high };
}

// ---------------------------------------------------------------- figures

// plotly reads a few HTML tags in texts.
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const CONFIG = {
  responsive: true, displaylogo: false,
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
};

function translucent(color, alpha) {
  const canvas = translucent.context ??= document.createElement("canvas").getContext("2d");
  canvas.fillStyle = color;
  const hex = canvas.fillStyle;
  return `rgba(${[1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16))}, ${alpha})`;
}

// Returns the traces of a panel: bands, then lines. `zeros` receives the number of lines that a
// logarithmic axis cuts, as they reach 0.
function traces(shown, kind, x, at, isPower, axisName, yLog, xLog, zeros) {
  const bands = [], lines = [];
  const power = (v) => v === null ? null : isPower ? 10 ** v : v;
  const isDrawn = (v, i) => v !== null && isFinite(v) && (!yLog || v > 0) && (!xLog || x[i] > 0);
  const withBands = shown.length <= MAX_BANDS;
  for (const group of shown) {
    const { middle, low, high } = summary(group, x.length, at, kind);
    const y = middle.map(power).map((v, i) => (isDrawn(v, i) ? v : null));
    if (yLog && middle.some((v) => v !== null && power(v) === 0)) zeros.count += 1;
    const few = y.filter((v) => v !== null).length <= 12;
    lines.push({
      x, y, mode: few ? "lines+markers" : "lines", name: plain(group.label),
      line: { color: group.color, width: 1.8, dash: group.dash }, marker: { size: 5 },
      opacity: shown.length > 60 ? 0.6 : 1, showlegend: false,
      hovertemplate: `%{fullData.name}<br>${axisName} %{x}: %{y:.3~g}<extra></extra>`,
    });
    if (withBands && group.rows.length > 1) {
      const [lower, upper] = [low, high].map((v) => v.map(power));
      const kept = x.map((_, i) => i).filter((i) => isDrawn(lower[i], i) && isDrawn(upper[i], i));
      const back = [...kept].reverse();
      bands.push({
        x: [...kept, ...back].map((i) => x[i]),
        y: [...kept.map((i) => upper[i]), ...back.map((i) => lower[i])],
        mode: "lines", line: { width: 0 }, fill: "toself", hoverinfo: "skip", showlegend: false,
        fillcolor: translucent(group.color, 0.13),
      });
    }
  }
  return [...bands, ...lines];
}

// Returns the range that all traces of some panels need.
function range(panels, isLog) {
  let low = Infinity, high = -Infinity;
  for (const panel of panels) for (const { y } of panel) for (const v of y) {
    if (v !== null) { low = Math.min(low, v); high = Math.max(high, v); }
  }
  if (low > high) return null;
  if (isLog) [low, high] = [Math.log10(low), Math.log10(high)];
  const room = 0.04 * (high - low) || 0.5;
  return [low - room, high + room];
}

function layout(xLabel, yLabel, xLog, yLog, yRange) {
  const axis = {
    color: css("--faint"), gridcolor: css("--grid"), zeroline: false, linecolor: css("--line"),
    automargin: true, title: { standoff: 8, font: { size: 12 } },
  };
  return {
    margin: { l: 56, r: 10, t: 26, b: 44 }, showlegend: false, hovermode: "closest",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--faint"), activecolor: css("--accent") },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("--ink") },
    hoverlabel: { namelength: -1, align: "left", font: { size: 12 } },
    xaxis: { ...axis, title: { ...axis.title, text: xLabel }, type: xLog ? "log" : "linear" },
    yaxis: {
      ...axis, title: { ...axis.title, text: yLabel }, type: yLog ? "log" : "linear",
      exponentformat: "power", range: yRange ?? undefined, autorange: yRange === null,
      dtick: yLog && yRange && yRange[1] - yRange[0] < 1 ? "D2" : undefined, nticks: 8,
    },
  };
}

function choice(name, label, options) {
  const select = make("select", {
    onchange: () => { state[name] = select.value; update(); },
  }, ...options.map(([value, text]) => make("option", { value }, text)));
  select.value = state[name];
  if (select.selectedIndex < 0) { select.selectedIndex = 0; state[name] = select.value; }
  return make("label", { class: "faint" }, `${label} `, select);
}

const SCALES = [["linear", "linear"], ["log", "log"]];
const figures = [];

function addFigure(title, name, isWide, tools, panelTitles, draw) {
  const plots = panelTitles.map((text) =>
    make("div", { class: "plot", role: "img", "aria-label": `Line plot. ${title}. ${text}` }));
  const panels = plots.map((plot, i) =>
    make("div", { class: "panel" }, ...(panelTitles[i] ? [make("h3", {}, panelTitles[i])] : []), plot));
  element("figures").append(make("section", { class: isWide ? "wide" : "" },
    make("div", { class: "head" }, make("h2", {}, title),
      make("div", { class: "tools" }, ...tools,
        choice(`${name}x`, "x", SCALES), choice(`${name}y`, "y", SCALES))),
    make("div", { class: "panels" }, ...panels)));
  const zeros = make("p", { class: "zeros faint" });
  element("figures").lastChild.append(zeros);
  figures.push((shown, kind) => {
    const found = { count: 0 };
    draw(plots, shown, kind, found);
    zeros.textContent = found.count === 0 ? "" :
      "Lines end where they reach 0 (in float32, below 1e−38), which a logarithmic axis cannot show.";
  });
}

function addProfile(profile) {
  const { axis, x, layers, label } = profile;
  const options = Array.from({ length: layers }, (_, i) => [`${i + 1}`, `${i + 1}`]);
  const tools = layers > 1 ? [choice("layer", "layer", options)] : [];
  addFigure(profile.title, axis, false, tools, ["At initialization", "After training"],
    (plots, shown, kind, zeros) => {
      const [xLog, yLog] = [state[`${axis}x`] === "log", state[`${axis}y`] === "log"];
      const layer = Math.min(Math.max(Number(state.layer) - 1 || 0, 0), layers - 1);
      const panels = [profile.start, profile.end].map((text) => {
        const values = decoded(text, true);
        const at = (row, i) => logarithm(values[(row * layers + layer) * x.length + i]);
        return traces(shown, kind, x, at, true, axis, yLog, xLog, zeros);
      });
      const yRange = range(panels, yLog);
      plots.forEach((plot, i) => Plotly.react(
        plot, panels[i], layout(label, "‖∂L/∂h‖", xLog, yLog, yRange), CONFIG));
    });
}

function addMetrics(metrics) {
  const options = metrics.map((metric) => [metric.name, metric.label]);
  addFigure("Training", "metric", true, [choice("metric", "", options)], [""],
    ([plot], shown, kind, zeros) => {
      const metric = metrics.find((m) => m.name === state.metric) ?? metrics[0];
      const [xLog, yLog] = [state.metricx === "log", state.metricy === "log"];
      const values = decoded(metric.values, false), size = metric.x.length;
      const at = (row, i) => values[row * size + i];
      const found = traces(shown, kind, metric.x, at, false, "step", yLog, xLog, zeros);
      const own = layout("optimization step", metric.label, xLog, yLog, range([found], yLog));
      if (data.baseline !== null && metric.name.includes("loss")) {
        own.shapes = [{
          type: "line", xref: "paper", x0: 0, x1: 1, y0: data.baseline, y1: data.baseline,
          line: { color: css("--faint"), width: 1, dash: "dot" },
        }];
        own.annotations = [{
          xref: "paper", x: 1, xanchor: "right", yanchor: "bottom", showarrow: false,
          y: yLog ? Math.log10(data.baseline) : data.baseline, text: "ignoring the inputs",
          font: { size: 11, color: css("--faint") },
        }];
      }
      Plotly.react(plot, found, own, CONFIG);
    });
}

// ---------------------------------------------------------------- controls

function addControls() {
  const byName = settings.map((s) => [s.name, s.label]);
  const fill = (id, options) => {
    const select = element(id);
    select.append(...options.map(([value, text]) => make("option", { value }, text)));
    select.onchange = () => {
      state[id] = select.value;
      if (id === "color") state.hidden.clear();
      update();
    };
  };
  fill("color", byName);
  fill("dash", [["none", "none"], ...byName]);
  fill("lines", [
    ["auto", "automatic"], ["settings", "each setting, over seeds"],
    ["pooled", "each color and dash"], ["runs", "each run"],
  ]);
  element("color").parentElement.hidden = settings.length === 0;
  element("dash").parentElement.hidden = settings.length < 2;
  settings.forEach((setting, i) => {
    const codes = setting.values.map((_, code) => code);
    if (setting.codes.includes(-1)) codes.push(-1);
    const chips = codes.map((code) => make("button", {
      class: "chip", type: "button", "data-setting": i, "data-code": code,
      onclick: () => {
        const own = state.filters[i];
        if (!own.delete(code)) own.add(code);
        update();
      },
    }, valueText(i, code)));
    element("filters").append(make("fieldset", {},
      make("legend", {}, setting.label), make("div", { class: "chips" }, ...chips)));
  });
  element("select").hidden = settings.length === 0;
  element("select").open = matchMedia("(min-width: 900px)").matches;
  element("reset").onclick = () => {
    history.replaceState(null, "", location.pathname);
    location.reload();
  };
}

function showControls(found) {
  for (const id of ["color", "dash", "lines"]) element(id).value = state[id];
  for (const chip of document.querySelectorAll(".chip")) {
    const isOn = state.filters[chip.dataset.setting].has(Number(chip.dataset.code));
    chip.setAttribute("aria-pressed", isOn);
  }
  const ci = places.get(state.color);
  const codes = [...new Set(found.all.map((group) => group.code))];
  const color = colors();
  const focused = document.activeElement?.dataset?.legend;
  element("legend").replaceChildren(...codes.map((code) => {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    line.setAttribute("viewBox", "0 0 26 10");
    line.setAttribute("aria-hidden", "true");
    const stroke = document.createElementNS("http://www.w3.org/2000/svg", "path");
    stroke.setAttribute("d", "M0 5H26");
    stroke.setAttribute("stroke", color(code));
    stroke.setAttribute("stroke-width", "3");
    line.append(stroke);
    return make("button", {
      type: "button", "aria-pressed": !state.hidden.has(code), "data-legend": code,
      onclick: () => {
        if (!state.hidden.delete(code)) state.hidden.add(code);
        update();
      },
    }, line, make("span", {}, ci === undefined ? "all runs" : settingText(ci, code)));
  }));
  if (focused !== undefined) element("legend").querySelector(`[data-legend="${focused}"]`)?.focus();
}

function describe(found, shown, left) {
  const total = data.runs.length, chosen = data.runs.filter((_, run) => isSelected(run)).length;
  element("selected").textContent =
    `${chosen.toLocaleString("en")} of ${total.toLocaleString("en")} runs selected`;
  const pools = {
    settings: "A line is the median over seeds; its band goes from the smallest to the largest.",
    pooled: "A line is the median over all runs of its color and dash; its band is their middle half.",
    runs: "A line is a run.",
  };
  const texts = [pools[found.kind]];
  if (shown.some((group) => group.isDiverged)) texts.push("Dotted: runs that diverged, up to there.");
  const di = places.get(state.dash);
  if (di !== undefined) {
    const names = settings[di].values.map((_, code) => `${DASHES[code % DASHES.length]} ${valueText(di, code)}`);
    texts.push(`Dash: ${names.slice(0, 8).join(", ")}.`);
  }
  if (left > 0) texts.push(`${shown.length} of ${shown.length + left} lines are drawn; select fewer runs to see the others.`);
  if (drawnRuns.length < total) {
    texts.push(`The figures hold ${drawnRuns.length.toLocaleString("en")} of the ${total.toLocaleString("en")} runs, evenly spaced.`);
  }
  element("key").textContent = texts.join(" ");
}

// ---------------------------------------------------------------- tables

const PAGE = 50;

// Adds a table of `columns`, {label, isNumber, text(row), value(row)}, and a function that shows it.
function addTable(section, columns, rows, label) {
  let order = null, isUp = true, count = PAGE, words = "";
  const body = make("tbody", {}), more = make("button", { type: "button" });
  const about = make("span", { class: "faint", role: "status" });
  const heads = columns.map((column, i) => make("th", {
    scope: "col", class: [column.isNumber && "number", column.isOutcome && "outcome"].filter(Boolean).join(" "),
  }, make("button", {
    type: "button",
    onclick: () => {
      isUp = order === i ? !isUp : true;
      order = i;
      show();
    },
  }, column.label)));
  const search = make("input", {
    type: "search", placeholder: "Filter rows", "aria-label": `Filter ${label}`,
    oninput: () => { words = search.value.toLowerCase(); count = PAGE; show(); },
  });
  more.onclick = () => { count += 4 * PAGE; show(); };
  function show() {
    const wanted = words.split(/\s+/).filter(Boolean);
    let found = rows().filter((row) => {
      if (wanted.length === 0) return true;
      const text = columns.map((column) => column.text(row)).join(" ").toLowerCase();
      return wanted.every((word) => text.includes(word));
    });
    if (order !== null) {
      const { value } = columns[order], sign = isUp ? 1 : -1;
      const compare = (a, b) => {
        if (a === null || b === null) return (a === null) - (b === null);
        return sign * (typeof a === "number" ? a - b : a < b ? -1 : a > b ? 1 : 0);
      };
      found = found.map((row) => [value(row), row]).sort((a, b) => compare(a[0], b[0])).map((pair) => pair[1]);
    }
    heads.forEach((head, i) => {
      if (i === order) head.setAttribute("aria-sort", isUp ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
    body.replaceChildren(...found.slice(0, count).map((row) => make("tr", {},
      ...columns.map((column) => make("td", { class: column.isNumber ? "number" : column.kind ?? "text" }, column.text(row))))));
    const shown = Math.min(count, found.length);
    about.textContent = `${shown.toLocaleString("en")} of ${found.length.toLocaleString("en")} rows`;
    more.hidden = shown === found.length;
    more.textContent = `Show ${Math.min(4 * PAGE, found.length - shown)} more`;
  }
  section.append(
    make("div", { class: "head" }, search),
    make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
      make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body)),
    make("div", { class: "more" }, more, about));
  return show;
}

function number(value) {
  if (value === null) return "";
  return (Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3)
    ? value.toExponential(2) : `${value}`).replace("-", "−");
}

function addRuns() {
  const bounds = data.outcomes.map((outcome) => new Set(outcome.bounds));
  const columns = [
    ...settings.map((setting, i) => {
      const text = (run) => setting.values[setting.codes[run]] ?? "–";
      const isNumber = setting.values.every((value) => !isNaN(Number(value)));
      const value = (run) => setting.codes[run] < 0 ? null : isNumber ? Number(text(run)) : text(run);
      return { label: setting.label, isNumber, text, value, kind: setting.name === "folder" ? "text" : "short" };
    }),
    ...data.outcomes.map((outcome, i) => ({
      label: outcome.unit ? `${outcome.label} (${outcome.unit})` : outcome.label,
      isNumber: true, isOutcome: true,
      text: (run) => (bounds[i].has(run) ? "≥ " : "") + number(outcome.values[run]),
      value: (run) => outcome.values[run],
    })),
    { label: "run", isNumber: false, text: (run) => data.runs[run], value: (run) => data.runs[run], kind: "short" },
  ];
  const every = data.runs.map((_, run) => run);
  return addTable(element("runs"), columns, () => every.filter(isSelected), "table of runs");
}

function addList(id, labels, rows) {
  element(id).hidden = rows.length === 0;
  const columns = labels.map(([label, isNumber], i) => ({
    label, isNumber: Boolean(isNumber), text: (row) => `${row[i]}`, value: (row) => row[i],
  })).filter((_, i) => i > 0 || data.folders.length > 1);
  addTable(element(id), columns, () => rows, label(id))();
}
const label = (id) => `table of ${id} runs`;

function addAblations() {
  const section = element("ablation");
  section.hidden = !data.ablations.some((own) => own.groups.length || own.notes.length);
  data.ablations.forEach((own, i) => {
    if (data.folders.length > 1) section.append(make("h3", {}, data.folders[i]));
    for (const [at, group] of own.groups.entries()) {
      const rows = group.rows.map((row, r) => make("tr", { class: group.significant[r] ? "strong" : "" },
        ...row.map((text, c) => make("td", { class: c < 2 ? "text" : "number" }, text))));
      section.append(make("details", { open: at === 0 && i === 0 },
        make("summary", {}, group.title),
        make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `effects on ${group.title}` },
          make("table", {},
            make("thead", {}, make("tr", {}, ...own.titles.map((title, c) =>
              make("th", { scope: "col", class: c < 2 ? "" : "number" }, title)))),
            make("tbody", {}, ...rows)))));
    }
    for (const note of own.notes) section.append(make("p", { class: "faint" }, note));
  });
}

function addAsked() {
  const section = element("asked"), several = data.folders.length > 1;
  const row = ({ name, texts, differs }) => make("tr", { class: differs ? "differs" : "" },
    make("th", { scope: "row" }, name), ...texts.map((text) => make("td", {}, text)));
  const table = (rows) => make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "settings" },
    make("table", {},
      ...(several ? [make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "setting"),
        ...data.folders.map((name) => make("th", { scope: "col" }, name))))] : []),
      make("tbody", {}, ...rows.map(row))));
  const first = data.asked.filter((own) => own.axis || own.differs);
  const others = data.asked.filter((own) => !(own.axis || own.differs));
  if (several) {
    const names = data.asked.filter((own) => own.differs).map((own) => own.name);
    section.append(make("p", {}, names.length ? `The folders differ in ${names.join(", ")}.` : "The folders have the same settings."));
  }
  if (first.length) section.append(table(first));
  if (others.length) {
    section.append(make("details", { open: first.length === 0 },
      make("summary", {}, `${others.length} settings with one value`), table(others)));
  }
  data.remarks.forEach((texts, i) => section.append(...texts.map((text) =>
    make("p", { class: "faint" }, several ? `${data.folders[i]}: ${text}` : text))));
  data.commands.forEach((command, i) => section.append(
    make("pre", { tabindex: "0", "aria-label": "command" }, command),
    make("details", {}, make("summary", {}, several ? `sweep.flags of ${data.folders[i]}` : "sweep.flags"),
      make("pre", { tabindex: "0", "aria-label": "flags" }, data.flags[i] || "The file is missing."))));
}

function addProvenance() {
  data.provenance.forEach((rows, i) => {
    if (data.folders.length > 1) element("provenance").append(make("h3", {}, data.folders[i]));
    element("provenance").append(make("dl", {},
      ...rows.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)])));
  });
}

function addHeader() {
  element("title").textContent = data.title;
  element("summary").hidden = data.folders.length > 1;
  element("summary").textContent = data.asked.filter((own) => own.axis || own.name === "task")
    .map(({ name, texts }) => `${name.replaceAll("_", " ")}: ${texts[0]}`)
    .join(" · ");
  for (const [name, count] of Object.entries(data.counts)) {
    if (count === 0 && name !== "finished") continue;
    element("counts").append(make("li", { class: name === "finished" || name === "unfinished" ? "" : "bad" },
      make("strong", {}, count.toLocaleString("en")), ` ${name}`));
  }
  if (data.interval === null) return;
  const pause = make("button", { type: "button" }, "Pause");
  let timer = setTimeout(() => location.reload(), 1000 * data.interval);
  pause.onclick = () => {
    clearTimeout(timer);
    timer = null;
    pause.remove();
  };
  element("live").append(`The sweep is running. This page reloads every ${data.interval} seconds. `, pause);
  element("live").hidden = false;
}

// ---------------------------------------------------------------- page

let showRuns = () => {};
function update() {
  writeLink();
  const found = groups();
  showControls(found);
  const visible = found.all.filter((group) => !state.hidden.has(group.code));
  // Of too many lines, evenly spaced ones are drawn.
  const every = visible.length / Math.min(visible.length, MAX_LINES);
  const shown = visible.length <= MAX_LINES ? visible
    : Array.from({ length: MAX_LINES }, (_, i) => visible[Math.floor(i * every)]);
  describe(found, shown, visible.length - shown.length);
  showRuns();
  for (const draw of figures) draw(shown, found.kind);
}

readLink();
addHeader();
addControls();
for (const profile of data.curves.profiles) addProfile(profile);
if (data.curves.metrics.length) addMetrics(data.curves.metrics);
showRuns = addRuns();
addAblations();
addList("diverged", [["folder"], ["run"], ["step", true], ["first non-finite value"]], data.diverged);
if (data.diverged.length) {
  element("diverged").append(make("p", { class: "faint" },
    "To recompute the step of a run: python -m experiments.replay FOLDER/runs/RUN/replay.npz"));
}
addList("failed", [["folder"], ["run"], ["reason"]], data.failed);
addAsked();
addProvenance();
dark.onchange = update;
// The page's text is painted before the figures are drawn.
requestAnimationFrame(() => setTimeout(update));
