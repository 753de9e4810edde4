/** Samples as a caller gives them, checked and converted to the types of the file. */

import { LstmEdgeError } from "./errors.js";

/** @import { Port } from "./index.js" */
/** @typedef {Float32Array | BigInt64Array | Int32Array | Int16Array | Int8Array | Uint8Array} Numbers */
/** @typedef {readonly number[] | readonly bigint[] | Numbers | Float64Array | Uint16Array | Uint32Array} Values */
/**
 * One array, or one by the name of each input.
 *
 * @typedef {Values | Readonly<Record<string, Values>>} Samples
 */

const TYPES = [Float32Array, BigInt64Array, Int32Array, Int16Array, Int8Array, Uint8Array];
const NAMES = ["float32", "int64", "int32", "int16", "int8", "uint8"];
/** The least and the largest whole number of each type. @type {[bigint, bigint][]} */
const RANGES = [
  [0n, 0n],
  [-(2n ** 63n), 2n ** 63n - 1n],
  [-(2n ** 31n), 2n ** 31n - 1n],
  [-(2n ** 15n), 2n ** 15n - 1n],
  [-128n, 127n],
  [0n, 255n],
];

/**
 * Return a view of memory.
 *
 * @param {number} type
 * @param {ArrayBuffer} buffer
 * @param {number} at
 * @param {number} length
 * @returns {Numbers}
 */
export function typedArrayAt(type, buffer, at, length) {
  return new /** @type {any} */ (TYPES[type])(buffer, at, length);
}

/** @param {unknown} value @returns {value is Values} */
function isList(value) {
  return Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView));
}

/**
 * Return the samples of each input in the types of the file; an `InputError` if they do not fit.
 *
 * @param {Samples} samples
 * @param {readonly Port[]} inputs
 * @param {number} [steps] any number from 1 if left out
 * @returns {Numbers[]}
 */
export function asInputs(samples, inputs, steps) {
  const isOne = inputs.length === 1 && isList(samples);
  const lists = inputs.map(({ name }) => {
    const list = isOne ? samples : /** @type {any} */ (samples)?.[name];
    if (isList(list)) return list;
    const names = inputs.map((port) => port.name).join(", ");
    throw new LstmEdgeError("InputError", `expected arrays of numbers for ${names}; got none for ${name}`);
  });
  const count = steps ?? (lists[0]?.length ?? 0) / (inputs[0]?.width ?? 1);
  inputs.forEach(({ name, width }, index) => {
    const length = lists[index]?.length ?? 0;
    if (length === count * width && Number.isInteger(count) && count > 0) return;
    const several = `a multiple of ${width}, of the same steps for each input`;
    const expected = steps ? width : several;
    throw new LstmEdgeError("InputError", `${name}: got ${length} numbers, expected ${expected}`);
  });
  return inputs.map((port, index) => converted(port, /** @type {Values} */ (lists[index])));
}

/** @param {Port} port @param {Values} list @returns {Numbers} */
function converted({ name, type }, list) {
  const Type = /** @type {any} */ (TYPES[type]);
  if (list instanceof Type) return /** @type {any} */ (list).slice();
  const result = new Type(list.length);
  for (let index = 0; index < list.length; index += 1) {
    const value = /** @type {unknown} */ (list[index]);
    if (type === 0 ? typeof value !== "number" : !isWhole(value, type)) {
      const got = typeof value === "string" ? JSON.stringify(value) : String(value);
      const [least, most] = RANGES[type] ?? [];
      const range = type === 0 ? "" : ` (${String(least)}..${String(most)})`;
      const expected = `${NAMES[type] ?? ""}${range}`;
      throw new LstmEdgeError("InputError", `${name}: got ${got} at ${index}, expected ${expected}`);
    }
    result[index] = type === 1 ? BigInt(/** @type {number | bigint} */ (value)) : Number(value);
  }
  return result;
}

/** Return true for a whole number that a type holds. @param {unknown} value @param {number} type */
function isWhole(value, type) {
  if (typeof value !== "bigint" && !Number.isInteger(value)) return false;
  const whole = BigInt(/** @type {number | bigint} */ (value));
  const [least, most] = RANGES[type] ?? [1n, 0n];
  return least <= whole && whole <= most;
}
