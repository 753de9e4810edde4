/** The page: it opens a program, verifies it, replays a recording, and classifies live motion. */

import { load } from "./lstm-edge/index.js";
import { pace, readings, Sampler } from "./motion.js";
import { best, lanesOf, Plot, svg } from "./plot.js";

/** @import { Model, Result } from "./lstm-edge/index.js" */
/** @typedef {{label: string, features: string[], x: string}} Recording x is float32 `(L, I)` in base64 */

const { SITE } = /** @type {{SITE: {model: string, name: string, recordings: Recording[]}}} */ (/** @type {unknown} */ (globalThis));
const LIVE_SECONDS = 10, DEFAULT_RATE = 60, SENSOR_TIMEOUT = 3000;
const stillness = matchMedia("(prefers-reduced-motion: reduce)");

const byId = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
const chosen = (/** @type {string} */ id) => /** @type {HTMLSelectElement} */ (byId(id)).value;
const say = (/** @type {string} */ id, /** @type {string} */ text, isBad = false) => Object.assign(byId(id), { textContent: text, className: isBad ? "bad" : "" });
const messageOf = (/** @type {unknown} */ error) => (error instanceof Error ? error.message : String(error));
const element = (/** @type {string} */ name, /** @type {string} */ text) => Object.assign(document.createElement(name), { textContent: text });
const ms = (/** @type {number} */ value) => `${value < 10 ? value.toPrecision(2) : value.toFixed(0)} ms`;

/** The place, width and names of the output that is shown. @param {Model} model */
function mainOutput({ outputs, labels, units, manifest }) {
  const port = outputs.find(({ name }) => name === manifest.task?.output) ?? outputs[0], width = port?.width ?? 0;
  const names = labels.length === width ? [...labels] : Array.from({ length: width }, (_, place) => `${port?.name} ${place}${units[place] ? ` ${units[place]}` : ""}`);
  return { name: port?.name ?? "", width, names, frames: port?.frames || 1, isClasses: labels.length === width && width > 0 };
}

/** The open file; `stops` ends what runs on it. @type {{model: Model, stops: Map<string, AbortController>} | undefined} */ let session;
let opened = 0;

/** Open a file and show everything about it. @param {string} name @param {string | File} source */
async function open(name, source) {
  const turn = (opened += 1);
  session?.stops.forEach((stop) => stop.abort());
  session = undefined;
  for (const id of ["replay", "live"]) byId(id).inert = true;
  byId("facts").replaceChildren();
  byId("title").textContent = name;
  say("verdict", "Reading…");
  try {
    const started = performance.now(), model = await load(source), loaded = performance.now() - started;
    if (turn !== opened) return;
    session = { model, stops: new Map() };
    verify(model);
    showFacts(name, model, loaded);
    showReplay(model);
    showLive(model);
  } catch (error) {
    say("verdict", messageOf(error), true);
  }
}

/** @param {Model} model */
function verify(model) {
  try {
    const started = performance.now(), { ok, worst } = model.selftest(), share = `the largest difference is ${worst.toPrecision(2)} of its limit`;
    say("verdict", ok ? `Verified on this device in ${ms(performance.now() - started)}: ${share}.` : `Verification failed on this device: ${share}.`, !ok);
    byId("verdict").classList.toggle("good", ok);
  } catch (error) {
    say("verdict", `It can't be verified: ${messageOf(error)}.`);
  }
}

