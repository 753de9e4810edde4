/** The manifest: the contract that a model file carries (docs/artifact.md describes it). */

import { decodeArray, hasKind, isDtype, mapValues } from "./arrays.js";
import { LstmEdgeError } from "./errors.js";
import { manifestText } from "./file.js";

/** @import { AxisRange, NamedArray, TensorSpec } from "./arrays.js" */
/**
 * @typedef {object} StateSpec
 * @property {string} input the graph input that the state enters by
 * @property {string} output the graph output that it leaves by
 * @property {string} dtype
 * @property {readonly (number | string)[]} axes
 * @property {number | null} batch_axis
 * @property {number | NamedArray} reset a number for every element, or an array with 1 in the batch axis's place
 */
/** @typedef {Record<string, NamedArray>} Arrays */
/**
 * @typedef {object} Golden
 * @property {Arrays} inputs
 * @property {Arrays} outputs
 * @property {Record<string, number>} floor per output: the reference's own rounding error
 * @property {Record<string, number>} limit per output: an absolute limit that replaces the policy's
 * @property {Record<string, {shape: number[], values: number[]}>} [limits] per output: the policy's limits, one a channel,
 *   that broadcast against it; files made before have none
 * @property {Golden[]} [more] further cases, of other sizes
 */
/**
 * @typedef {object} Manifest
 * @property {readonly TensorSpec[]} inputs that are not states, `lengths` among them
 * @property {readonly TensorSpec[]} outputs that are not states
 * @property {{batch: string | null, sequence: string | null, ranges?: Record<string, AxisRange>}} axes
 * @property {readonly StateSpec[]} states
 * @property {string | null} lengths the input with each row's count of valid steps
 * @property {string} [identity] of the .onnx file that a converted file was made from
 * @property {string} unstreamable why chunks with carried states do not equal the whole sequence; else empty
 * @property {number} [unit] a call takes a multiple of this number of steps
 * @property {Record<string, number>} [delays] delay of each output that has one, in its frames; in units without a time axis
 * @property {{kind: string, output: string, labels: string[], units: string[]} | null} task
 * @property {{features: string[], sampling_rate: number | null, window: number | null}} signal
 * @property {{carry: boolean, window: number | null, reset: number}} [trained] whether training carried states from window to
 *   window; files made before have none
 * @property {string} precision `fp32`, `fp64`, `fp16` or `int8`
 * @property {Record<string, unknown>} provenance
 * @property {Record<string, unknown>} equivalence
 * @property {Golden | null} golden
 */

const SCHEMA = 3;

/** @typedef {(value: any) => boolean} Check */
/** @type {Check} */ const isText = (value) => typeof value === "string";
/** @type {Check} */ const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
/** @type {Check} */ const isMap = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
/** @type {Check} */ const isSize = (value) => Number.isInteger(value) && value > 0 && value < 2 ** 31;
/** @type {Check} */ const isAxis = (value) => isText(value) || isSize(value);
/** @type {(check: Check) => Check} */ const or = (check) => (value) => value === null || check(value);
/** @type {(check: Check) => Check} */ const optional = (check) => (value) => value === undefined || check(value);
/** @type {(check: Check) => Check} */ const list = (check) => (value) => Array.isArray(value) && value.every(check);
/** @type {(check: Check) => Check} */ const mapOf = (check) => (value) => isMap(value) && Object.values(value).every(check);
/** @type {(checks: Record<string, Check>) => Check} */
const fields = (checks) => (value) => isMap(value) && Object.entries(checks).every(([name, check]) => check(value[name]));

