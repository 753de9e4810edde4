/** Results: the frames of the main output, their labels and probabilities. */

import { LstmEdgeError, shown } from "./errors.js";

/** @import { Manifest, TensorSpec } from "./manifest.js" */
/** @import { Port } from "./ports.js" */
/** @typedef {Float32Array | Record<string, Float32Array> | null} Result one array, or one by the name of each output that has a frame; null if no frame is complete */

/**
 * The most likely class of one result.
 *
 * @typedef {object} Label
 * @property {string} label its index as text if the file has no class names
 * @property {number[]} probabilities of all classes, in the order of the labels
 */

/**
 * Return results as callers see them: the array of a single output, or arrays by name.
 *
 * @param {readonly Port[]} outputs
 * @param {readonly (Float32Array | null)[]} results
 * @returns {Result}
 */
export function only(outputs, results) {
  if (outputs.length === 1) return results[0] ?? null;
  if (!results.some(Boolean)) return null;
  /** @type {[string, Float32Array][]} */
  const entries = [];
  outputs.forEach(({ name }, index) => {
    const result = results[index];
    if (result) entries.push([name, result]);
  });
  return Object.fromEntries(entries);
}

/** Return the main output: the task's, or the first one. @param {Manifest} manifest */
export function mainOutput({ task, outputs }) {
  const main = outputs.find(({ name }) => name === task?.output) ?? outputs[0];
  if (main) return main;
  throw new LstmEdgeError("ContractError", "this file has no outputs other than its states");
}

/**
 * Return the frames of an output in a result. Of an output with one row per layer, a frame is the row of
 * the top layer.
 *
 * @param {Manifest} manifest
 * @param {readonly Port[]} outputs
 * @param {unknown} result
 * @param {TensorSpec} output
 * @returns {ArrayLike<number>[]}
 */
export function framesOf(manifest, outputs, result, output = mainOutput(manifest)) {
  const values = valuesOf(result, output.name);
  if (values === null) return [];
  const channels = channelsOf(output, manifest);
  const width = outputs.find(({ name }) => name === output.name)?.width ?? channels;
  if (!values.length || values.length % channels) {
    throw new LstmEdgeError(
      "InputError",
      `${output.name}: got ${values.length} values, expected a multiple of ${channels}`,
    );
  }
  const stride = values.length % width ? channels : width;
  const frames = [];
  for (let end = stride; end <= values.length; end += stride) {
    frames.push(Array.prototype.slice.call(values, end - channels, end));
  }
  return frames;
}

/** @param {unknown} result @param {string} name @returns {ArrayLike<number> | null} */
function valuesOf(result, name) {
  if (result === null) return null;
  const isArray = Array.isArray(result) || ArrayBuffer.isView(result);
  if (isArray) return /** @type {any} */ (result);
  if (typeof result === "object" && result !== null) {
    return Object.hasOwn(result, name) ? valuesOf(/** @type {any} */ (result)[name], name) : null;
  }
  throw new LstmEdgeError("InputError", `got ${shown(result)}, expected a result of step or process`);
}

/** Return the number of values in a frame. @param {TensorSpec} output @param {Manifest} manifest */
function channelsOf({ name, axes }, { axes: { batch } }) {
  const sizes = axes.filter((axis) => typeof axis === "number");
  const isOneAxis = sizes.slice(0, -1).every((size) => size === 1);
  if (!isOneAxis) {
    throw new LstmEdgeError(
      "ContractError",
      `${name} (${axes.join(", ")}) has frames with several axes, expected one`,
    );
  }
  const channels = sizes.at(-1);
  if (channels === undefined) {
    throw new LstmEdgeError(
      "ContractError",
      `${name} (${axes.join(", ")}) has no axis of values besides ${batch ?? "time"}`,
    );
  }
  return channels;
}

/** Return the index of the largest value, the first NaN if there is one. @param {ArrayLike<number>} values */
export function argmax(values) {
  let largest = 0;
  for (let index = 0; index < values.length; index += 1) {
    const value = values[index] ?? NaN;
    if (Number.isNaN(value)) return index;
    if (value > (values[largest] ?? NaN)) largest = index;
  }
  return largest;
}

/** Return true if logits have probabilities: the largest is a finite number. @param {ArrayLike<number>} logits */
export function haveLabel(logits) {
  return Number.isFinite(logits[argmax(logits)]);
}

/** Return the probabilities of logits. @param {ArrayLike<number>} logits */
export function softmax(logits) {
  const most = logits[argmax(logits)] ?? NaN;
  const shares = Array.from(logits, (logit) => Math.exp(logit - most));
  const sum = shares.reduce((total, share) => total + share, 0);
  return shares.map((share) => share / sum);
}

/**
 * Return the label of a frame's logits.
 *
 * @param {Manifest} manifest
 * @param {ArrayLike<number>} logits
 * @returns {Label}
 */
export function labelOf({ task }, logits) {
  if (task?.kind !== "classification") {
    const kind = task ? `the task ${shown(task.kind)}` : "no task";
    throw new LstmEdgeError(
      "InputError",
      `this file has ${kind}, expected a classification; use the values as they are, or export it with labels`,
    );
  }
  const names = task.labels.length ? task.labels : Array.from(logits, (_, index) => String(index));
  if (names.length !== logits.length) {
    throw new LstmEdgeError(
      "ContractError",
      `${task.output} has ${logits.length} values, expected one for each of ${names.join(", ")}`,
    );
  }
  if (!haveLabel(logits)) {
    throw new LstmEdgeError(
      "InputError",
      `${task.output} is ${Array.from(logits).join(", ").slice(0, 60)}, which is not a result: its largest value is not finite; check the samples, and reset the stream`,
    );
  }
  return { label: names[argmax(logits)] ?? "", probabilities: softmax(logits) };
}
