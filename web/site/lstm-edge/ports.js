/** The inputs, outputs and states of a program, and their arrays. */

/** @import { Library } from "./library.js" */
/** @import { Manifest } from "./manifest.js" */
/** @typedef {Float32Array | BigInt64Array | Int32Array | Int16Array | Int8Array | Uint8Array} Numbers */

/**
 * An input, output or state.
 *
 * @typedef {object} Port
 * @property {string} name
 * @property {number} width numbers of one step, or of one frame of an output
 * @property {string} dtype `float32`, `int64`, `int32`, `int16`, `int8`, `uint8` or `bool`
 * @property {boolean} everyStep of an output: true if `process` returns one result per step, false if
 *   it returns the last one
 * @property {number} frames of an output: frames in one unit
 */

/** The kinds of ports, by their numbers in the library. */
export const INPUT = 0;
export const OUTPUT = 1;
export const STATE = 2;
const PORT_BYTES = 28;

/** Types of elements by their numbers in the library. */
const DTYPES = ["float32", "int64", "int32", "int16", "int8", "uint8"];

/** @type {Record<string, {new (length: number): Numbers, new (buffer: ArrayBufferLike, address: number, length: number): Numbers, BYTES_PER_ELEMENT: number}>} */
const ARRAYS = {
  float32: Float32Array,
  int64: BigInt64Array,
  int32: Int32Array,
  int16: Int16Array,
  int8: Int8Array,
  uint8: Uint8Array,
  bool: Uint8Array,
};

/**
 * Return the ports of one kind.
 *
 * @param {Library} library
 * @param {number} program
 * @param {number} kind
 * @param {Manifest} manifest which knows truth values, bytes to the library
 * @returns {Port[]}
 */
export function portsOf(library, program, kind, manifest) {
  const { functions } = library;
  const count = functions.lstm_edge_count(program, kind) >>> 0;
  const booleans = new Set(manifest.inputs.filter(({ dtype }) => dtype === "bool").map(({ name }) => name));
  return library.allocated([PORT_BYTES], ([address = 0]) =>
    Array.from({ length: count }, (_, index) => {
      functions.lstm_edge_describe(program, kind, index, address);
      const [nameAddress = 0, width = 0, type = 0, everyStep = 0, frames = 0] = new Uint32Array(
        library.buffer,
        address,
        PORT_BYTES / 4,
      );
      const name = library.text(nameAddress);
      const isBoolean = kind === INPUT && booleans.has(name);
      const dtype = isBoolean ? "bool" : (DTYPES[type] ?? "");
      return { name, width, dtype, everyStep: everyStep !== 0, frames };
    }),
  );
}

/** Return the class of a port's arrays. @param {Port} port */
export function arrayClass({ dtype }) {
  return /** @type {typeof ARRAYS[string]} */ (ARRAYS[dtype]);
}

/** Return the bytes of one element. @param {Port} port */
export function elementSize(port) {
  return arrayClass(port).BYTES_PER_ELEMENT;
}

/**
 * Return a view of memory.
 *
 * @param {Port} port
 * @param {ArrayBufferLike} buffer
 * @param {number} address
 * @param {number} length
 */
export function arrayAt(port, buffer, address, length) {
  return new (arrayClass(port))(buffer, address >>> 0, length);
}
