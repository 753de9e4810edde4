/** The page: it opens a file, verifies it, replays a recording, and classifies live motion. */

import { framesOf } from "./lstm-edge/frames.js";
import { load } from "./lstm-edge/index.js";
import { readings, Sampler } from "./motion.js";
import { pace } from "./pace.js";
import { best, lanesOf, Plot, svg } from "./plot.js";

/** @import { Model, Result } from "./lstm-edge/index.js" */
/** @typedef {{name: string, x: Float32Array, label: string | null}} Recording x is `(L, I)` */
/**
 * The files that `lstm-edge convert --to web` wrote next to this page.
 *
 * @typedef {object} Site
 * @property {string} model the file that this page opens
 * @property {string} name its original name
 * @property {{label: string, features: string[], x: string}[]} recordings x is float32 `(L, I)` in base64
 */

const { SITE } = /** @type {{SITE: Site}} */ (/** @type {unknown} */ (globalThis));
const RUNTIME = "./ort/ort.wasm.bundle.min.mjs";
const LIVE_SECONDS = 10, DEFAULT_RATE = 60, SENSOR_TIMEOUT = 3000;

const address = new URLSearchParams(location.search);
const stillness = matchMedia("(prefers-reduced-motion: reduce)");

/** @template {HTMLElement} [T=HTMLElement] @param {string} id @returns {T} */
const byId = (id) => /** @type {T} */ (document.getElementById(id));
/** @param {string} id @param {string} text @param {boolean} [isBad] */
const say = (id, text, isBad = false) => {
  byId(id).textContent = text;
  byId(id).className = isBad ? "bad" : "";
};
const messageOf = (/** @type {unknown} */ error) => (error instanceof Error ? error.message : String(error));
/** @param {string} name @param {string} text */
const element = (name, text) => Object.assign(document.createElement(name), { textContent: text });
const ms = (/** @type {number} */ value) => `${value < 10 ? value.toPrecision(2) : value.toFixed(0)} ms`;
const bytes = (/** @type {number} */ count) => (count < 1e6 ? `${(count / 1000).toFixed(1)} kB` : `${(count / 1e6).toFixed(1)} MB`);

const small = (/** @type {number} */ value) => (value > 0 && value < 1e-3 ? value.toExponential(1) : value.toPrecision(2));

/** The open model, and its player. */
class Session {
  model;
  features;
  /** @type {Map<string, AbortController>} */ #running = new Map();

  /** @param {Model} model */
  constructor(model) {
    this.model = model;
    const { inputs, lengths } = model.manifest, data = inputs.filter(({ name }) => name !== lengths);
    const [input] = data, samples = input && (input.dtype === "float32" || typeof input.axes.at(-1) === "number");
    const width = samples && data.length === 1 ? channelsOf(input) : 0;
    this.features = model.features.length ? model.features : Array.from({ length: width }, (_, place) => `x${place}`);
  }

  /** Return a signal for a run; `stop` ends it. @param {string} name */
  begin(name) {
    this.stop(name);
    const run = new AbortController();
    this.#running.set(name, run);
    return run.signal;
  }

  /** @param {string} name @returns {boolean} whether there was one to stop */
  stop(name) {
    this.#running.get(name)?.abort();
    return this.#running.delete(name);
  }

