/** The manifest of a program: its fields, whose values are checked once, when it is read. */

import { LstmEdgeError, messageOf, shown } from "./errors.js";

/**
 * An input or output of the ONNX file.
 *
 * @typedef {object} TensorSpec
 * @property {string} name
 * @property {string} dtype
 * @property {(number | string)[]} axes sizes, and names of dynamic axes
 */

/**
 * What the main output means.
 *
 * @typedef {object} Task
 * @property {string} kind `classification` or `regression`
 * @property {string} output the name of the main output
 * @property {string[]} labels class names; empty if unknown
 * @property {string[]} units units of values; empty if unknown
 */

/**
 * The input signal.
 *
 * @typedef {object} Signal
 * @property {string[]} features names of the columns; empty if unknown
 * @property {number | null} sampling_rate in hertz
 * @property {number | null} window steps of a training window
 * @property {number | null} full_scale the largest sample of sound
 */

/**
 * What the file says about itself; `docs/manifest.md` describes all fields.
 *
 * @typedef {object} Manifest
 * @property {TensorSpec[]} inputs
 * @property {TensorSpec[]} outputs
 * @property {{batch: string | null, sequence: string | null}} axes names of the axes
 * @property {string | null} lengths the name of the input of lengths, which a stream does not have
 * @property {string} unstreamable why the file can't be streamed; empty if it can
 * @property {Task | null} task
 * @property {Signal} signal
 * @property {number | null} reset_every steps after which a stream is reset, as in training
 * @property {string} precision
 * @property {string} identity sha256 of the `.onnx` file that the program was made from
 * @property {number} unit steps per result
 * @property {Record<string, number>} delays frames by which an output lags; 0 for others
 * @property {Record<string, unknown>} provenance
 * @property {any} [golden] the golden case; see `recordings.js` of the page
 */

const SCHEMA = 1;
const MAX_NUMBER = 2 ** 31 - 1;
const DEFAULTS = {
  axes: {},
  lengths: null,
  unstreamable: "",
  task: null,
  signal: {},
  reset_every: null,
  precision: "fp32",
  identity: "",
  unit: 1,
  delays: {},
  provenance: {},
};
const DEFAULT_AXES = { batch: "N", sequence: "L" };
const DEFAULT_SIGNAL = { features: [], sampling_rate: null, window: null, full_scale: null };
const DEFAULT_TASK = { labels: [], units: [] };

/** Return the manifest in a JSON text. @param {string} text @returns {Manifest} */
export function readManifest(text) {
  const raw = parsed(text);
  isRecord(raw, "it");
  if (raw.schema !== SCHEMA) throw malformed("schema", raw.schema, String(SCHEMA));
  const manifest = { ...DEFAULTS, ...raw };
  for (const [field, check] of Object.entries(FIELDS)) check(manifest[field], field);
  manifest.axes = { ...DEFAULT_AXES, ...manifest.axes };
  manifest.signal = { ...DEFAULT_SIGNAL, ...manifest.signal };
  manifest.task &&= { ...DEFAULT_TASK, ...manifest.task };
  for (const [field, check] of Object.entries(AXES)) check(manifest.axes[field], `axes.${field}`);
  for (const [field, check] of Object.entries(SIGNAL)) check(manifest.signal[field], `signal.${field}`);
  if (manifest.task) {
    for (const [field, check] of Object.entries(TASK)) check(manifest.task[field], `task.${field}`);
  }
  checkNames(manifest);
  return manifest;
}

/** @param {string} text @returns {any} */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new LstmEdgeError(
      "ManifestError",
      `the manifest is malformed (${messageOf(cause)}); export the model again`,
    );
  }
}

/** @param {string} field @param {unknown} value @param {string} expected */
function malformed(field, value, expected) {
  return new LstmEdgeError(
    "ManifestError",
    `the manifest is malformed: ${field} is ${shown(value)}, expected ${expected}; export the model again`,
  );
}

/** Check names across fields. @param {Manifest} manifest */
function checkNames({ inputs, outputs, task }) {
  for (const [side, specs] of Object.entries({ inputs, outputs })) {
    const names = specs.map(({ name }) => name);
    const repeated = names.find((name, index) => names.indexOf(name) !== index);
    if (repeated !== undefined) throw malformed(side, repeated, "every name once");
  }
  const names = outputs.map(({ name }) => name);
  if (task && !names.includes(task.output)) {
    throw malformed("task.output", task.output, `one of ${names.join(", ")}`);
  }
}

// --- Checks of one value

/** @typedef {(value: any, field: string) => void} Check */

/** @type {Check} */
function isRecord(value, field) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw malformed(field, value, "an object");
  }
}

/** @type {Check} */
function isText(value, field) {
  if (typeof value !== "string") throw malformed(field, value, "text");
}

/** @type {Check} */
function isName(value, field) {
  if (typeof value !== "string" || value === "") throw malformed(field, value, "a name");
}

/** @type {Check} */
function isSize(value, field) {
  if (!Number.isInteger(value) || value < 1 || value > MAX_NUMBER) {
    throw malformed(field, value, "a whole number from 1");
  }
}

/** @type {Check} */
function isAxis(value, field) {
  if (typeof value === "number") isSize(value, field);
  else isName(value, field);
}

/** @type {Check} */
function isPositive(value, field) {
  if (!Number.isFinite(value) || value <= 0) throw malformed(field, value, "a positive number");
}

/** @param {Check} check @returns {Check} */
function orNull(check) {
  return (value, field) => {
    if (value !== null) check(value, field);
  };
}

/** @param {Check} check @returns {Check} */
function listOf(check) {
  return (value, field) => {
    if (!Array.isArray(value)) throw malformed(field, value, "a list");
    value.forEach((item, index) => check(item, `${field}[${index}]`));
  };
}

/** @type {Check} */
function isDelays(value, field) {
  isRecord(value, field);
  for (const [name, frames] of Object.entries(value)) {
    if (frames !== 0) isSize(frames, `${field}.${name}`);
  }
}

/** @type {Check} */
function isTensor(value, field) {
  isRecord(value, field);
  isName(value.name, `${field}.name`);
  isName(value.dtype, `${field}.dtype`);
  listOf(isAxis)(value.axes, `${field}.axes`);
}

/** @type {Record<string, Check>} */
const FIELDS = {
  inputs: listOf(isTensor),
  outputs: listOf(isTensor),
  axes: isRecord,
  lengths: orNull(isName),
  unstreamable: isText,
  task: orNull(isRecord),
  signal: isRecord,
  reset_every: orNull(isSize),
  precision: isText,
  identity: isText,
  unit: isSize,
  delays: isDelays,
  provenance: isRecord,
};

/** @type {Record<string, Check>} */
const AXES = { batch: orNull(isName), sequence: orNull(isName) };

/** @type {Record<string, Check>} */
const SIGNAL = {
  features: listOf(isText),
  sampling_rate: orNull(isPositive),
  window: orNull(isSize),
  full_scale: orNull(isPositive),
};

/** @type {Record<string, Check>} */
const TASK = { kind: isText, output: isName, labels: listOf(isText), units: listOf(isText) };
