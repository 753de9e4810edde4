/** The page: it opens a program, verifies it, and runs it on recordings, files, sensors and numbers. */

import { load } from "./lstm-edge/index.js";
import { pace, readings, sampleOf } from "./motion.js";
import { byId, chosen, element, messageOf, milliseconds, onButton, say, stopRunning } from "./page.js";
import { columnsOf, goldenRecording, readRecording } from "./recordings.js";
import { View } from "./view.js";

/** @import { Model } from "./lstm-edge/index.js" */
/** @import { Recording } from "./recordings.js" */
/** @typedef {{label: string, features: string[], x: string}} SiteRecording x is float32 `(L, I)` in base64 */

const { SITE } = /** @type {{SITE: {model: string, name: string, recordings: SiteRecording[]}}} */ (
  /** @type {unknown} */ (globalThis)
);
const LIVE_SECONDS = 10;
const DEFAULT_RATE = 60;
const SENSOR_TIMEOUT = 3000;
const MAX_FIELDS = 16;
/** The lowest sampling rate at which browsers record. */
const MIN_SOUND_RATE = 3000;

/** Number of files opened: an older one that is read later is not shown. */
let opened = 0;
/** @type {Model | undefined} */
let current;
/** @type {View[]} */
let views = [];

/** Open a file and show everything about it. @param {string} name @param {string | File} source */
async function open(name, source) {
  opened += 1;
  const turn = opened;
  stopRunning();
  for (const id of ["replay", "live", "hand", "microphone", "state"]) byId(id).hidden = true;
  byId("facts").replaceChildren();
  byId("title").textContent = name;
  say("verdict", "Reading…");
  try {
    const model = await load(source);
    if (turn !== opened) return;
    for (const view of views) view.close();
    current?.close();
    current = model;
    verify(model);
    showFacts(name, model);
    showState(model);
    views = [showReplay(model), showHand(model), showMicrophone(model), showLive(model)];
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
        ? `Verified on this device in ${milliseconds(performance.now() - started)}: ${share}.`
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
    ? `, ${delay} samples${samplingRate === null ? "" : ` (${milliseconds((1000 * delay) / samplingRate)})`} late`
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

/** @param {Model} model */
function showState({ resetEvery, manifest }) {
  byId("state").hidden = false;
  /** @type {HTMLSelectElement} */ (byId("mode")).value = resetEvery === null ? "never" : "every";
  const interval = resetEvery ?? manifest.signal.window ?? 50;
  /** @type {HTMLInputElement} */ (byId("interval")).value = String(interval);
  showInterval();
}

function showInterval() {
  byId("interval-label").hidden = chosen("mode") === "never";
}

/** Return the recordings of the site that fit a model. @param {Model} model @returns {Recording[]} */
function siteRecordings(model) {
  const columns = columnsOf(model);
  const { features } = model;
  const fitting = SITE.recordings.filter(
    (recording) =>
      model.inputs.length === 1 &&
      recording.features.length === columns.length &&
      (!features.length || recording.features.join() === features.join()),
  );
  return fitting.map(({ label, x }) => {
    const bytes = Uint8Array.from(atob(x), (letter) => letter.charCodeAt(0));
    const numbers = Array.from(new Float32Array(bytes.buffer));
    const count = numbers.length / columns.length;
    const rowAt = (/** @type {number} */ step) =>
      numbers.slice(step * columns.length, (step + 1) * columns.length);
    return { label, rows: Array.from({ length: count }, (_, step) => rowAt(step)) };
  });
}

/** @param {Model} model */
function showReplay(model) {
  const view = new View("replay", model);
  const columns = columnsOf(model);
  const golden = goldenRecording(model);
  const recordings = [...siteRecordings(model), ...(golden ? [golden] : [])];
  const choice = /** @type {HTMLSelectElement} */ (byId("recording"));
  const recording = () => recordings[Number(choice.value)];
  const preview = () => view.preview(recording()?.rows ?? []);
  const showChoice = (/** @type {number} */ index) => {
    const options = recordings.map(({ label }, place) =>
      Object.assign(element("option", label), { value: String(place) }),
    );
    choice.replaceChildren(...options);
    choice.value = String(index);
    for (const id of ["replay-controls", "replay-figure"]) byId(id).hidden = !recordings.length;
    const shown = "Above: the signal. Below: what the network gives after each sample.";
    say(
      "replay-words",
      recordings.length
        ? shown
        : "This page has no recording for this file. Add one, or enter numbers below.",
    );
    if (recordings.length) preview();
  };
  byId("replay").hidden = false;
  const shownColumns =
    columns.length > MAX_FIELDS ? `${columns.slice(0, MAX_FIELDS).join(", ")}, …` : columns.join(", ");
  say("table-words", `Columns: ${shownColumns}. It stays on this device.`);
  byId("table-words").className = "quiet";
  showChoice(0);
  choice.onchange = () => {
    stopRunning();
    preview();
  };
  const table = /** @type {HTMLInputElement} */ (byId("table"));
  const add = async (/** @type {File} */ file) => {
    stopRunning();
    try {
      recordings.push(await readRecording(file, model));
      say("replay-result", "");
      showChoice(recordings.length - 1);
    } catch (error) {
      say("replay-result", `${file.name}: ${messageOf(error)}`, true);
    }
  };
  table.onchange = () => {
    const [file] = table.files ?? [];
    table.value = "";
    if (file) void add(file);
  };
  byId("replay").ondragover = (event) => event.preventDefault();
  byId("replay").ondrop = (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer?.files ?? [];
    if (file) void add(file);
  };
  onButton("play", "Play", "replay-result", async (signal) => {
    const { rows, label } = /** @type {Recording} */ (recording());
    const rate = model.samplingRate ?? DEFAULT_RATE;
    const speed = Number(chosen("speed"));
    /** @type {string[]} */
    const shown = [];
    view.start(rows.length);
    say("replay-result", "");
    for await (const _ of pace(rate * speed, signal)) {
      view.take(/** @type {number[]} */ (rows[shown.length]));
      shown.push(view.label);
      if (shown.length === rows.length) break;
    }
    view.conclude(signal.aborted ? "" : decisionOn(view, shown, label, rate), rate * speed);
  });
  return view;
}

/**
 * Return in words when the decision came to stay.
 *
 * @param {View} view
 * @param {string[]} shown the label after each sample
 * @param {string} label of the recording, a class or a title
 * @param {number} rate
 */
function decisionOn(view, shown, label, rate) {
  const last = shown.at(-1);
  if (!view.isClasses) return view.words ? `The last output is ${view.words}. ` : "";
  if (!last) return "";
  if (!view.model.labels.includes(label)) return `Recognized at the end as ${last}. `;
  if (last !== label) return `Classified as ${last}; the recording is ${label}. `;
  const wrong = shown.findLastIndex((answer) => answer !== label);
  return `Recognized as ${label} after ${((wrong + 2) / rate).toFixed(1)} s. `;
}

/** @param {Model} model */
function showHand(model) {
  const view = new View("hand", model);
  const columns = columnsOf(model);
  const fields = columns.slice(0, MAX_FIELDS).map((name) => {
    const label = element("label", name);
    const field = Object.assign(document.createElement("input"), { type: "number", step: "any", value: "0" });
    label.append(field);
    return { label, field };
  });
  byId("hand").hidden = columns.length > MAX_FIELDS;
  byId("hand-figure").hidden = true;
  byId("fields").replaceChildren(...fields.map(({ label }) => label));
  byId("step").onclick = () => {
    try {
      const empty = fields.findIndex(({ field }) => Number.isNaN(field.valueAsNumber));
      if (empty >= 0) throw new Error(`${columns[empty]} is empty; enter a number.`);
      if (!view.isOpen) view.start(Math.max(20, model.unit * 10));
      view.take(fields.map(({ field }) => field.valueAsNumber));
      byId("hand-figure").hidden = false;
      view.plot.draw();
      say(
        "hand-result",
        view.words ? `Output: ${view.words}` : "No output yet: the network collects samples.",
      );
    } catch (error) {
      say("hand-result", messageOf(error), true);
    }
  };
  byId("restart").onclick = () => {
    view.close();
    byId("hand-figure").hidden = true;
    say("hand-result", "The state is reset.");
  };
  return view;
}

/** @param {Model} model */
function showMicrophone(model) {
  const view = new View("microphone", model);
  const [input] = model.inputs;
  const { samplingRate } = model;
  const isAudible = samplingRate === null || samplingRate >= MIN_SOUND_RATE;
  const isSound = model.inputs.length === 1 && input?.width === 1 && input.dtype === "float32" && isAudible;
  const scale = model.manifest.signal.full_scale ?? 1;
  byId("microphone").hidden = !isSound;
  byId("microphone-figure").hidden = true;
  const pitch =
    samplingRate === null
      ? "The file has no sampling rate; the device's is used."
      : `${samplingRate} samples per second.`;
  say("microphone-words", `Samples from -${scale} to ${scale}. ${pitch} The sound stays in this page.`);
  onButton("listen", "Listen", "microphone-result", async (signal) => {
    say("microphone-result", "Waiting for the microphone…");
    const sound = await openMicrophone(samplingRate);
    try {
      const rate = sound.context.sampleRate;
      view.start(Math.round(LIVE_SECONDS * rate));
      byId("microphone-figure").hidden = false;
      await listen(sound, signal, (samples) => {
        for (const sample of samples) view.take([scale * sample]);
        showNow("microphone-result", view);
      });
      view.conclude("Stopped. ", rate);
    } finally {
      for (const track of sound.stream.getTracks()) track.stop();
      await sound.context.close();
    }
  });
  return view;
}

/** Open the microphone at a sampling rate. @param {number | null} rate */
async function openMicrophone(rate) {
  const media = /** @type {MediaDevices | undefined} */ (navigator.mediaDevices);
  if (!media) throw new Error("Browsers require HTTPS to use the microphone.");
  const stream = await media.getUserMedia({
    audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
  });
  const context = new AudioContext(rate === null ? {} : { sampleRate: rate });
  await context.audioWorklet.addModule("microphone.js");
  return { stream, context };
}

/**
 * Pass blocks of samples to `take` until stopped.
 *
 * @param {{stream: MediaStream, context: AudioContext}} sound
 * @param {AbortSignal} signal
 * @param {(samples: Float32Array) => void} take
 */
async function listen({ stream, context }, signal, take) {
  const node = new AudioWorkletNode(context, "microphone", {
    numberOfOutputs: 0,
    channelCount: 1,
    channelCountMode: "explicit",
  });
  context.createMediaStreamSource(stream).connect(node);
  await new Promise((resolve, reject) => {
    signal.addEventListener("abort", resolve);
    node.port.onmessage = ({ data }) => {
      try {
        if (!signal.aborted) take(data);
      } catch (error) {
        reject(error);
      }
    };
  });
}

/** Show the label when it changes; values each time. @param {string} id @param {View} view */
function showNow(id, view) {
  const [label] = view.isClasses ? [view.label] : [view.words];
  const text = label ? `Now: ${label}` : "Collecting samples…";
  if (byId(id).textContent !== text) say(id, text);
}

/** @param {Model} model */
function showLive(model) {
  const wanted = readings(model.features);
  const view = new View("live", model);
  byId("live").hidden = !wanted;
  byId("live-figure").hidden = true;
  onButton("start", "Start", "live-result", async (signal) => {
    say("live-result", "Waiting for the sensor…");
    const ask = /** @type {{requestPermission?: () => Promise<string>} | undefined} */ (
      /** @type {unknown} */ (globalThis.DeviceMotionEvent)
    );
    if (ask?.requestPermission && (await ask.requestPermission()) !== "granted") {
      throw new Error("The browser blocks access to the motion sensor; allow it in the page's settings.");
    }
    const rate = model.samplingRate ?? DEFAULT_RATE;
    const units = { acceleration: chosen("acceleration"), rotation: chosen("rotation") };
    const started = performance.now();
    let latest = /** @type {Float32Array | null} */ (null);
    const read = (/** @type {DeviceMotionEvent} */ event) => {
      latest = sampleOf(event, wanted ?? [], units) ?? latest;
    };
    addEventListener("devicemotion", read, { signal });
    view.start(Math.round(LIVE_SECONDS * rate));
    for await (const _ of pace(rate, signal)) {
      if (!latest && performance.now() - started > SENSOR_TIMEOUT) {
        throw new Error("No motion sensor found. Phones have one; browsers require HTTPS to read it.");
      }
      if (!latest) continue;
      byId("live-figure").hidden = false;
      view.take(Array.from(latest));
      showNow("live-result", view);
    }
    view.conclude("Stopped. ", rate);
  });
  return view;
}

byId("mode").onchange = showInterval;

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
