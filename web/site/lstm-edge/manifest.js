/** The description in a file, checked once. */

import { LstmEdgeError } from "./errors.js";

/**
 * @typedef {object} Task
 * @property {string} kind `classification` or `regression`
 * @property {string} output
 * @property {string[]} labels
 * @property {string[]} units
 */
/**
 * @typedef {object} Signal
 * @property {string[]} features
 * @property {number | null} sampling_rate Hertz
 * @property {number | null} window
 */
/**
 * @typedef {object} Manifest
 * @property {Task | null} task
 * @property {Signal} signal
 * @property {number | null} [reset_every] steps after which a stream is reset; null for never
 * @property {string} precision
 * @property {string} [identity]
 * @property {Record<string, unknown>} provenance
 */

const SCHEMA = 1;

/** @param {unknown} value @returns {value is Record<string, any>} */
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
/** @param {unknown} value */
const areTexts = (value) => Array.isArray(value) && value.every((text) => typeof text === "string");
/** @param {unknown} value */
const isCount = (value) =>
  value === null || value === undefined || (Number.isSafeInteger(value) && Number(value) >= 1);
/** @param {unknown} value */
const isRate = (value) =>
  value === null || (typeof value === "number" && value > 0 && Number.isFinite(value));

/**
 * Return the manifest of a program; a `FileFormatError` with the field that is wrong.
 *
 * @param {string} text
 * @param {readonly string[]} outputs the names of the program's outputs
 * @returns {Manifest}
 */
export function checkManifest(text, outputs) {
  if (!text) throw refused("there is none");
  /** @type {unknown} */
  let raw;
  try {
    raw = JSON.parse(text);
  } catch {
    throw refused("it is not JSON");
  }
  if (!isObject(raw)) throw refused("it is not an object");
  if (raw.schema !== SCHEMA) throw refused(`schema is ${JSON.stringify(raw.schema)}, expected ${SCHEMA}`);
  const { task, signal } = raw;
  if (task !== null) {
    if (!isObject(task) || typeof task.kind !== "string") throw refused("task has no kind");
    if (!outputs.includes(task.output)) throw refused(`task.output is ${JSON.stringify(task.output)}`);
    if (!areTexts(task.labels)) throw refused("task.labels are not texts");
    if (!areTexts(task.units)) throw refused("task.units are not texts");
  }
  if (!isObject(signal) || !areTexts(signal.features)) throw refused("signal.features are not texts");
  if (!isRate(signal.sampling_rate))
    throw refused(`signal.sampling_rate is ${JSON.stringify(signal.sampling_rate)}`);
  if (!isCount(signal.window)) throw refused(`signal.window is ${JSON.stringify(signal.window)}`);
  if (!isCount(raw.reset_every)) throw refused(`reset_every is ${JSON.stringify(raw.reset_every)}`);
  if (typeof (raw.identity ?? "") !== "string") throw refused("identity is not a text");
  if (typeof raw.precision !== "string") throw refused("precision is not a text");
  return /** @type {Manifest} */ (/** @type {unknown} */ (raw));
}

/** @param {string} reason */
function refused(reason) {
  return new LstmEdgeError(
    "FileFormatError",
    `the manifest is malformed (${reason}); convert the file again`,
  );
}
