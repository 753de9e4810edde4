/** Run native programs (`.lep`) of lstm-edge in browsers and in Node: the C library in WebAssembly. */

import { LstmEdgeError, messageOf, shown } from "./errors.js";
import { Library } from "./library.js";
import { Model } from "./model.js";

export { LstmEdgeError } from "./errors.js";
export { Model } from "./model.js";
export { SlidingStream } from "./sliding.js";
export { Stream } from "./stream.js";

/** @typedef {import("./errors.js").ErrorName} ErrorName */
/** @typedef {import("./manifest.js").Manifest} Manifest */
/** @typedef {import("./model.js").StreamOptions} StreamOptions */
/** @typedef {import("./ports.js").Port} Port */
/** @typedef {import("./results.js").Label} Label */
/** @typedef {import("./results.js").Result} Result */
/** @typedef {import("./samples.js").Samples} Samples */
/** @typedef {import("./stream.js").State} State */
/** @typedef {string | URL | Blob | ArrayBuffer | ArrayBufferView} Content a file: its URL (in Node also a path), or its bytes */

/** @type {Promise<WebAssembly.Module> | undefined} */
let compiled;

/**
 * Return the library, compiled once. An AudioWorklet can't fetch it: send it there and pass it to `load`.
 *
 * @returns {Promise<WebAssembly.Module>}
 */
export function compileLibrary() {
  compiled ??= read(new URL("lstm_edge.wasm", import.meta.url)).then(compile);
  compiled.catch(() => (compiled = undefined)); // the next call tries again
  return compiled;
}

/** @param {Uint8Array} bytes */
async function compile(bytes) {
  try {
    return await WebAssembly.compile(/** @type {BufferSource} */ (bytes));
  } catch (cause) {
    throw new LstmEdgeError("UnsupportedError", `the library can't be compiled here: ${messageOf(cause)}`);
  }
}

/**
 * Open a program.
 *
 * @param {Content} source a `.lep` file
 * @param {{library?: WebAssembly.Module}} [options] the library, if it can't be fetched here
 * @returns {Promise<Model>}
 */
export async function load(source, { library: module } = {}) {
  const [bytes, library] = await Promise.all([
    read(source),
    Promise.resolve(module ?? compileLibrary()).then(Library.open),
  ]);
  const { functions } = library;
  const program = library.allocated([bytes.length], ([address = 0]) => {
    new Uint8Array(library.buffer, address, bytes.length).set(bytes);
    return functions.lstm_edge_load(address, bytes.length) >>> 0;
  });
  if (!program) {
    throw new LstmEdgeError(
      "FileFormatError",
      `not a program of lstm-edge: ${library.lastError}; convert the file again`,
    );
  }
  return new Model(library, program);
}

/** Return the bytes of a file. @param {Content} source @returns {Promise<Uint8Array>} */
async function read(source) {
  if (ArrayBuffer.isView(source)) {
    return new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
  }
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  try {
    if (typeof Blob === "function" && source instanceof Blob)
      return new Uint8Array(await source.arrayBuffer());
    if (typeof source === "string" || source instanceof URL) return await readAt(source);
  } catch (cause) {
    const name = source instanceof Blob ? "the file" : source;
    throw new LstmEdgeError("NotFoundError", `${name} can't be read: ${messageOf(cause)}`);
  }
  throw new LstmEdgeError("InputError", `got ${shown(source)}, expected a URL or the bytes of a .lep file`);
}

/** @param {string | URL} address */
async function readAt(address) {
  const isNode = typeof process === "object" && Boolean(process.versions?.node);
  const isRemote = /^(https?|data|blob):/.test(String(address));
  if (isNode && !isRemote) {
    const { readFile } = await import("node:fs/promises");
    const isFileUrl = String(address).startsWith("file:");
    return new Uint8Array(await readFile(isFileUrl ? new URL(address) : address));
  }
  const response = await fetch(address);
  if (response.ok) return new Uint8Array(await response.arrayBuffer());
  throw new Error(`${response.status} ${response.statusText}`.trim());
}