/** @param {string} name @param {Model} model @param {number} loaded */
function showFacts(name, model, loaded) {
  const { manifest, features, labels, units, samplingRate, unit, delay, resetEvery } = model;
  const late = delay ? `, ${delay} samples${samplingRate === null ? "" : ` (${ms((1000 * delay) / samplingRate)})`} late` : "";
  /** @type {[string, string | false | null][]} */
  const facts = [
    ["File", `${name}, ${manifest.precision}`], ["sha256 of the ONNX file", model.identity], ["Labels", labels.join(", ")],
    ["Units", units.join(", ")], ["Features", features.join(", ")], ["Sampling rate", samplingRate !== null && `${samplingRate} Hz`],
    ["Stream", `${unit === 1 ? "a result per sample" : `results every ${unit} samples`}${late}`],
    ["State reset", resetEvery !== null && `every ${resetEvery} samples, as in training`],
    ["States", model.states.map((state) => `${state.name} (${state.width})`).join(", ")],
    ["Loaded in", ms(loaded)],
  ];
  byId("facts").replaceChildren(...facts.flatMap(([term, text]) => (text ? [element("dt", term), element("dd", text)] : [])));
}

/** A plot with its legend and the present prediction, under one prefix of ids. */
class View {
  /** @type {ArrayLike<number> | undefined} */ #values;
  #shown = 0;

  /** @param {"replay" | "live"} prefix @param {Model} model @param {string[]} features */
  constructor(prefix, model, features) {
    this.prefix = prefix;
    this.model = model;
    this.output = mainOutput(model);
    const { isClasses, names } = this.output, figure = byId(`${prefix}-plot`), fresh = /** @type {any} */ (figure.cloneNode(false));
    figure.replaceWith(fresh);
    this.plot = new Plot(fresh, { names: features, labels: isClasses ? names : [], outputs: isClasses ? [] : names });
    byId(`${prefix}-legend`).replaceChildren(...[...lanesOf(features).values()].flat().map((place) => {
      const line = element("span", ""), swatch = svg("svg", { viewBox: "0 0 20 10", "aria-hidden": "true" });
      swatch.append(svg("line", { class: `s${place % 6}`, x1: 0, x2: 20, y1: 5, y2: 5, "stroke-width": 3 }));
      line.append(swatch, features[place] ?? "");
      return line;
    }));
    byId(`${prefix}-bars`).replaceChildren(...names.flatMap((name) => {
      if (!isClasses) return [element("span", name), Object.assign(element("b", "–"), { className: "value" })];
      const track = element("span", "");
      track.append(element("i", ""));
      return [element("span", name), track, element("b", "0 %")];
    }));
    say(`${prefix}-result`, "");
  }

  /** The class of the last frame; empty before the first. */
  get label() {
    return this.#values && this.output.isClasses ? (this.output.names[best(this.#values)] ?? "") : "";
  }

