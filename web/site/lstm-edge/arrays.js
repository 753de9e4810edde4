/** Flat arrays and the named axes of a model's tensors. */

import { LstmEdgeError } from "./errors.js";

/**
 * A typed array in row-major order. `float16` needs `Float16Array`.
 *
 * @typedef {Float32Array | Float64Array | Int8Array | Uint8Array | Int16Array | Uint16Array | Int32Array
 *   | Uint32Array | BigInt64Array | BigUint64Array} TypedArray
 */
/** @typedef {{dtype: string, dims: readonly number[], data: TypedArray}} NamedArray */
/** @typedef {{name: string, dtype: string, axes: readonly (number | string)[]}} TensorSpec */
/** @typedef {Map<string, number>} Sizes sizes of the named axes in one call */
/** @typedef {{least: number, most: number | null, multiple: number}} AxisRange the sizes that an axis may have; `most` is null without an upper end */

/** @type {Record<string, any>} */
const KINDS = {
  float32: Float32Array, float64: Float64Array, float16: /** @type {any} */ (globalThis).Float16Array,
  int8: Int8Array, uint8: Uint8Array, bool: Uint8Array, int16: Int16Array, uint16: Uint16Array,
  int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array, uint64: BigUint64Array,
};

/** @internal */
export const isDtype = (/** @type {unknown} */ dtype) => typeof dtype === "string" && Object.hasOwn(KINDS, dtype);

/** Return whether this JavaScript engine has a typed array for `dtype`. @internal */
export const hasKind = (/** @type {string} */ dtype) => KINDS[dtype] !== undefined;

/**
 * Return an array of `size` elements, all `value`.
 *
 * @param {string} dtype
 * @param {number} size
 * @param {number} value
 * @returns {TypedArray}
 * @internal
 */
export const filled = (dtype, size, value) =>
  new KINDS[dtype](size).fill(dtype.endsWith("int64") ? BigInt(value) : value);

/**
 * Return a copy of a caller's numbers as `dtype`; whole numbers are not made of fractions.
 *
 * @param {string} name for messages
 * @param {unknown} value a typed array, or a flat array of numbers
 * @param {string} dtype
 * @returns {TypedArray}
 * @throws {LstmEdgeError} InputError
 * @internal
 */
export function toArray(name, value, dtype) {
  const Kind = KINDS[dtype];
  if (value instanceof Kind) return /** @type {TypedArray} */ (value).slice();
  const isTyped = ArrayBuffer.isView(value) && !(value instanceof DataView);
  const given = /** @type {(number | bigint)[]} */ (value);
  if (isTyped || (Array.isArray(value) && value.every((one) => typeof one === "number" || typeof one === "bigint"))) {
    try {
      const array = Kind.from(given, dtype.endsWith("int64") ? BigInt : Number);
      if (dtype.startsWith("float") || given.every((one, index) => array[index] == one)) return array;
    } catch {
      // BigInt() of a fraction: as below
    }
  }
  const came = isTyped || typeof value !== "object" ? Object.prototype.toString.call(value).slice(8, -1) : "other values";
  throw new LstmEdgeError("InputError", `${name} is ${came}, expected ${dtype} numbers in one flat array`);
}

/**
 * Return an array from base64 in the manifest.
 *
 * @param {any} raw
 * @returns {NamedArray}
 * @internal
 */
export function decodeArray(raw) {
  const bytes = Uint8Array.from(atob(raw.data), (letter) => letter.charCodeAt(0));
  const data = new KINDS[raw.dtype](bytes.buffer);
  if (data.length !== product(raw.shape)) throw new TypeError("the size of an array");
  return { dtype: raw.dtype, dims: raw.shape, data };
}

/** @param {{type?: string, dims: readonly number[], data: TypedArray}} tensor onnxruntime's @returns {NamedArray} @internal */
export const toNamed = ({ type = "", dims, data }) => ({ dtype: type, dims, data });

/**
 * @template V, W
 * @param {Record<string, V>} record
 * @param {(value: V, name: string) => W} make
 * @returns {Record<string, W>}
 * @internal
 */
