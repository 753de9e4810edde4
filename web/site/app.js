/** The page: it opens a program, verifies it, replays a recording, and classifies live motion. */

import { load } from "./lstm-edge/index.js";
import { pace, readings, sampleOf } from "./motion.js";
import { best, lanesOf, Plot, svg } from "./plot.js";

/** @import { Model } from "./lstm-edge/index.js" */
/** @typedef {{label: string, features: string[], x: string}} Recording x is float32 `(L, I)` in base64 */

const { SITE } = /** @type {{SITE: {model: string, name: string, recordings: Recording[]}}} */ (
  /** @type {unknown} */ (globalThis)
);
const LIVE_SECONDS = 10,
  DEFAULT_RATE = 60,
  SENSOR_TIMEOUT = 3000;

const byId = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
const chosen = (/** @type {string} */ id) => /** @type {HTMLSelectElement} */ (byId(id)).value;
const say = (/** @type {string} */ id, /** @type {string} */ text, isBad = false) =>
  Object.assign(byId(id), { textContent: text, className: isBad ? "bad" : "" });
const messageOf = (/** @type {unknown} */ error) => (error instanceof Error ? error.message : String(error));
const element = (/** @type {string} */ name, /** @type {string} */ text) =>
  Object.assign(document.createElement(name), { textContent: text });
const ms = (/** @type {number} */ value) => `${value < 10 ? value.toPrecision(2) : value.toFixed(0)} ms`;

/** The name, width and value names of the output that is shown. @param {Model} model */
function mainOutput({ outputs, labels, units, manifest }) {
  const port = outputs.find(({ name }) => name === manifest.task?.output) ?? outputs[0],
    width = port?.width ?? 0;
  const names =
    labels.length === width
      ? [...labels]
      : Array.from(
          { length: width },
          (_, index) => `${port?.name} ${index}${units[index] ? ` ${units[index]}` : ""}`,
        );
  return {
    name: port?.name ?? "",
    width,
    names,
    frames: port?.frames || 1,
    isClasses: labels.length === width && width > 0,
  };
}

/** Ends what runs. @type {AbortController | undefined} */ let running;
let opened = 0;

/** Open a file and show everything about it. @param {string} name @param {string | File} source */
async function open(name, source) {
  const turn = (opened += 1);
  running?.abort();
  for (const id of ["replay", "live"]) byId(id).inert = true;
  byId("facts").replaceChildren();
  byId("title").textContent = name;
  say("verdict", "Reading…");
  try {
    const model = await load(source);
    if (turn !== opened) return;
    verify(model);
    showFacts(name, model);
    showReplay(model);
    showLive(model);
  } catch (error) {
    say("verdict", messageOf(error), true);
  }
}

/** @param {Model} model */
function verify(model) {
  try {
    const started = performance.now(),
      { ok, worst } = model.selftest(),
      share = `the largest difference is ${worst.toPrecision(2)} of its limit`;
    say(
      "verdict",
      ok
        ? `Verified on this device in ${ms(performance.now() - started)}: ${share}.`
        : `Verification failed on this device: ${share}.`,
      !ok,
    );
    byId("verdict").classList.toggle("good", ok);
  } catch (error) {
    say("verdict", `It can't be verified: ${messageOf(error)}.`);
  }
}

/** @param {string} name @param {Model} model */
function showFacts(name, model) {
  const { manifest, features, labels, units, samplingRate, unit, delay, resetEvery } = model;
  const lag = delay
    ? `, ${delay} samples${samplingRate === null ? "" : ` (${ms((1000 * delay) / samplingRate)})`} late`
    : "";
  /** @type {[string, string | false | null][]} */
  const facts = [
    ["File", `${name}, ${manifest.precision}`],
    ["sha256 of the ONNX file", model.identity],
    ["Labels", labels.join(", ")],
    ["Units", units.join(", ")],
    ["Features", features.join(", ")],
    ["Sampling rate", samplingRate !== null && `${samplingRate} Hz`],
    ["Stream", `${unit === 1 ? "a result per sample" : `results every ${unit} samples`}${lag}`],
    ["State reset", resetEvery !== null && `every ${resetEvery} samples, as in training`],
    ["States", model.states.map((state) => `${state.name} (${state.width})`).join(", ")],
  ];
  byId("facts").replaceChildren(
    ...facts.flatMap(([term, text]) => (text ? [element("dt", term), element("dd", text)] : [])),
  );
}