  /** @param {ArrayLike<number>} sample @param {Result} result */
  push(sample, result) {
    const { output: { name, width, frames }, model: { unit, delay } } = this, rows = ArrayBuffer.isView(result) ? result : result?.[name];
    this.plot.push(sample);
    for (let at = 0, count = (rows?.length ?? 0) / width; at < count; at += 1) {
      this.#values = rows?.slice(at * width, (at + 1) * width) ?? [];
      this.plot.tell(this.#values, Math.floor(delay + ((count - 1 - at) * unit) / frames), Math.max(1, Math.floor(unit / frames)));
    }
    if (!stillness.matches || performance.now() - this.#shown > 1000) this.show();
  }

  show() {
    this.#shown = performance.now();
    this.plot.ask();
    if (!this.#values) return;
    const { probabilities } = this.model.interpret(this.#values), bars = byId(`${this.prefix}-bars`), { isClasses } = this.output;
    bars.querySelectorAll("b").forEach((cell, place) => {
      cell.textContent = isClasses ? `${Math.round((probabilities[place] ?? 0) * 100)} %` : Number(this.#values?.[place]).toPrecision(4);
    });
    bars.querySelectorAll("i").forEach((bar, place) => { bar.style.width = `${(probabilities[place] ?? 0) * 100}%`; });
  }

  /** Say how it ended, also to those who do not see the picture. @param {string} words */
  conclude(words) {
    say(`${this.prefix}-result`, words);
    byId(`${this.prefix}-plot`).setAttribute("aria-label", `The signal and the predictions. ${words}`);
  }
}

/** Times steps on a stream that is reset as in training, and says whether they keep up. */
class Runner {
  #spent = 0;
  #count = 0;
  lost = 0;

  /** @param {View} view @param {number} rate samples a second */
  constructor(view, rate) {
    this.view = view;
    this.rate = rate;
    this.stream = view.model.stream();
  }

  /** @param {Float32Array} sample */
  take(sample) {
    const { resetEvery } = this.view.model, started = performance.now();
    if (resetEvery && this.#count && this.#count % resetEvery === 0) this.stream.reset();
    const result = this.stream.step(sample);
    this.#spent += performance.now() - started;
    this.#count += 1;
    this.view.push(sample, result);
  }

  words(consequence = "") {
    const step = `${ms(this.#spent / Math.max(1, this.#count))} on average; a sample comes every ${ms(1000 / this.rate)}`;
    return this.lost ? `This device is too slow: a step takes ${step}, so ${consequence}.` : `A step takes ${step}.`;
  }
}

/** Run work that a button starts and stops. @param {string} id @param {string} idle its text @param {string} place of messages @param {(signal: AbortSignal) => Promise<void>} work */
function onButton(id, idle, place, work) {
  const button = byId(id), stops = session?.stops;
  button.textContent = idle;
  button.onclick = async () => {
    if (stops?.has(id)) return stops.get(id)?.abort();
    const stop = new AbortController();
    stops?.set(id, stop);
    button.textContent = "Stop";
    try {
      await work(stop.signal);
    } catch (error) {
      say(place, messageOf(error), true);
    } finally {
      stops?.delete(id);
      button.textContent = idle;
    }
  };
}

// the initial texts are those for a file without special features
const [REPLAY_WORDS = "", LIVE_WORDS = ""] = ["replay-words", "live-words"].map((id) => byId(id).textContent ?? "");

/** @param {Model} model */
function showReplay(model) {
  const [input] = model.inputs, names = [...model.features], fits = model.inputs.length === 1 && input?.type === 0;
  const recordings = SITE.recordings.filter(({ features }) => fits && features.length === input?.width && (!names.length || features.join() === names.join()))
    .map(({ label, x, features }) => ({ label, features, x: new Float32Array(Uint8Array.from(atob(x), (letter) => letter.charCodeAt(0)).buffer) }));
  const features = names.length ? names : (recordings[0]?.features ?? []), view = new View("replay", model, features), width = input?.width ?? 1;
  const recording = () => /** @type {typeof recordings[number]} */ (recordings[Number(chosen("recording"))]), choice = /** @type {HTMLSelectElement} */ (byId("recording"));
  byId("replay").inert = false;
  choice.replaceChildren(...recordings.map(({ label }, place) => Object.assign(element("option", label), { value: String(place) })));
  for (const id of ["replay-controls", "replay-figure"]) byId(id).hidden = !recordings.length;
  byId("speed").parentElement?.toggleAttribute("hidden", stillness.matches);
  const inputs = model.inputs.map((port) => `${port.name} (${port.width})`).join(" and ");
  say("replay-words", recordings.length ? REPLAY_WORDS : `This page replays recordings of sensors: one float32 input. It has none for this file, whose inputs are ${inputs}.`);
  choice.onchange = () => recordings.length && view.plot.preview(recording().x, width);
  choice.onchange(new Event("change"));
  onButton("play", "Play", "replay-result", async (signal) => {
    const { x, label } = recording(), count = x.length / width, rate = model.samplingRate ?? DEFAULT_RATE, speed = Number(chosen("speed"));
    const runner = new Runner(view, rate * speed), known = model.labels.includes(label);
    /** @type {string[]} */ const said = [];
    view.plot.clear(count);
    say("replay-result", "");
    for await (const _ of pace(stillness.matches ? Infinity : rate * speed, signal, (samples) => { runner.lost += samples; })) {
      runner.take(x.subarray(said.length * width, (said.length + 1) * width));
      if (said.push(view.label) === count) break;
    }
    view.show();
    const wrong = said.findLastIndex((each) => each !== label), last = said.at(-1);
    const decision = signal.aborted || !last ? "" : !known ? `Recognized at the end as ${last}. `
      : wrong === count - 1 ? `Classified as ${last}; the recording is ${label}. ` : `Recognized as ${label} after ${((wrong + 2) / rate).toFixed(1)} s. `;
    view.conclude(`${decision}${runner.words("it is replayed more slowly than asked")}`);
  });
}

/** @param {Model} model */
function showLive(model) {
  const features = [...model.features], wanted = readings(features), view = new View("live", model, features);
  byId("live").inert = false;
  byId("live").hidden = !features.length;
  byId("live-figure").hidden = true;
  byId("live-controls").hidden = !wanted;
  say("live-words", wanted ? LIVE_WORDS : `A motion sensor has acc_x, acc_y, acc_z, gyr_x, gyr_y, gyr_z; this file needs ${features.join(", ")}.`);
  onButton("start", "Start", "live-result", async (signal) => {
    say("live-result", "Waiting for the sensor…");
    const sampler = await firstReading(wanted ?? [], signal), rate = model.samplingRate ?? DEFAULT_RATE, runner = new Runner(view, rate);
    byId("live-figure").hidden = false;
    view.plot.clear(Math.round(LIVE_SECONDS * rate));
    let said = "";
    for await (const _ of pace(rate, signal, (samples) => { runner.lost += samples; })) {
      const sample = sampler.take();
      if (!sample) continue;
      runner.take(sample);
      if (view.label !== said) say("live-result", `${runner.lost ? `${runner.lost} samples left out. ` : ""}Now: ${view.label}`, runner.lost > 0);
      said = view.label;
    }
    view.conclude(`Stopped. ${runner.words("samples are left out")}`);
  });
}

/** Ask for permission, and wait for the sensor. @param {NonNullable<ReturnType<typeof readings>>} wanted @param {AbortSignal} signal */
async function firstReading(wanted, signal) {
  const ask = /** @type {{requestPermission?: () => Promise<string>} | undefined} */ (/** @type {unknown} */ (globalThis.DeviceMotionEvent));
  if (ask?.requestPermission && (await ask.requestPermission()) !== "granted") {
    throw new Error("The browser blocks access to the motion sensor; allow it in the page's settings.");
  }
  const sampler = new Sampler(wanted, { acceleration: chosen("acceleration"), rotation: chosen("rotation") });
  await new Promise((resolve, reject) => {
    const timeout = setTimeout(() => reject(new Error("No motion sensor found. Phones have one; browsers require HTTPS to read it.")), SENSOR_TIMEOUT);
    signal.addEventListener("abort", resolve);
    addEventListener("devicemotion", (event) => {
      if (!sampler.add(event)) return;
      clearTimeout(timeout);
      resolve(undefined);
    }, { signal });
  });
  return sampler;
}

/** Open a file that the person gave. @param {File | null | undefined} file */
const take = (file) => { if (file) void open(file.name, file); };

const pick = /** @type {HTMLInputElement} */ (byId("pick"));
pick.addEventListener("change", () => take(pick.files?.[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", kind === "dragover");
    if (kind === "drop") take(/** @type {DragEvent} */ (event).dataTransfer?.files[0]);
  });
}

const linked = new URLSearchParams(location.search).get("model");
if (linked === null) void open(SITE.name, SITE.model);
else if (URL.canParse(linked, location.href) && new URL(linked, location.href).origin === location.origin) void open(linked, linked);
else say("verdict", "This page only opens files from its own host; put the file in the folder of the page, or drop it here.", true);

if ("serviceWorker" in navigator) {
  const kept = navigator.serviceWorker.register("sw.js").then(() => navigator.serviceWorker.ready);
  kept.then(() => say("offline", "This page is stored on this device and works offline."), () => say("offline", "Online only: the browser refused to store this page."));
}
