/**
 * lstm-edge in the browser and in Node: a recurrent ONNX file that carries its own contract, run step by step.
 *
 * @module
 */

import { firstLine, LstmEdgeError } from "./errors.js";
import { isOrtFormat } from "./file.js";
import { readManifest } from "./manifest.js";
import { Model } from "./model.js";
import { Stream } from "./stream.js";
import { inTurn } from "./turns.js";

/** @import { Ort } from "./model.js" */
/** @typedef {import("./arrays.js").NamedArray} NamedArray */
/** @typedef {import("./arrays.js").TypedArray} TypedArray */
/** @typedef {import("./errors.js").Cause} Cause */
/** @typedef {import("./model.js").Interpretation} Interpretation */
/** @typedef {import("./model.js").Result} Result */
/** @typedef {import("./model.js").Samples} Samples */
/** @typedef {import("./model.js").State} State */
/** @typedef {import("./selftest.js").Comparison} Comparison */
/** @typedef {import("./selftest.js").SelfTest} SelfTest */
/**
 * @typedef {object} LoadOptions
 * @property {Ort} [ort] the module of onnxruntime-web or onnxruntime-node; by default the one that is installed
 * @property {"cpu" | "webgpu"} [device] `cpu` is WebAssembly in a browser; `webgpu` needs `onnxruntime-web/webgpu`
 * @property {number} [threads] of one operator; 1 for files below 8 MiB and int8, else up to 4. onnxruntime-web
 *   uses the number of the first file in a page, and 1 in a page that is not cross-origin isolated
 */

export { LstmEdgeError, Model, Stream };

const SMALL = 8 * 2 ** 20;

/**
 * Open a model file.
 *
 * @param {string | URL | ArrayBuffer | Uint8Array | Blob} source a URL, in Node also a path; or the file's bytes
 * @param {LoadOptions} [options]
 * @returns {Promise<Model>}
 * @throws {LstmEdgeError} NotFoundError, FileFormatError, ManifestError, ContractError, ProviderError,
 *   MissingDependencyError, InputError
 */
export async function load(source, { ort, device = "cpu", threads } = {}) {
  if (device !== "cpu" && device !== "webgpu") {
    throw new LstmEdgeError("InputError", `device is ${String(device)}, expected 'cpu' or 'webgpu'`);
  }
  const bytes = await read(source), manifest = readManifest(bytes), backend = ort ?? (await installed());
  if (device === "webgpu") await checkGpu(bytes);
  const one = bytes.length < SMALL || manifest.precision === "int8";
  const intraOpNumThreads = threads ?? (one ? 1 : Math.min(4, globalThis.navigator?.hardwareConcurrency ?? 1));
  if (backend.env.wasm) backend.env.wasm.numThreads = globalThis.crossOriginIsolated === false ? 1 : intraOpNumThreads;
  const options = { executionProviders: [device], intraOpNumThreads, logSeverityLevel: 3 };
  const session = await inTurn(() => backend.InferenceSession.create(bytes, options)).catch((cause) => {
    const instead = isOrtFormat(bytes) || manifest.precision !== "fp32" ? "load the float32 .onnx file that it was made from" : "copy or export it again";
    throw new LstmEdgeError("FileFormatError", `onnxruntime can't open the file (${firstLine(cause)}); ${instead}`, { cause });
  });
  const identity = (isOrtFormat(bytes) && manifest.identity) || (await digest(bytes));
  const file = { identity, bytes: bytes.length, device };
  try {
    return new Model(backend, session, manifest, file);
  } catch (error) {
    await inTurn(() => session.release());
    throw error;
  }
}

/** @param {Uint8Array} bytes */
async function checkGpu(bytes) {
  const gpu = /** @type {any} */ (globalThis.navigator)?.gpu;
  if (!(await gpu?.requestAdapter())) throw new LstmEdgeError("ProviderError", "WebGPU is not to be had here; use device 'cpu'");
  // onnxruntime-web 1.30 opens such a file and fails in its first call
  if (isOrtFormat(bytes)) throw new LstmEdgeError("ProviderError", "an .ort file can't run on WebGPU; load the .onnx file that it was made from, or use device 'cpu'");
}

/** @param {string | URL | ArrayBuffer | Uint8Array | Blob} source */
async function read(source) {
  if (source instanceof Uint8Array) return source;
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  try {
    if (source instanceof Blob) return new Uint8Array(await source.arrayBuffer());
    if (typeof source !== "string" && !(source instanceof URL)) {
      throw new LstmEdgeError("InputError", `the source is ${source === null ? "null" : typeof source}, expected a URL, a path or a file's bytes`);
    }
    const files = globalThis.process?.getBuiltinModule?.("node:fs/promises");
    if (files && !/^(https?|data|blob):/.test(String(source))) {
      const path = String(source).startsWith("file:") ? new URL(source) : source;
      return new Uint8Array(await files.readFile(path));
    }
    const response = await fetch(source);
    if (response.ok) return new Uint8Array(await response.arrayBuffer());
    throw new Error(`${response.status} ${response.statusText}`);
  } catch (cause) {
    if (cause instanceof LstmEdgeError) throw cause;
    const name = source instanceof Blob ? "the file" : String(source);
    throw new LstmEdgeError("NotFoundError", `${name} can't be read: ${firstLine(cause)}; name an .onnx or .ort file`, { cause });
  }
}

/** Import the onnxruntime that package.json's imports name. @returns {Promise<Ort>} */
async function installed() {
  // onnxruntime's Linux builds send telemetry unless this is set
  if (globalThis.process?.env) process.env.ORT_DISABLE_TELEMETRY ??= "1";
  try {
    return await import("#ort");
  } catch (cause) {
    const name = globalThis.process?.versions?.node ? "onnxruntime-node" : "onnxruntime-web";
    throw new LstmEdgeError("MissingDependencyError", `${name} is not here: npm install ${name}, or give load() its module as 'ort'`, { cause });
  }
}

/** @param {Uint8Array} bytes @returns {Promise<string>} */
async function digest(bytes) {
  // pages that are not served over https have no subtle crypto: their states are good for this model object only
  if (!globalThis.crypto?.subtle) return `unhashed-${Math.random().toString(36).slice(2)}`;
  const hash = await crypto.subtle.digest("SHA-256", /** @type {Uint8Array<ArrayBuffer>} */ (bytes));
  return Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
