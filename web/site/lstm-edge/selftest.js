/** Replaying the golden cases within the limits of the one tolerance policy (docs/artifact.md). */

import { broadcast, cut, joined, mapValues, toArray, toNamed } from "./arrays.js";
import { LstmEdgeError } from "./errors.js";
import { framesOf } from "./frames.js";
import { isSame, tensorNames } from "./manifest.js";
import { inTurn } from "./turns.js";

/** @import { NamedArray } from "./arrays.js" */
/** @import { Arrays, Golden, Manifest } from "./manifest.js" */
/** @import { Feeds, Model } from "./model.js" */
/**
 * @typedef {object} Comparison
 * @property {string} how `whole`, `in two chunks` or `step by step` (unit by unit), with carried states
 * @property {string} name of the output
 * @property {number} error absolute difference at the worst element, which is the one nearest to its limit
 * @property {number} limit what it may be there
 * @property {number} ratio error by limit: 1 is at the limit
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
 * Run every golden case in one call, and in chunks with carried states where the file can be streamed.
 *
 * @internal
 * @param {Model} model
 * @param {Golden} golden
 * @returns {Promise<SelfTest>}
 */
export async function replayGolden(model, golden) {
  const { inputs, outputs } = tensorNames(model.manifest), cases = [golden, ...(golden.more ?? [])];
  if (!cases.every((each) => isSame(inputs, Object.keys(each.inputs)) && isSame(outputs, Object.keys(each.outputs)))) {
    throw new LstmEdgeError("ManifestError", "the golden case leaves out an input or output; export the model again");
  }
  /** @type {Comparison[]} */
  const comparisons = [];
  for (const each of cases) {
    for (const [how, sizes] of waysOf(model, each)) comparisons.push(...compareGolden(how, each, await run(model, each, sizes)));
  }
  const worst = comparisons.reduce((left, right) => (right.ratio > left.ratio ? right : left));
  return { ok: comparisons.every(({ ok }) => ok), worst, comparisons };
}

/**
 * @param {string} how
 * @param {Golden} golden
 * @param {Arrays} found
 * @returns {Comparison[]}
 */
const compareGolden = (how, golden, found) =>
  Object.entries(golden.outputs).filter(([name]) => found[name]).map(([name, expected]) => {
    const { data, dims } = /** @type {NamedArray} */ (found[name]), limits = limitsOf(golden, name, expected);
    if (String(dims) !== String(expected.dims)) return { how, name, error: Infinity, limit: largest(limits), ratio: Infinity, ok: false };
    let worst = { error: 0, limit: largest(limits), ratio: 0 };
    limits.forEach((limit, index) => {
      const error = distance(Number(data[index]), Number(expected.data[index])), ratio = error === 0 ? 0 : error / limit;
      if (ratio > worst.ratio) worst = { error, limit, ratio };
    });
    return { how, name, ...worst, ok: worst.error <= worst.limit };
  });

/** Return an output's limits, one an element. @param {Golden} golden @param {string} name @param {NamedArray} expected @returns {number[]} */
function limitsOf({ limit, limits, floor }, name, { dtype, dims, data }) {
  const single = (/** @type {number} */ value) => broadcast({ shape: [], values: [value] }, dims);
  const budget = limit[name], channels = limits?.[name], float = FLOATS[dtype];
  if (budget !== undefined) return single(budget);
  if (channels) return broadcast(channels, dims);
  if (!float) return single(0); // whole numbers must be equal
  const scale = largest(Array.from(data, Number).filter(Number.isFinite).map(Math.abs));
  return single(MULTIPLE * (floor[name] ?? 0) + ULPS * Math.max(float.eps * scale, float.tiny));
}

/** Return how a case is run: in words, and the steps of its chunks. @param {Model} model @param {Golden} golden @returns {[string, number[]][]} */
function waysOf(model, golden) {
  const { axes: { sequence }, lengths, unit = 1 } = model.manifest;
  const { unstreamable, states } = model.manifest;
  if (unstreamable || !states.length || sequence === null) return [["whole", []]];
  const steps = Math.min(...model._data.filter(({ axes }) => axes.includes(sequence)).map(({ name, axes }) => golden.inputs[name]?.dims[axes.indexOf(sequence)] ?? 0));
  // a row may end in the last chunk only
  const shortest = lengths === null ? steps : Math.min(...Array.from(golden.inputs[lengths]?.data ?? [], Number)), units = Math.floor(shortest / unit), half = Math.floor(units / 2) * unit;
  return [
    ["whole", []],
    ...(units > 1 ? [/** @type {[string, number[]]} */ (["in two chunks", [half, steps - half]])] : []),
    ...(units > 2 ? [/** @type {[string, number[]]} */ (["step by step", [...Array(units - 1).fill(unit), steps - (units - 1) * unit]])] : []),
  ];
}

/**
 * Run a case, in chunks of `sizes` steps if any.
 *
 * @param {Model} model
 * @param {Golden} golden
 * @param {number[]} sizes
 * @returns {Promise<Arrays>} what one call on the whole gives; what folds time into another axis is left out
 */
async function run(model, golden, sizes) {
  const { axes: { sequence }, lengths, inputs, outputs, states: specs } = model.manifest;
  const given = (/** @type {string} */ name) => /** @type {NamedArray} */ (golden.inputs[name]);
  /** @type {Arrays[]} */
  const parts = [];
  let states = Object.fromEntries(specs.map(({ input }) => [input, model._tensor(given(input))])), start = 0;
  for (const size of sizes.length ? sizes : [Infinity]) {
    const feeds = Object.fromEntries(inputs.map(({ name, axes }) => {
      const array = given(name), axis = axes.indexOf(sequence ?? "");
      if (size === Infinity) return [name, model._tensor(array)];
      if (name !== lengths) return [name, model._tensor(axis < 0 ? array : cut(array, axis, start, start + size))];
      const valid = Array.from(array.data, Number).map((value) => Math.min(value - start, size));
      return [name, model._tensor({ ...array, data: toArray(name, valid, array.dtype) })];
    }));
    const call = await inTurn(() => model._call({ ...feeds, ...states }));
    states = call.states;
    parts.push(mapValues(call.outputs, toNamed));
    start += size;
  }
  const last = /** @type {Arrays} */ (parts.at(-1));
  const whole = outputs.filter(({ name, axes }) => parts.length === 1 || framesOf(model.manifest, { name, axes, dtype: "" }).axis >= 0 || !foldsTime(axes, sequence)).map(({ name, axes }) => {
    const time = framesOf(model.manifest, { name, axes, dtype: "" }).axis;
    const axis = time < 0 && lengths !== null ? axes.indexOf("longest") : time, pieces = parts.map((part) => /** @type {NamedArray} */ (part[name]));
    return [name, axis < 0 || pieces.length === 1 ? last[name] : joined(pieces, axis, golden.outputs[name]?.dims ?? [])];
  });
  return { ...Object.fromEntries(whole), ...leaving(model.manifest, states) };
}

/** Return whether an axis is an expression of the time axis. @param {readonly (number | string)[]} axes @param {string | null} sequence */
const foldsTime = (axes, sequence) =>
  axes.some((axis) => typeof axis === "string" && axis !== sequence && axis.split(/\W+/).includes(sequence ?? ""));

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