/** @type {Check} */ const isArray = fields({ dtype: isDtype, shape: list((size) => Number.isInteger(size) && size >= 0), data: isText });
const golden = {
  inputs: mapOf(isArray), outputs: mapOf(isArray), floor: mapOf(isNumber), limit: mapOf(isNumber),
  limits: optional(mapOf(fields({ shape: list(Number.isInteger), values: list(isNumber) }))),
};
const tensor = { dtype: isDtype, axes: list(isAxis) };
/** @type {Check} */ const isCount = (value) => value === 0 || isSize(value);
const states = list(fields({
  input: isText, output: isText, ...tensor, batch_axis: or(Number.isInteger), reset: (value) => isNumber(value) || isArray(value),
}));
/** @type {Record<string, Check>} */
const CHECKS = {
  inputs: list(fields({ name: isText, ...tensor })),
  outputs: list(fields({ name: isText, ...tensor })),
  states,
  axes: fields({ batch: or(isText), sequence: or(isText), ranges: optional(mapOf(fields({ least: isSize, most: or(isSize), multiple: isSize }))) }),
  lengths: or(isText),
  identity: optional(isText),
  unstreamable: isText,
  unit: optional(isSize),
  delays: optional(mapOf(isCount)),
  task: or(fields({ kind: isText, output: isText, labels: list(isText), units: list(isText) })),
  signal: fields({
    features: list(isText),
    sampling_rate: or((value) => isNumber(value) && value > 0),
    window: or(isNumber),
  }),
  trained: optional(fields({
    carry: (value) => typeof value === "boolean", window: or(isSize), reset: (value) => isNumber(value) && value >= 0 && value <= 1,
  })),
  precision: isText,
  provenance: isMap,
  equivalence: isMap,
  golden: or(fields({ ...golden, more: optional(list(fields(golden))) })),
};

/**
 * Return the manifest in a model file's bytes.
 *
 * @param {Uint8Array} bytes
 * @returns {Manifest}
 * @throws {LstmEdgeError} FileFormatError: no model file; ManifestError: no manifest, a newer or a malformed
 *   one; ProviderError: it has numbers that this engine has no array for
 * @internal
 */
export function readManifest(bytes) {
  const text = manifestText(bytes);
  if (text === undefined) {
    throw refused("the file carries no manifest; make one that does: lstm-edge lift FILE -o NEW.onnx");
  }
  /** @type {any} */
  let raw;
  try {
    raw = JSON.parse(text);
  } catch (cause) {
    throw refused("the manifest is not JSON; export the model again", cause);
  }
  if (!isMap(raw) || !Number.isInteger(raw.schema)) throw refused("the manifest has no integer 'schema'; export the model again");
  if (raw.schema < 1) throw refused(`the manifest has schema ${raw.schema}, expected 1 to ${SCHEMA}; export the model again`);
  if (raw.schema > SCHEMA) {
    throw refused(`the manifest has schema ${raw.schema}, this version reads ${SCHEMA}; upgrade lstm-edge`);
  }
  const wrong = Object.keys(CHECKS).find((name) => !CHECKS[name]?.(raw[name]));
  if (wrong) throw refused(`the manifest is malformed at '${wrong}'; export the model again`);
  const missing = [...raw.inputs, ...raw.outputs, ...raw.states].find((spec) => !hasKind(spec.dtype));
  if (missing) {
    throw new LstmEdgeError(
      "ProviderError",
      `the file has ${missing.dtype} inputs, which this JavaScript engine has no array for; ` +
        "use the float32 file, or make one with float32 inputs: lstm-edge quantize FILE --precision fp16 --keep-io -o NEW.onnx",
    );
  }
  try {
    return decoded(raw);
  } catch (cause) {
    throw refused("an array in the manifest is malformed; export the model again", cause);
  }
}

/** Return ``raw`` with the arrays of its states and its golden cases. @param {any} raw @returns {any} */
const decoded = (raw) => ({
  ...raw,
  states: raw.states.map((/** @type {any} */ state) => ({ ...state, reset: isMap(state.reset) ? decodeArray(state.reset) : state.reset })),
  golden: raw.golden && { ...decodeGolden(raw.golden), more: raw.golden.more?.map(decodeGolden) ?? [] },
});

/** @param {any} raw @returns {Golden} */
const decodeGolden = (raw) => ({ ...raw, inputs: mapValues(raw.inputs, decodeArray), outputs: mapValues(raw.outputs, decodeArray) });

/** Return the names of all tensors that go in and come out. @param {Manifest} manifest @internal */
export const tensorNames = ({ inputs, outputs, states }) => ({
  inputs: [...inputs.map(({ name }) => name), ...states.map(({ input }) => input)],
  outputs: [...outputs.map(({ name }) => name), ...states.map(({ output }) => output)],
});

/** @param {readonly string[]} left @param {readonly string[]} right @internal */
export const isSame = (left, right) => [...left].sort().join() === [...right].sort().join();

/**
 * @param {string} message
 * @param {unknown} [cause]
 */
const refused = (message, cause) => new LstmEdgeError("ManifestError", message, { cause });