  async close() {
    for (const name of this.#running.keys()) this.stop(name);
    await this.model.close();
  }
}

/** @type {Session | undefined} */ let session;
let opened = 0;

/** Open a file and show everything about it. @param {string} name @param {string | File} source */
async function open(name, source) {
  const turn = (opened += 1);
  await session?.close();
  session = undefined;
  showNothing(name);
  say("verdict", "Reading…");
  try {
    const started = performance.now();
    const ort = await import(RUNTIME), threads = Number(address.get("threads")) || undefined;
    const model = await load(source, { ort, ...(threads && { threads }) });
    const loaded = performance.now() - started;
    if (turn !== opened) return void model.close();
    session = new Session(model);
    await verify(model);
    showFacts(name, model, loaded);
    showReplay(session);
    showLive(session);
  } catch (error) {
    say("verdict", messageOf(error), true);
  }
}

/** @param {string} name */
function showNothing(name) {
  for (const id of ["replay", "live"]) byId(id).inert = true;
  byId("facts").replaceChildren();
  byId("title").textContent = name;
}

/** @param {Model} model */
async function verify(model) {
  const started = performance.now();
  if (!model.manifest.golden) return say("verdict", "The file has no golden case, so it can't be verified.");
  const { ok, worst, comparisons } = await model.selftest();
  const took = performance.now() - started, share = `${worst.name} differs by ${small(worst.error)}, limit ${small(worst.limit)}`;
  say("verdict", ok
    ? `Verified on this device in ${ms(took)}: ${comparisons.length} comparisons with PyTorch; at worst ${share}.`
    : `Verification failed: results on this device differ from PyTorch. ${share}.`, !ok);
  byId("verdict").classList.toggle("good", ok);
}

/** @param {string} name @param {Model} model @param {number} loaded */
function showFacts(name, model, loaded) {
  const { manifest, features, labels, units, samplingRate } = model, { provenance, equivalence, signal } = manifest;
  const versions = Object.entries(provenance.versions ?? {}).map((pair) => pair.join(" ")).join(", ");
  const checkpoint = provenance.checkpoint_sha256, difference = equivalence.max_abs, unit = manifest.unit ?? 1;
  const behind = model.unstreamable ? 0 : model.stream({ resetEvery: "never" }).delay, pace = unit === 1 ? "a result a sample" : `results every ${unit} samples`;
  /** @type {[string, string | false | null | undefined][]} */
  const facts = [
    ["File", `${name}, ${bytes(model.bytes)}, ${manifest.precision}`],
    ["sha256", model.identity],
    ["Labels", labels.join(", ")],
    ["Units", units.join(", ")],
    ["Features", features.join(", ")],
    ["Sampling rate", samplingRate !== null && `${samplingRate} Hz`],
    ["Window in training", signal.window !== null && `${signal.window} samples`],
    ["Stream", (unit > 1 || behind > 0) && `${pace}${behind ? `, ${behind} samples${samplingRate === null ? "" : ` (${ms((1000 * behind) / samplingRate)})`} behind` : ""}`],
    ["State reset", model.resetEvery !== null && `every ${model.resetEvery} samples, as in training`],
    ["States", manifest.states.map(({ input, axes }) => `${input} (${axes.join(", ")})`).join(", ")],
    ["Checkpoint", typeof checkpoint === "string" && `sha256 ${checkpoint}`],
    ["Made with", versions],
    ["Difference from PyTorch at export", typeof difference === "number" && small(difference)],
    ["Loaded in", `${ms(loaded)}, with onnxruntime-web`],
  ];
  byId("facts").replaceChildren(...facts.flatMap(([term, text]) => (text ? [element("dt", term), element("dd", text)] : [])));
}

/** The recordings that fit the model. @param {Session} session @returns {Recording[]} */
function recordingsOf({ model, features }) {
  const { golden, axes, inputs, lengths } = model.manifest, width = features.length;
  const fitting = SITE.recordings.filter((each) => each.features.length === width && (!model.features.length || each.features.join() === features.join()));
  const found = fitting.map(({ label, x }) => ({
    name: label, label: model.labels.includes(label) ? label : null,
    x: new Float32Array(Uint8Array.from(atob(x), (letter) => letter.charCodeAt(0)).buffer),
  }));
  const [input] = inputs.filter(({ name }) => name !== lengths), array = input && golden?.inputs[input.name];
  if (array && width && input.dtype === "float32" && axes.batch === input.axes[0] && axes.sequence === input.axes[1] && input.axes.length === 3) {
    const size = (array.dims[1] ?? 0) * width;
    found.push({ name: "the file's own golden case", label: null, x: new Float32Array(/** @type {Float32Array} */ (array.data).slice(0, size)) });
  }
  return found;
}

/**
 * The rows of the main output in a result, and the samples that each is of: `count` of them, the last one `back` samples ago.
 *
 * @param {Model} model
 * @param {Result | null} result
 * @returns {{values: number[], back: number, count: number}[]} the last row alone, unless the stream is behind or has a unit
 */
function mainRows({ manifest }, result) {
  const name = manifest.task?.output ?? manifest.outputs[0]?.name ?? "";
  const spec = manifest.outputs.find((each) => each.name === name);
  const values = Array.from((ArrayBuffer.isView(result) ? result : result?.[name]) ?? [], Number);
  if (!spec || !values.length) return [];
  const { axis, each, delay } = framesOf(manifest, spec), unit = manifest.unit ?? 1, buffered = axis >= 0 && (unit > 1 || delay > 0);
  const width = buffered ? channelsOf(spec) : values.length, frames = buffered ? values.length / width : 1;
  return Array.from({ length: frames }, (_, place) => ({
    values: typeof spec.axes.at(-1) === "string" && buffered
      ? values.filter((_, at) => at % frames === place)
      : values.slice((place - frames) * width, (place - frames + 1) * width || undefined),
    back: Math.floor(((delay + frames - 1 - place) * unit) / each), count: Math.max(1, Math.floor(unit / each)),
  }));
}

/** The features or classes of a tensor: its last axis of fixed size; 1 if it has none. @param {{axes: readonly (string | number)[]}} spec */
const channelsOf = ({ axes }) => Number([...axes].reverse().find((axis) => typeof axis === "number") ?? 1);

/** Names of the outputs of a file without classes. @param {Model} model */
function outputsOf({ manifest, units, labels }) {
  if (labels.length) return [];
  const spec = manifest.outputs.find(({ name }) => name === (manifest.task?.output ?? manifest.outputs[0]?.name));
  return Array.from({ length: spec ? channelsOf(spec) : 1 }, (_, place) => `${spec?.name} ${place}${units[place] ? ` ${units[place]}` : ""}`);
}

/** A plot with its legend and the present decision, under one prefix of ids. */
class View {
  /** @type {ArrayLike<number> | undefined} */ #values;
  #prefix;
  #model;
  #shown = 0;
  plot;