export const mapValues = (record, make) =>
  Object.fromEntries(Object.entries(record).map(([name, value]) => [name, make(value, name)]));

/** @param {readonly number[]} dims @internal */
export const product = (dims) => dims.reduce((left, right) => left * right, 1);

/**
 * Return the shape of `axes`; a named axis (`"N"`, `"2*N"`) whose size is unknown is undefined in it.
 *
 * @param {readonly (number | string)[]} axes
 * @param {Sizes} sizes
 */
const resolve = (axes, sizes) => axes.map((axis) => (typeof axis === "number" ? axis : sizes.get(axis) ?? multiple(axis, sizes)));

/** @param {string} axis @param {Sizes} sizes */
function multiple(axis, sizes) {
  const [factor, name] = split(axis), size = sizes.get(name);
  return size === undefined ? undefined : factor * size;
}

/** Return the factor and the name of `"2*N"`. @param {string} axis @returns {[number, string]} */
function split(axis) {
  const [, factor = 1, name = axis] = /^(\d+)\s*\*\s*(.+)$/.exec(axis) ?? [];
  return [Number(factor), name];
}

/**
 * Return the shape of a flat array, and add to `sizes` the one axis that its length decides.
 *
 * @param {TensorSpec} spec
 * @param {number} length
 * @param {Sizes} sizes
 * @param {Record<string, AxisRange>} [ranges] by axis
 * @returns {number[]}
 * @throws {LstmEdgeError} InputError: the length does not fit, or a size is outside of its range
 * @internal
 */
export function fit(spec, length, sizes, ranges = {}) {
  const dims = resolve(spec.axes, sizes), open = dims.indexOf(undefined);
  const rest = product(dims.map((size) => size ?? 1));
  if (open >= 0) {
    const [factor, name] = split(/** @type {string} */ (spec.axes[open]));
    dims[open] = length / rest;
    sizes.set(name, length / rest / factor);
  }
  const shape = dims.map((size) => size ?? NaN);
  if (length > 0 && product(shape) === length && [...shape, ...sizes.values()].every(Number.isInteger)) {
    checkRanges(spec, shape, sizes, ranges);
    return shape;
  }
  const sized = spec.axes.flatMap((axis, place) => (place !== open && sizes.has(String(axis)) ? [`${axis}=${sizes.get(String(axis))}`] : [])).join(", ");
  throw new LstmEdgeError(
    "InputError",
    `${spec.name} has ${length} values, expected ${open < 0 ? rest : `a multiple of ${rest}`}: ${tuple(spec.axes)}${sized && ` with ${sized}`}`,
  );
}

/** @param {TensorSpec} spec @param {number[]} shape @param {Sizes} sizes @param {Record<string, AxisRange>} ranges */
function checkRanges({ name, axes }, shape, sizes, ranges) {
  for (const [axis, { least, most, multiple: step }] of Object.entries(ranges)) {
    const size = sizes.get(axis) ?? least, last = most ?? Infinity;
    const nearest = step * Math.min(Math.ceil(Math.max(least, size) / step), Math.floor(last / step));
    if (nearest === size || !axes.some((one) => split(String(one))[1] === axis)) continue;
    const advice = size < least ? "at least" : size > last ? "at most" : `a multiple of ${step}, such as`;
    throw new LstmEdgeError(
      "InputError",
      `${name} has shape ${tuple(shape)}: axis ${axis} of ${tuple(axes)} is ${size}, this file accepts ` +
        `${least}..${most ?? ""}${step > 1 ? `:${step}` : ""}; use ${advice} ${nearest}`,
    );
  }
}

/** @param {readonly unknown[]} sizes */
const tuple = (sizes) => `(${sizes.join(", ")}${sizes.length === 1 ? "," : ""})`;

/**
 * Return the shape of a state; an axis that no input names has size 1.
 *
 * @param {readonly (number | string)[]} axes
 * @param {Sizes} sizes
 * @internal
 */
export const shapeOf = (axes, sizes) => resolve(axes, sizes).map((size) => size ?? 1);

