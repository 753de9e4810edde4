/** Samples as a caller gives them, checked, and converted to the types of the inputs. */

import { LstmEdgeError, messageOf, shown } from "./errors.js";
import { arrayClass } from "./ports.js";

/** @import { Numbers, Port } from "./ports.js" */
/** @typedef {ArrayLike<number | bigint | boolean>} Values numbers, or truth values for inputs of type bool */
/** @typedef {Values | Readonly<Record<string, Values>>} Samples one array, or one by the name of each input */

/** Whole numbers that an input holds, the least and the largest. @type {Record<string, readonly [bigint, bigint]>} */
const RANGES = {
  int64: [-(2n ** 63n), 2n ** 63n - 1n],
  int32: [-(2n ** 31n), 2n ** 31n - 1n],
  int16: [-(2n ** 15n), 2n ** 15n - 1n],
  int8: [-128n, 127n],
  uint8: [0n, 255n],
  bool: [0n, 1n],
};

/**
 * Checked samples.
 *
 * @typedef {object} CheckedSamples
 * @property {Numbers[]} arrays one per input; may be the caller's own
 * @property {number} steps
 */

/**
 * Check samples of one time step, or of any number from 1; throw before anything is changed.
 *
 * @param {readonly Port[]} inputs
 * @param {Samples} samples
 * @param {boolean} isStep
 * @returns {CheckedSamples}
 */
export function readSamples(inputs, samples, isStep) {
  const values = byName(inputs, samples);
  let steps = isStep ? 1 : 0;
  const arrays = inputs.map((port, index) => {
    const lengthOf = lengthIn(values[index], port);
    steps ||= lengthOf / port.width;
    const isWhole = Number.isInteger(steps) && steps > 0;
    if (!isWhole || lengthOf !== steps * port.width) {
      throw wrongLength(port, lengthOf, isStep, inputs.length > 1);
    }
    return asArray(port, /** @type {Values} */ (values[index]), lengthOf);
  });
  return { arrays, steps };
}

/**
 * Return the values of each input.
 *
 * @param {readonly Port[]} inputs
 * @param {any} samples
 * @returns {unknown[]}
 */
function byName(inputs, samples) {
  const isArray = Array.isArray(samples) || ArrayBuffer.isView(samples);
  const isObject = typeof samples === "object" && samples !== null && !isArray;
  const isOne = isArray || (isObject && inputs.length === 1 && typeof samples.length === "number");
  const names = inputs.map(({ name }) => name);
  const expected = names.join(", ");
  if (isOne) {
    if (inputs.length === 1) return [samples];
    throw new LstmEdgeError("InputError", `got a single array, expected arrays for inputs ${expected}`);
  }
  if (!isObject)
    throw new LstmEdgeError("InputError", `got ${shown(samples)}, expected numbers for ${expected}`);
  const given = Object.keys(samples);
  const isSame = given.length === names.length && names.every((name) => given.includes(name));
  if (!isSame)
    throw new LstmEdgeError(
      "InputError",
      `got inputs ${given.join(", ") || "without a name"}, expected ${expected}`,
    );
  return names.map((name) => samples[name]);
}

/**
 * Return the number of values of an input.
 *
 * @param {any} values
 * @param {Port} port
 */
function lengthIn(values, { name }) {
  const length = typeof values === "object" && values !== null ? values.length : undefined;
  if (Number.isSafeInteger(length) && length >= 0) return length;
  throw new LstmEdgeError("InputError", `${name} is ${shown(values)}, expected an array of numbers`);
}

/**
 * @param {Port} port
 * @param {number} length
 * @param {boolean} isStep
 * @param {boolean} hasOthers
 */
function wrongLength({ name, width }, length, isStep, hasOthers) {
  const steps = hasOthers
    ? `${width} for each step, of the same steps for every input`
    : `a multiple of ${width}`;
  return new LstmEdgeError(
    "InputError",
    `${name}: got ${length} numbers, expected ${isStep ? width : steps}`,
  );
}

/**
 * Return values as an array of the input's type: the same array if it is one, else a copy.
 *
 * @param {Port} port
 * @param {Values} values
 * @param {number} length
 * @returns {Numbers}
 */
function asArray(port, values, length) {
  const Class = arrayClass(port);
  if (values instanceof Class && port.dtype !== "bool") return values;
  const array = newArray(port, length);
  if (array instanceof Float32Array) {
    for (let index = 0; index < length; index += 1) {
      const value = values[index];
      array[index] = typeof value === "number" ? value : asFloat(port, value, index);
    }
  } else if (array instanceof BigInt64Array) {
    for (let index = 0; index < length; index += 1) array[index] = asWhole(port, values[index], index);
  } else {
    for (let index = 0; index < length; index += 1)
      array[index] = Number(asWhole(port, values[index], index));
  }
  return array;
}

/** @param {Port} port @param {number} length */
function newArray(port, length) {
  try {
    return new (arrayClass(port))(length);
  } catch (cause) {
    throw new LstmEdgeError(
      "InputError",
      `${port.name}: ${length} numbers are too many (${messageOf(cause)})`,
    );
  }
}

/**
 * @param {Port} port
 * @param {unknown} value
 * @param {number} index
 */
function asFloat({ name, dtype }, value, index) {
  if (typeof value === "bigint") return Number(value);
  throw new LstmEdgeError(
    "InputError",
    `${name} is ${shown(value)} at [${index}], expected a number (${dtype})`,
  );
}

/**
 * @param {Port} port
 * @param {unknown} value
 * @param {number} index
 */
function asWhole({ name, dtype }, value, index) {
  const [least, largest] = /** @type {readonly [bigint, bigint]} */ (RANGES[dtype]);
  const isTruth = dtype === "bool" && typeof value === "boolean";
  const isWhole = typeof value === "bigint" || Number.isInteger(value) || isTruth;
  const whole = isWhole ? BigInt(/** @type {bigint | number | boolean} */ (value)) : null;
  if (whole !== null && whole >= least && whole <= largest) return whole;
  throw new LstmEdgeError(
    "InputError",
    `${name} is ${shown(value)} at [${index}], expected a whole number from ${least} to ${largest} (${dtype})`,
  );
}