  /** @param {"replay" | "live"} prefix @param {Session} session */
  constructor(prefix, { model, features }) {
    this.#prefix = prefix;
    this.#model = model;
    const figure = byId(`${prefix}-plot`), fresh = /** @type {SVGElement} */ (figure.cloneNode(false));
    figure.replaceWith(fresh);
    this.plot = new Plot(/** @type {SVGElement} */ (/** @type {unknown} */ (fresh)), { names: features, labels: model.labels, outputs: outputsOf(model) });
    byId(`${prefix}-legend`).replaceChildren(...[...lanesOf(features).values()].flat().map((place) => {
      const line = element("span", ""), swatch = svg("svg", { viewBox: "0 0 20 10", "aria-hidden": "true" });
      swatch.append(svg("line", { class: `s${place % 6}`, x1: 0, x2: 20, y1: 5, y2: 5, "stroke-width": 3 }));
      line.append(swatch, features[place] ?? "");
      return line;
    }));
    byId(`${prefix}-bars`).replaceChildren();
    say(`${prefix}-result`, "");
  }

  /** The class of the last row; empty before the first. */
  get label() {
    return this.#values ? (this.#model.labels[best(this.#values)] ?? "") : "";
  }

  /** @param {ArrayLike<number>} sample @param {Result | null} result */
  push(sample, result) {
    this.plot.push(sample);
    for (const { values, back, count } of mainRows(this.#model, result)) {
      this.#values = values;
      this.plot.tell(values, back, count);
    }
    if (stillness.matches && performance.now() - this.#shown < 1000) return;
    this.show();
  }

  show() {
    this.#shown = performance.now();
    this.plot.ask();
    showBars(byId(`${this.#prefix}-bars`), this.#model, this.#values ?? []);
  }

  /** @param {string} words the picture's text for those who do not see it */
  describe(words) {
    byId(`${this.#prefix}-plot`).setAttribute("aria-label", words);
  }
}

/** @param {HTMLElement} bars @param {Model} model @param {ArrayLike<number>} values */
function showBars(bars, model, values) {
  const isClasses = model.labels.length > 0, names = isClasses ? model.labels : outputsOf(model);
  const { probabilities } = model.interpret(Float64Array.from(values));
  if (bars.childElementCount !== names.length * (isClasses ? 3 : 2)) {
    bars.replaceChildren(...names.flatMap((name) => {
      if (!isClasses) return [element("span", name), Object.assign(element("b", ""), { className: "value" })];
      const track = element("span", "");
      track.append(element("i", ""));
      return [element("span", name), track, element("b", "")];
    }));
  }
  bars.querySelectorAll("b").forEach((cell, place) => {
    const share = probabilities?.[place];
    cell.textContent = isClasses ? `${Math.round((share ?? 0) * 100)} %` : values.length ? Number(values[place]).toPrecision(4) : "–";
  });
  bars.querySelectorAll("i").forEach((bar, place) => { bar.style.width = `${(probabilities?.[place] ?? 0) * 100}%`; });
}

// the initial texts are those for a file without special features
const [REPLAY_WORDS, LIVE_WORDS] = ["replay-words", "live-words"].map((id) => byId(id).textContent ?? "");

/** Describe the inputs of the file. @param {Model} model */
const inputsOf = ({ manifest: { inputs } }) => inputs.map(({ name, dtype, axes }) => `${name} ${dtype} (${axes.join(", ")})`).join(" and ");

/** @param {Session} session */
function showReplay(session) {
  const { model, features } = session, recordings = recordingsOf(session), view = new View("replay", session);
  const button = byId("play"), choice = /** @type {HTMLSelectElement} */ (byId("recording")), whole = model.unstreamable;
  const preview = () => {
    const chosen = recordings[Number(choice.value)];
    if (!chosen) return;
    view.plot.preview(chosen.x, features.length);
    view.describe(`The signal of ${chosen.name}`);
  };
  byId("replay").inert = false;
  choice.disabled = false;
  choice.replaceChildren(...recordings.map(({ name }, place) => Object.assign(element("option", name), { value: String(place) })));
  byId("replay-controls").hidden = !recordings.length;
  byId("speed").parentElement?.toggleAttribute("hidden", Boolean(whole) || stillness.matches);
  button.textContent = whole ? "Run the whole recording" : "Play";
  byId("replay-figure").hidden = !recordings.length;
  say("replay-words", !recordings.length
    ? `This page replays recordings of sensors: one float32 input (N, L, features). It has none for this file, whose inputs are ${inputsOf(model)}.`
    : whole
      ? `This file can't be streamed: ${whole}. Each call is a whole sequence.`
      : REPLAY_WORDS ?? "");
  preview();
  choice.onchange = preview;
  button.onclick = async () => {
    const recording = recordings[Number(choice.value)];
    if (session.stop("replay") || !recording) return;
    const signal = session.begin("replay");
    button.textContent = whole ? "Running" : "Stop";
    choice.disabled = true;
    try {
      await (whole ? runWhole(session, view, recording) : replay(session, view, recording, signal));
    } catch (error) {
      say("replay-result", messageOf(error), true);
    } finally {
      if (!signal.aborted) session.stop("replay");
      button.textContent = whole ? "Run the whole recording" : "Play";
      choice.disabled = false;
    }
  };
}

/** @param {Session} session @param {View} view @param {Recording} recording */
async function runWhole({ model, features }, view, { x, label }) {
  const { outputs } = await model.run(x);
  const name = model.manifest.task?.output ?? model.manifest.outputs[0]?.name ?? "", values = outputs[name]?.data ?? new Float32Array(0);
  view.plot.clear(x.length / features.length);
  for (let at = 0; at < x.length; at += features.length) view.push(x.subarray(at, at + features.length), values);
  view.show();
  const said = model.interpret(values).label;
  conclude(view, said === undefined ? "Done." : `Recognized as ${said}.${label === null ? "" : ` The recording is ${label}.`}`);
}

/** @param {Session} session @param {View} view @param {Recording} recording @param {AbortSignal} signal */
async function replay({ model, features }, view, { x, label }, signal) {
  const stream = model.stream({ resetEvery: model.resetEvery ?? "never" }), width = features.length, count = x.length / width;
  const speed = Number(/** @type {HTMLSelectElement} */ (byId("speed")).value), rate = model.samplingRate ?? DEFAULT_RATE;
  const timer = new Timer("replay-result", rate * speed, "it is replayed more slowly than asked");
  /** @type {string[]} */
  const said = [];
  view.plot.clear(count);
  say("replay-result", "");
  for await (const _ of pace(stillness.matches ? Infinity : rate * speed, signal, () => timer.late())) {
    const sample = x.subarray(said.length * width, (said.length + 1) * width);
    const result = await timer.time(() => stream.step(sample));
    view.push(sample, result);
    said.push(view.label);
    if (said.length === count) break;
  }
  view.show();
  const wrong = said.findLastIndex((each) => each !== label), last = said.at(-1);
  const decision = signal.aborted || !last ? "" : label === null
    ? `Recognized at the end as ${last}. `
    : wrong === count - 1 ? `Classified as ${last}; the recording is ${label}. ` : `Recognized as ${label} after ${((wrong + 2) / rate).toFixed(1)} s. `;
  conclude(view, `${decision}${timer.words()}`);
}

/** @param {View} view @param {string} words */
function conclude(view, words) {
  say("replay-result", words);
  view.describe(`The signal and the predictions. ${words}`);
}

/** Times steps, and shows if they are too slow. */
class Timer {
  #spent = 0;
  #count = 0;
  #isLate = false;
  #place;
  #rate;
  #consequence;

  /** @param {string} place @param {number} rate samples a second @param {string} consequence of being too slow, in words */
  constructor(place, rate, consequence) {
    this.#place = place;
    this.#rate = rate;
    this.#consequence = consequence;
  }

  /** @template T @param {() => Promise<T>} work */
  async time(work) {
    const started = performance.now(), result = await work();
    this.#spent += performance.now() - started;
    this.#count += 1;
    return result;
  }

  late() {
    this.#isLate = true;
    say(this.#place, this.words(), true);
  }

  words() {
    if (!this.#count) return "";
    const step = `${ms(this.#spent / this.#count)} on average; a sample comes every ${ms(1000 / this.#rate)}`;
    return this.#isLate ? `This device is too slow: a step takes ${step}, so ${this.#consequence}.` : `A step takes ${step}.`;
  }
}

/** @param {Session} session */
function showLive(session) {
  const { model, features } = session, wanted = readings(features), button = byId("start");
  byId("live").inert = false;
  byId("live-figure").hidden = true;
  const missing = model.unstreamable
    ? `This file can't be streamed: ${model.unstreamable}.`
    : wanted ? "" : `A motion sensor has acc_x, acc_y, acc_z, gyr_x, gyr_y, gyr_z; this file needs ${features.join(", ")}.`;
  byId("live").hidden = !features.length;
  byId("live-controls").hidden = Boolean(missing);
  const view = new View("live", session);
  button.textContent = "Start";
  say("live-words", missing || (LIVE_WORDS ?? ""));
  button.onclick = async () => {
    if (session.stop("live") || !wanted) return;
    const signal = session.begin("live");
    button.textContent = "Stop";
    say("live-result", "Waiting for the sensor…");
    try {
      await live(session, view, wanted, signal);
    } catch (error) {
      say("live-result", messageOf(error), true);
    } finally {
      if (!signal.aborted) session.stop("live");
      button.textContent = "Start";
    }
  };
}

/** @param {Session} session @param {View} view @param {NonNullable<ReturnType<typeof readings>>} wanted @param {AbortSignal} signal */
async function live({ model }, view, wanted, signal) {
  const ask = /** @type {{requestPermission?: () => Promise<string>} | undefined} */ (/** @type {unknown} */ (globalThis.DeviceMotionEvent));
  if (ask?.requestPermission && (await ask.requestPermission()) !== "granted") {
    throw new Error("The browser blocks access to the motion sensor; allow it in the page's settings.");
  }
  const unit = (/** @type {string} */ id) => /** @type {HTMLSelectElement} */ (byId(id)).value;
  const sampler = new Sampler(wanted, { acceleration: unit("acceleration"), rotation: unit("rotation") });
  await new Promise((resolve, reject) => {
    const timeout = setTimeout(() => reject(new Error("No motion sensor found. Phones have one; browsers require HTTPS to read it.")), SENSOR_TIMEOUT);
    signal.addEventListener("abort", resolve);
    addEventListener("devicemotion", (event) => {
      if (!sampler.add(event)) return;
      clearTimeout(timeout);
      resolve(undefined);
    }, { signal });
  });
  const stream = model.stream({ resetEvery: model.resetEvery ?? "never" }), rate = model.samplingRate ?? DEFAULT_RATE;
  let lost = 0;
  const timer = new Timer("live-result", rate, "samples are left out");
  byId("live-figure").hidden = false;
  view.plot.clear(Math.round(LIVE_SECONDS * rate));
  view.describe(`The last ${LIVE_SECONDS} seconds of the sensor and the predictions`);
  let said = "";
  for await (const _ of pace(rate, signal, (samples) => { lost += samples; timer.late(); })) {
    const sample = sampler.take();
    if (!sample) continue;
    const result = await timer.time(() => stream.step(sample));
    view.push(sample, result);
    const { label } = view;
    if (label !== said) say("live-result", `${lost ? `${lost} samples left out. ` : ""}Now: ${label}`, lost > 0);
    said = label;
  }
  say("live-result", `Stopped. ${timer.words()}`);
}

/** Open a file that the person gave. @param {File | null | undefined} file */
function take(file) {
  if (file) void open(file.name, file);
}

const pick = /** @type {HTMLInputElement} */ (byId("pick"));
pick.addEventListener("change", () => take(pick.files?.[0]));
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", () => document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  take(event.dataTransfer?.files[0]);
});

/** @param {string} link */
function isOwn(link) {
  try {
    return new URL(link, location.href).origin === location.origin;
  } catch {
    return false;
  }
}

const linked = address.get("model");
if (linked === null) void open(SITE.name, SITE.model);
else if (isOwn(linked)) void open(linked, linked);
else {
  showNothing(linked);
  say("verdict", "This page only opens files from its own host; put the file in the folder of the page, or drop it here.", true);
}

if ("serviceWorker" in navigator) {
  const kept = navigator.serviceWorker.register("sw.js").then(() => navigator.serviceWorker.ready);
  kept.then(() => say("offline", "This page is stored on this device and works offline."), () => say("offline", "Online only: the browser refused to store this page."));
}
