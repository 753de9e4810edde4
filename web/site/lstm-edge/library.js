/** The C library in WebAssembly: one instance, with a memory of its own, for each program. */

import { LstmEdgeError, messageOf } from "./errors.js";

/** @import { ErrorName } from "./errors.js" */
/** @typedef {WebAssembly.Exports & {memory: WebAssembly.Memory} & Record<string, any>} Functions */

const BAD_STATE = 9;
const NO_MEMORY = 4;
/** Most bytes of one allocation. */
export const MAX_BYTES = 2 ** 32 - 2 ** 16;
/** Bytes to which blocks of one allocation are aligned. */
const ALIGNMENT = 16;

/** An instance of the library. */
export class Library {
  /** @param {WebAssembly.Module} module */
  static async open(module) {
    try {
      const { exports } = await WebAssembly.instantiate(module, importsOf(module));
      return new Library(/** @type {Functions} */ (exports));
    } catch (cause) {
      throw new LstmEdgeError("UnsupportedError", `the library can't be started: ${messageOf(cause)}`);
    }
  }

  /** @param {Functions} functions */
  constructor(functions) {
    /** The exported functions. @readonly */
    this.functions = functions;
    functions._initialize();
  }

  /** The memory, another object after it grew. */
  get buffer() {
    return this.functions.memory.buffer;
  }

  /** Return the text that ends with a zero. @param {number} address */
  text(address) {
    const memory = new Uint8Array(this.buffer);
    const start = address >>> 0;
    return decoded(memory.subarray(start, memory.indexOf(0, start)));
  }

  /** Why the last call failed. */
  get lastError() {
    return this.text(this.functions.lstm_edge_last_error());
  }

  /** Throw the error of a call's status, unless it is 0. @param {number} status @param {ErrorName} name */
  check(status, name) {
    if (status === 0) return;
    const isState = status === BAD_STATE || status === NO_MEMORY;
    throw new LstmEdgeError(isState ? "StateError" : name, this.lastError);
  }

  /**
   * Allocate memory, pass its addresses to `work`, and free it.
   *
   * @template T
   * @param {number[]} sizes bytes of each block
   * @param {(addresses: number[]) => T} work
   * @returns {T}
   */
  allocated(sizes, work) {
    const offsets = [];
    let total = 0;
    for (const size of sizes) {
      offsets.push(total);
      total += Math.ceil(size / ALIGNMENT) * ALIGNMENT;
    }
    const start = total > MAX_BYTES ? 0 : this.functions.malloc(Math.max(total, 1)) >>> 0;
    if (!start) {
      const megabytes = Math.ceil(total / 1e6);
      throw new LstmEdgeError("InputError", `no memory for ${megabytes} MB; process fewer steps per call`);
    }
    try {
      return work(offsets.map((offset) => start + offset));
    } finally {
      this.functions.free(start);
    }
  }
}

/** Return functions that do nothing for the imports, which the library never calls. @param {WebAssembly.Module} module */
function importsOf(module) {
  /** @type {Record<string, Record<string, () => number>>} */
  const imports = {};
  for (const { module: namespace, name } of WebAssembly.Module.imports(module)) {
    imports[namespace] ??= {};
    imports[namespace][name] = () => 0;
  }
  return imports;
}

/** Decode UTF-8 without TextDecoder, which an AudioWorklet does not have. @param {Uint8Array} bytes */
function decoded(bytes) {
  const parts = [];
  for (let start = 0; start < bytes.length; start += 4096) {
    parts.push(String.fromCharCode(...bytes.subarray(start, start + 4096)));
  }
  const characters = parts.join("");
  const percent = (/** @type {string} */ character) =>
    `%${character.charCodeAt(0).toString(16).padStart(2, "0")}`;
  try {
    return decodeURIComponent(characters.replace(/[%\x80-\xff]/g, percent));
  } catch {
    return characters.replace(/[\x80-\xff]/g, "\ufffd");
  }
}
