/** Replaying the golden case, within the limits of the one tolerance policy (docs/artifact.md). */

import { cut, joined, mapValues, toArray, toNamed } from "./arrays.js";
import { LstmEdgeError } from "./errors.js";
import { isSame, tensorNames } from "./manifest.js";
import { inTurn } from "./turns.js";

/** @import { NamedArray } from "./arrays.js" */
/** @import { Arrays, Golden, Manifest } from "./manifest.js" */
/** @import { Feeds, Model } from "./model.js" */
/**
 * @typedef {object} Comparison
 * @property {"whole" | "chunked"} how in one call, or in two with carried states
 * @property {string} name of the output
 * @property {number} maxAbs largest absolute difference
 * @property {number} limit what it may be
 * @property {number} ratio maxAbs by limit: 1 is at the limit
 * @property {boolean} ok
 */
/** @typedef {{ok: boolean, worst: Comparison, comparisons: Comparison[]}} SelfTest */

const MULTIPLE = 8, ULPS = 8;
/** @type {Record<string, {eps: number, tiny: number}>} */
const FLOATS = {
  float16: { eps: 2 ** -10, tiny: 2 ** -14 },
  float32: { eps: 2 ** -23, tiny: 2 ** -126 },
  float64: { eps: 2 ** -52, tiny: 2 ** -1022 },
};

/**
 * Run the golden case in one call, and in two with carried states where the file can be streamed.
 *
 * @param {Model} model
 * @param {Golden} golden
 * @returns {Promise<SelfTest>}
 * @internal
 */
export async function replayGolden(model, golden) {
  const { inputs, outputs } = tensorNames(model.manifest);
  if (!isSame(inputs, Object.keys(golden.inputs)) || !isSame(outputs, Object.keys(golden.outputs))) {
    throw new LstmEdgeError("ManifestError", "the golden case leaves out an input or output; export the model again");
  }
  const whole = await inTurn(() => model._call(mapValues(golden.inputs, (array) => model._tensor(array))));
  const comparisons = compareGolden("whole", golden, { ...mapValues(whole.outputs, toNamed), ...leaving(model.manifest, whole.states) });
  const steps = cutOf(model, golden);
  if (steps) comparisons.push(...compareGolden("chunked", golden, await inChunks(model, golden, steps)));
  const worst = comparisons.reduce((left, right) => (right.ratio > left.ratio ? right : left));
  return { ok: comparisons.every(({ ok }) => ok), worst, comparisons };
}

/**
 * @param {"whole" | "chunked"} how
 * @param {Golden} golden
 * @param {Arrays} found
 * @returns {Comparison[]}
 */
const compareGolden = (how, golden, found) =>
  Object.entries(golden.outputs).map(([name, expected]) => {
    const left = Array.from(found[name]?.data ?? [], Number), right = Array.from(expected.data, Number);
    const float = FLOATS[expected.dtype], scale = largest(right.filter(Number.isFinite).map(Math.abs));
    const policy = float ? MULTIPLE * (golden.floor[name] ?? 0) + ULPS * Math.max(float.eps * scale, float.tiny) : 0;
    const limit = float ? golden.limit[name] ?? policy : 0;
    const maxAbs = left.length === right.length ? largest(right.map((value, index) => distance(left[index], value))) : Infinity;
    return { how, name, maxAbs, limit, ratio: maxAbs === 0 ? 0 : maxAbs / limit, ok: maxAbs <= limit };
  });

/** Return the step to cut the case at; 0 where it can't be cut. @param {Model} model @param {Golden} golden */
function cutOf(model, golden) {
  const { axes: { sequence }, lengths } = model.manifest;
  if (model.unstreamable || sequence === null) return 0;
  const steps = model._data.filter(({ axes }) => axes.includes(sequence)).map(({ name, axes }) => golden.inputs[name]?.dims[axes.indexOf(sequence)] ?? 0);
  if (lengths !== null) steps.push(...Array.from(golden.inputs[lengths]?.data ?? [], Number));
  return steps.length ? Math.floor(Math.min(...steps) / 2) : 0;
}

/** @param {Model} model @param {Golden} golden @param {number} steps of the first chunk @returns {Promise<Arrays>} */
async function inChunks(model, golden, steps) {
  const { axes: { sequence }, lengths, inputs, outputs, states: specs } = model.manifest;
  const given = (/** @type {string} */ name) => /** @type {NamedArray} */ (golden.inputs[name]);
  const timeAxis = (/** @type {readonly unknown[]} */ axes) => axes.indexOf(sequence);
  /** @type {Arrays[]} */
  const parts = [];
  let states = Object.fromEntries(specs.map(({ input }) => [input, model._tensor(given(input))]));
  for (const isFirst of [true, false]) {
    const feeds = Object.fromEntries(inputs.map(({ name, axes }) => {
      const array = given(name), axis = timeAxis(axes), end = array.dims[axis];
      if (name === lengths) {
        const left = Array.from(array.data, Number).map((valid) => (isFirst ? steps : valid - steps));
        return [name, model._tensor({ ...array, data: toArray(name, left, array.dtype) })];
      }
      return [name, model._tensor(end === undefined ? array : isFirst ? cut(array, axis, 0, steps) : cut(array, axis, steps, end))];
    }));
    const call = await inTurn(() => model._call({ ...feeds, ...states }));
    states = call.states;
    parts.push(mapValues(call.outputs, toNamed));
  }
  const whole = outputs.map(({ name, axes }) => {
    const axis = timeAxis(axes), pieces = parts.map((part) => /** @type {NamedArray} */ (part[name]));
    return [name, axis < 0 ? pieces[1] : joined(pieces, axis, golden.outputs[name]?.dims ?? [])];
  });
  return { ...Object.fromEntries(whole), ...leaving(model.manifest, states) };
}

/** Return the states by the outputs that they left by. @param {Manifest} manifest @param {Feeds} states @returns {Arrays} */
const leaving = (manifest, states) =>
  Object.fromEntries(manifest.states.map(({ input, output }) => [output, toNamed(/** @type {any} */ (states[input]))]));

/** @param {number[]} values */
const largest = (values) => values.reduce((left, right) => Math.max(left, right), 0);

/** @param {number | undefined} left @param {number} right */
function distance(left = NaN, right) {
  const difference = Object.is(left, right) || left === right ? 0 : Math.abs(left - right);
  return Number.isNaN(difference) ? Infinity : difference;
}