/**
 * Return the number of values of a tensor whose size no caller decides.
 *
 * @param {TensorSpec} spec
 * @param {Sizes} sizes
 * @throws {LstmEdgeError} InputError: a named axis is of unknown size
 * @internal
 */
export function sizeOf({ name, axes }, sizes) {
  const dims = resolve(axes, sizes), open = dims.indexOf(undefined);
  if (open < 0) return product(dims.map(Number));
  throw new LstmEdgeError("InputError", `${name} (${axes.join(", ")}) leaves ${axes[open]} open, so a chunk can't be cut; give it step by step`);
}

/**
 * Return `values` of a shape, broadcast to `dims` as numpy does.
 *
 * @param {{shape: readonly number[], values: readonly number[]}} array
 * @param {readonly number[]} dims
 * @returns {number[]}
 * @throws {LstmEdgeError} ManifestError: the shapes do not fit
 * @internal
 */
export function broadcast({ shape, values }, dims) {
  const padded = [...dims.map(() => 1), ...shape].slice(-dims.length || dims.length);
  if (shape.length > dims.length || product(shape) !== values.length || !padded.every((size, axis) => size === 1 || size === dims[axis])) {
    throw new LstmEdgeError("ManifestError", `the golden case has limits of shape (${shape}) for (${dims}); export the model again`);
  }
  const strides = padded.map((size, axis) => (size === 1 ? 0 : product(padded.slice(axis + 1))));
  return Array.from({ length: product(dims) }, (_, index) => {
    let rest = index, at = 0;
    for (let axis = dims.length - 1; axis >= 0; axis -= 1) {
      const size = dims[axis] ?? 1;
      at += (rest % size) * (strides[axis] ?? 0);
      rest = Math.floor(rest / size);
    }
    return values[at] ?? 0;
  });
}

/**
 * Return a reset value's array repeated `count` times along `axis`, which has size 1.
 *
 * @param {NamedArray} array
 * @param {number} axis
 * @param {number} count
 * @internal
 */
export function repeat(array, axis, count) {
  const dims = array.dims.map((size, place) => (place === axis ? count : size));
  return joined(Array.from({ length: count }, () => array), axis, dims);
}

/**
 * Return arrays of equal shape but for `axis` joined along it.
 *
 * @param {readonly NamedArray[]} parts
 * @param {number} axis
 * @param {readonly number[]} dims of the result
 * @returns {NamedArray}
 * @internal
 */
export function joined(parts, axis, dims) {
  const dtype = /** @type {NamedArray} */ (parts[0]).dtype;
  const data = new KINDS[dtype](product(dims));
  let at = 0;
  for (let outer = 0; outer < product(dims.slice(0, axis)); outer += 1) {
    for (const part of parts) {
      const run = product(part.dims.slice(axis));
      data.set(part.data.subarray(outer * run, (outer + 1) * run), at);
      at += run;
    }
  }
  return { dtype, dims, data };
}

/** Return arrays of equal shape but for `axis` joined along it. @param {readonly NamedArray[]} parts @param {number} axis @internal */
export function along(parts, axis) {
  const size = parts.reduce((sum, { dims }) => sum + (dims[axis] ?? 0), 0);
  return joined(parts, axis, (parts[0]?.dims ?? []).map((each, place) => (place === axis ? size : each)));
}

/**
 * Return `array[..., from:to, ...]` along `axis`.
 *
 * @param {NamedArray} array
 * @param {number} axis
 * @param {number} from
 * @param {number} to
 * @returns {NamedArray}
 * @internal
 */
export function cut(array, axis, from, to) {
  const dims = array.dims.map((size, place) => (place === axis ? to - from : size));
  const inner = product(array.dims.slice(axis + 1)), run = product(array.dims.slice(axis));
  const data = new KINDS[array.dtype](product(dims));
  for (let outer = 0; outer < product(dims.slice(0, axis)); outer += 1) {
    data.set(array.data.subarray(outer * run + from * inner, outer * run + to * inner), outer * (to - from) * inner);
  }
  return { dtype: array.dtype, dims, data };
}