/** A stream that is reset as in training, with its plot and legend under one prefix of ids. */
class View {
  /** @type {ArrayLike<number> | undefined} */ #values;
  #spent = 0;
  #count = 0;

  /** @param {"replay" | "live"} prefix @param {Model} model @param {string[]} features */
  constructor(prefix, model, features) {
    this.prefix = prefix;
    this.model = model;
    this.stream = model.stream({ resetEvery: model.resetEvery ?? "never" });
    this.output = mainOutput(model);
    const { isClasses, names } = this.output,
      figure = /** @type {any} */ (byId(`${prefix}-plot`));
    this.plot = new Plot(figure, {
      names: features,
      labels: isClasses ? names : [],
      outputs: isClasses ? [] : names,
    });
    byId(`${prefix}-legend`).replaceChildren(
      ...[...lanesOf(features).values()].flat().map((index) => {
        const line = element("span", ""),
          swatch = svg("svg", { viewBox: "0 0 20 10", "aria-hidden": "true" });
        swatch.append(
          svg("line", { class: `s${index % 6}`, x1: 0, x2: 20, y1: 5, y2: 5, "stroke-width": 3 }),
        );
        line.append(swatch, features[index] ?? "");
        return line;
      }),
    );
    say(`${prefix}-result`, "");
  }

  /** The class of the last frame; empty before the first. */
  get label() {
    return this.#values && this.output.isClasses ? (this.output.names[best(this.#values)] ?? "") : "";
  }

  /** Start from the reset state, with a plot of so many samples. @param {number} columns */
  start(columns) {
    this.stream.reset();
    this.plot.clear(columns);
    this.#spent = this.#count = 0;
    this.#values = undefined;
  }

  /** Run a step, and show it. @param {Float32Array} sample */
  take(sample) {
    const {
        output: { name, width, frames },
        model: { unit, delay },
      } = this,
      started = performance.now();
    const result = this.stream.step(sample),
      rows = ArrayBuffer.isView(result) ? result : result?.[name];
    this.#spent += performance.now() - started;
    this.#count += 1;
    this.plot.push(sample);
    for (let at = 0, count = (rows?.length ?? 0) / width; at < count; at += 1) {
      this.#values = rows?.slice(at * width, (at + 1) * width) ?? [];
      this.plot.tell(
        this.#values,
        Math.floor(delay + ((count - 1 - at) * unit) / frames),
        Math.max(1, Math.floor(unit / frames)),
      );
    }
    this.plot.ask();
  }

  /** Say how it ended, also to those who do not see the picture. @param {string} decision @param {number} rate samples a second */
  conclude(decision, rate) {
    const words = `${decision}A step takes ${ms(this.#spent / Math.max(1, this.#count))} on average; a sample comes every ${ms(1000 / rate)}.`;
    say(`${this.prefix}-result`, words);
    byId(`${this.prefix}-plot`).setAttribute("aria-label", `The signal and the predictions. ${words}`);
  }
}

/** Run work that a button starts and stops. @param {string} id @param {string} idle its text @param {string} output the id of the element for messages @param {(signal: AbortSignal) => Promise<void>} work */
function onButton(id, idle, output, work) {
  const button = byId(id);
  button.textContent = idle;
  button.onclick = async () => {
    running?.abort();
    if (button.textContent !== idle) return;
    const stop = new AbortController();
    running = stop;
    button.textContent = "Stop";
    try {
      await work(stop.signal);
    } catch (error) {
      say(output, messageOf(error), true);
    } finally {
      stop.abort();
      button.textContent = idle;
    }
  };
}

// the initial texts are those for a file without special features
const [REPLAY_WORDS = "", LIVE_WORDS = ""] = ["replay-words", "live-words"].map(
  (id) => byId(id).textContent ?? "",
);

