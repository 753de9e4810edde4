/** Comparing outputs with the golden case, by the one tolerance policy (docs/artefact.md). */

/** @import { Arrays, Golden } from "./manifest.js" */
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
 * Compare each output of the golden case with what this device computed.
 *
 * @param {"whole" | "chunked"} how
 * @param {Golden} golden
 * @param {Arrays} found
 * @returns {Comparison[]}
 */
export function compareGolden(how, golden, found) {
  return Object.entries(golden.outputs).map(([name, expected]) => {
    const left = Array.from(found[name]?.data ?? [], Number), right = Array.from(expected.data, Number);
    const float = FLOATS[expected.dtype], scale = largest(right.filter(Number.isFinite).map(Math.abs));
    const limit = float ? golden.limit[name] ?? MULTIPLE * (golden.floor[name] ?? 0) + ULPS * Math.max(float.eps * scale, float.tiny) : 0;
    const maxAbs = left.length === right.length ? largest(right.map((value, index) => distance(left[index], value))) : Infinity;
    const ratio = maxAbs === 0 ? 0 : maxAbs / limit;
    return { how, name, maxAbs, limit, ratio, ok: maxAbs <= limit };
  });
}

/** @param {Comparison[]} comparisons @returns {SelfTest} */
export function summarize(comparisons) {
  const worst = comparisons.reduce((left, right) => (right.ratio > left.ratio ? right : left));
  return { ok: comparisons.every(({ ok }) => ok), worst, comparisons };
}

/** @param {number[]} values */
const largest = (values) => values.reduce((left, right) => Math.max(left, right), 0);

/** @param {number | undefined} left @param {number} right */
function distance(left = NaN, right) {
  const difference = Object.is(left, right) || left === right ? 0 : Math.abs(left - right);
  return Number.isNaN(difference) ? Infinity : difference;
}
