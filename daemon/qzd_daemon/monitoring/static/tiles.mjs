// Show pictures on canvases, and the state of a stream beside them. Every text from outside is text, never markup.

// Return the words and the kind (good, warn, bad) of a stream's state.
export function judge(stream, history) {
  const outcome = history.last?.outcome;
  if (["failed", "reconnecting", "stalled"].includes(stream.state)) return [stream.state, "bad"];
  if (stream.state !== "running") return [stream.state, "warn"];
  if (outcome !== undefined && outcome !== "ok") return [outcome, outcome === "skipped" ? "warn" : "bad"];
  return [outcome ?? "no frame yet", outcome === "ok" ? "good" : "warn"];
}

// Return a line with the rates of a stream.
export function facts(stream, history, now_ns) {
  const rates = stream.rates;
  if (rates?.last_frame_ns == null) return "no frame yet";
  const number = (value, digits) => (value == null ? "–" : value.toFixed(digits));
  const found = history.last?.outcome === "ok" ? `${history.last.found} found, ` : "";
  return (
    `${found}${number(rates.fps, 1)} frames/s, ${number(rates.latency_p50_ms, 0)} ms (p99 ${number(rates.latency_p99_ms, 0)} ms), ` +
    `last ${number(Math.max(0, (now_ns - rates.last_frame_ns) / 1e9), 1)} s ago, ` +
    `${number(100 * rates.dropped, 0)} % dropped`
  );
}

export class Picture {
  #canvas;
  #veil;

  constructor(box) {
    this.#canvas = box.querySelector("canvas");
    this.#veil = box.querySelector(".veil");
  }

  // Show a JPEG, given as base64.
  async show(jpeg, name) {
    const bytes = Uint8Array.from(atob(jpeg), (character) => character.charCodeAt(0));
    const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
    this.#canvas.width = bitmap.width;
    this.#canvas.height = bitmap.height;
    this.#canvas.getContext("2d").drawImage(bitmap, 0, 0);
    this.#canvas.setAttribute("role", "img");
    this.#canvas.setAttribute("aria-label", `the newest picture of ${name}`);
    bitmap.close();
  }

  // Say over the picture why it is not to be trusted, or nothing.
  cover(text, kind) {
    this.#veil.textContent = text;
    this.#veil.className = text ? `veil shown ${kind}` : "veil";
  }

  clear() {
    this.#canvas.width = 16;
    this.#canvas.height = 9;
  }
}

// Return what covers the picture of a stream that is not well.
export function veil(stream, history, words, kind) {
  if (kind === "good") return "";
  const reason = history.last?.outcome !== "ok" && stream.state === "running" ? history.last?.reason : stream.reason;
  return reason ? `${words}: ${reason}` : words;
}

export class Tile {
  #name;
  #state;
  #facts;

  constructor(name) {
    this.element = document.createElement("a");
    this.element.className = "tile";
    this.element.href = `#${encodeURIComponent(name)}`;
    const head = div("head");
    this.#name = span("name", name);
    this.#state = span("state", "");
    head.append(this.#name, this.#state);
    const box = div("picture");
    box.append(document.createElement("canvas"), paragraph("veil"));
    this.#facts = paragraph("facts");
    this.element.append(head, box, this.#facts);
    this.picture = new Picture(box);
    this.picture.clear();
  }

  update(stream, history, now_ns) {
    const [words, kind] = judge(stream, history);
    this.#state.textContent = words;
    this.#state.className = `state ${kind}`;
    this.#facts.textContent = facts(stream, history, now_ns);
    this.picture.cover(veil(stream, history, words, kind), kind);
  }
}

function div(name) {
  const made = document.createElement("div");
  made.className = name;
  return made;
}

function span(name, text) {
  const made = document.createElement("span");
  made.className = name;
  made.textContent = text;
  return made;
}

function paragraph(name) {
  const made = document.createElement("p");
  made.className = name;
  return made;
}