/** @param {Model} model */
function showReplay(model) {
  const [input] = model.inputs,
    names = [...model.features],
    fits = model.inputs.length === 1 && input?.dtype === "float32";
  const recordings = SITE.recordings
    .filter(
      ({ features }) =>
        fits && features.length === input?.width && (!names.length || features.join() === names.join()),
    )
    .map(({ label, x, features }) => ({
      label,
      features,
      x: new Float32Array(Uint8Array.from(atob(x), (letter) => letter.charCodeAt(0)).buffer),
    }));
  const view = new View("replay", model, names.length ? names : (recordings[0]?.features ?? [])),
    width = input?.width ?? 1;
  const recording = () => /** @type {typeof recordings[number]} */ (recordings[Number(chosen("recording"))]),
    choice = /** @type {HTMLSelectElement} */ (byId("recording"));
  byId("replay").inert = false;
  choice.replaceChildren(
    ...recordings.map(({ label }, index) =>
      Object.assign(element("option", label), { value: String(index) }),
    ),
  );
  for (const id of ["replay-controls", "replay-figure"]) byId(id).hidden = !recordings.length;
  const inputs = model.inputs.map((port) => `${port.name} (${port.width})`).join(" and ");
  say(
    "replay-words",
    recordings.length
      ? REPLAY_WORDS
      : `This page replays recordings of sensors: one float32 input. It has none for this file, whose inputs are ${inputs}.`,
  );
  onButton("play", "Play", "replay-result", async (signal) => {
    const { x, label } = recording(),
      count = x.length / width,
      rate = model.samplingRate ?? DEFAULT_RATE,
      speed = Number(chosen("speed"));
    /** @type {string[]} */ const shown = [];
    view.start(count);
    say("replay-result", "");
    for await (const _ of pace(rate * speed, signal)) {
      view.take(x.subarray(shown.length * width, (shown.length + 1) * width));
      if (shown.push(view.label) === count) break;
    }
    const wrong = shown.findLastIndex((answer) => answer !== label),
      last = shown.at(-1);
    view.conclude(
      signal.aborted || !last
        ? ""
        : !model.labels.includes(label)
          ? `Recognized at the end as ${last}. `
          : wrong === count - 1
            ? `Classified as ${last}; the recording is ${label}. `
            : `Recognized as ${label} after ${((wrong + 2) / rate).toFixed(1)} s. `,
      rate * speed,
    );
  });
}

/** @param {Model} model */
function showLive(model) {
  const features = [...model.features],
    wanted = readings(features),
    view = new View("live", model, features);
  byId("live").inert = false;
  byId("live").hidden = !features.length;
  byId("live-figure").hidden = true;
  byId("live-controls").hidden = !wanted;
  say(
    "live-words",
    wanted
      ? LIVE_WORDS
      : `A motion sensor has acc_x, acc_y, acc_z, gyr_x, gyr_y, gyr_z; this file needs ${features.join(", ")}.`,
  );
  onButton("start", "Start", "live-result", async (signal) => {
    say("live-result", "Waiting for the sensor…");
    const ask = /** @type {{requestPermission?: () => Promise<string>} | undefined} */ (
      /** @type {unknown} */ (globalThis.DeviceMotionEvent)
    );
    if (ask?.requestPermission && (await ask.requestPermission()) !== "granted") {
      throw new Error("The browser blocks access to the motion sensor; allow it in the page's settings.");
    }
    const rate = model.samplingRate ?? DEFAULT_RATE,
      units = { acceleration: chosen("acceleration"), rotation: chosen("rotation") },
      started = performance.now();
    let latest = /** @type {Float32Array | null} */ (null),
      shown = "";
    addEventListener(
      "devicemotion",
      (event) => {
        latest = sampleOf(event, wanted ?? [], units) ?? latest;
      },
      { signal },
    );
    view.start(Math.round(LIVE_SECONDS * rate));
    for await (const _ of pace(rate, signal)) {
      if (!latest && performance.now() - started > SENSOR_TIMEOUT)
        throw new Error("No motion sensor found. Phones have one; browsers require HTTPS to read it.");
      if (!latest) continue;
      byId("live-figure").hidden = false;
      view.take(latest);
      if (view.label !== shown) say("live-result", `Now: ${view.label}`);
      shown = view.label;
    }
    view.conclude("Stopped. ", rate);
  });
}

const pick = /** @type {HTMLInputElement} */ (byId("pick"));
pick.addEventListener("change", () => {
  const file = pick.files?.[0];
  if (file) void open(file.name, file);
});

const linked = new URLSearchParams(location.search).get("model");
if (linked === null) void open(SITE.name, SITE.model);
else if (URL.canParse(linked, location.href) && new URL(linked, location.href).origin === location.origin)
  void open(linked, linked);
else
  say(
    "verdict",
    "This page only opens files from its own host; put the file in the folder of the page, or open it below.",
    true,
  );

if ("serviceWorker" in navigator) {
  const kept = navigator.serviceWorker.register("sw.js").then(() => navigator.serviceWorker.ready);
  kept.then(
    () => say("offline", "This page is stored on this device and works offline."),
    () => say("offline", "Online only: the browser refused to store this page."),
  );
}
