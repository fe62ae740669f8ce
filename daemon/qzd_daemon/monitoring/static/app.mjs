// Receive the daemon's state and pictures over one connection, and show them. Nothing is asked for while the
// page is hidden.

import { sparkline } from "./charts.mjs";
import { Picture, Tile, facts, judge, veil } from "./tiles.mjs";

const WALL_FPS = 2; // of each tile
const LARGE_FPS = 5;
const LOST_MS = 4000; // without a state, which comes every second

const of = (id) => document.getElementById(id);
const tiles = new Map();
const charts = new Map();
const large = new Picture(of("one"));
let source = null;
let state = null;
let heard = 0;

const chosen = () => {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return "";
  }
};

function connect() {
  source?.close();
  source = null;
  if (document.hidden) return;
  const one = chosen();
  const query = new URLSearchParams(one ? { stream: one, fps: LARGE_FPS } : { fps: WALL_FPS });
  source = new EventSource(`/events?${query}`);
  source.addEventListener("state", (event) => {
    state = JSON.parse(event.data);
    heard = Date.now();
    show();
  });
  source.addEventListener("picture", (event) => {
    const { stream, jpeg } = JSON.parse(event.data);
    const picture = stream === chosen() ? large : tiles.get(stream)?.picture;
    picture?.show(jpeg, stream).catch(() => {}); // a picture that cannot be shown is followed by the next
  });
}

function show() {
  const streams = state.status.streams;
  const names = streams.map((stream) => stream.name).join("\n");
  if (names !== [...tiles.keys()].join("\n")) arrange(streams);
  for (const stream of streams) tiles.get(stream.name).update(stream, history(stream.name), state.now_ns);
  of("none").hidden = streams.length > 0;
  const one = streams.find((stream) => stream.name === chosen());
  of("one").hidden = one === undefined;
  of("all").hidden = one !== undefined;
  if (one !== undefined) showOne(one);
  showHealth();
  showModels();
  showLog();
}

const history = (name) => state.history[name] ?? { last: null, counts: {}, reasons: [] };

function arrange(streams) {
  tiles.clear();
  for (const { name } of streams) tiles.set(name, new Tile(name));
  of("tiles").replaceChildren(...[...tiles.values()].map((tile) => tile.element));
  connect(); // the pictures of the streams that there are now
}

function showOne(stream) {
  const past = history(stream.name);
  const [words, kind] = judge(stream, past);
  setText(of("one-title"), `${stream.name}: ${words}`);
  setText(of("one-facts"), `${facts(stream, past, state.now_ns)}. ${stream.source}, through ${stream.models.join(", ")}.`);
  large.cover(veil(stream, past, words, kind), kind);
  showCounts(Object.entries(past.counts));
  const reasons = past.reasons.map(reason);
  of("reasons").replaceChildren(...(reasons.length ? reasons : [element("li", "None.")]));
}

function showCounts(counts) {
  if (counts.map(([label]) => label).join("\n") !== [...charts.keys()].join("\n")) {
    charts.clear();
    for (const [label] of counts) charts.set(label, { chart: sparkline(), now: element("span", "", "now") });
    const rows = [...charts].map(([label, { chart, now }]) => {
      const row = element("div", "", "count");
      row.append(element("span", label), chart.element, now);
      return row;
    });
    of("counts").replaceChildren(...(rows.length ? rows : [element("p", "Nothing was found.")]));
  }
  if (!counts.length && !of("counts").firstChild) of("counts").append(element("p", "Nothing was found."));
  for (const [label, values] of counts) {
    const { chart, now } = charts.get(label);
    chart.set(label, values);
    setText(now, String(values.at(-1)));
  }
}

function reason({ at, text }) {
  const row = element("li", "");
  row.append(element("time", new Date(at * 1000).toLocaleTimeString()), element("span", text));
  return row;
}

function showHealth() {
  const problems = state.status.problems;
  const words = problems.length ? `not ready: ${problems.join("; ")}` : `ready, version ${state.status.version}`;
  setText(of("health"), words);
  of("health").className = problems.length ? "bad" : "good";
}

function showModels() {
  const head = ["model", "version", "precision", "runs on", "confidence", "accuracy", "digest"];
  const rows = state.status.models.map((model) => [
    model.model.name,
    model.directory ?? model.model.version,
    model.model.precision,
    model.model.device,
    String(model.thresholds.confidence),
    accuracy(state.accuracy[model.model.name] ?? []),
    model.model.digest.replace("sha256:", "").slice(0, 12),
  ]);
  const key = JSON.stringify(rows);
  if (of("models").dataset.key === key) return;
  of("models").dataset.key = key;
  const top = element("thead", "");
  top.append(row(head, "th"));
  const body = element("tbody", "");
  body.append(...rows.map((cells) => row(cells, "td")));
  of("models").replaceChildren(top, body);
}

// Metrics of the bundle, beside those of the model that it was quantized from.
function accuracy(measured) {
  const parts = measured.map(({ images, metrics, baseline }) => {
    const values = Object.entries(metrics).map(([name, value]) => {
      const before = baseline[name] === undefined ? "" : ` (was ${baseline[name].toFixed(3)})`;
      return `${name} ${value.toFixed(3)}${before}`;
    });
    return `${values.join(", ")} on ${images} images`;
  });
  return parts.join("; ") || "not measured";
}

function row(cells, kind) {
  const made = element("tr", "");
  made.append(...cells.map((text, at) => element(at === 0 ? "th" : kind, text)));
  return made;
}

function showLog() {
  const box = of("log");
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 8;
  setText(box, state.log.join("\n"));
  if (atEnd) box.scrollTop = box.scrollHeight;
}

function element(kind, text, name = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

function setText(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

addEventListener("hashchange", () => {
  large.clear();
  charts.clear();
  of("counts").replaceChildren();
  connect();
  if (state) show();
  (chosen() ? of("back") : tiles.values().next().value?.element)?.focus({ preventScroll: true });
  scrollTo(0, 0);
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chosen()) location.hash = "";
});
document.addEventListener("visibilitychange", connect);
setInterval(() => {
  if (document.hidden || Date.now() - heard < LOST_MS) return;
  setText(of("health"), "no answer from the daemon");
  of("health").className = "bad";
  if (source?.readyState === EventSource.CLOSED) connect();
}, 1000);
connect();
