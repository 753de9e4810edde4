/** A model opened for running. */

import { filled, fit, mapValues, product, repeat, shapeOf, toArray, toNamed } from "./arrays.js";
import { firstLine, LstmEdgeError } from "./errors.js";
import { isSame, tensorNames } from "./manifest.js";
import { replayGolden } from "./selftest.js";
import { Stream } from "./stream.js";
import { inTurn } from "./turns.js";

/** @import { AxisRange, NamedArray, Sizes, TensorSpec, TypedArray } from "./arrays.js" */
/** @import { Arrays, Manifest } from "./manifest.js" */
/** @import { SelfTest } from "./selftest.js" */
/**
 * As much of onnxruntime-web's and onnxruntime-node's module as this package uses.
 *
 * @typedef {object} Ort
 * @property {{create(bytes: Uint8Array, options?: any): Promise<any>}} InferenceSession
 * @property {new (type: any, data: any, dims: readonly number[]) => any} Tensor
 * @property {any} env
 */
/** @typedef {{dims: readonly number[], data: TypedArray, dispose(): void}} OrtTensor */
/** @typedef {Record<string, OrtTensor>} Feeds */
/** @typedef {ArrayLike<number> | ArrayLike<bigint>} Numbers */
/** @typedef {Numbers | Record<string, Numbers>} Samples numbers of the only input, or of each input by its name */
/**
 * The state between two calls. It can be cloned (`postMessage`, IndexedDB). `age`: time steps since it was at reset, of
 * a batch those of the longest row; states kept before have none. `rest`: the last samples, which don't fill a unit yet.
 *
 * @typedef {{identity: string, arrays: Arrays, age?: number, rest?: Arrays}} State
 */
/** @typedef {TypedArray | Record<string, TypedArray>} Result of the only output, or of each output by its name */
/**
 * @typedef {object} Interpretation
 * @property {string} [label] the most likely class; undefined if a logit is NaN
 * @property {Float64Array} [probabilities] softmax of the logits, for classification
 * @property {readonly string[]} [units] of the values, for regression
 */

/** A model file opened for running; `load` makes it. It never changes; any number of streams share it. */
export class Model {
  /** The file's whole contract. @readonly @type {Manifest} */ manifest;
  /** sha256 in hex of the .onnx file, or of the one that an .ort file was made from: a state belongs to its network. @readonly @type {string} */ identity;
  /** Size of the file. @readonly @type {number} */ bytes;
  /** The inputs that are neither states nor lengths. @internal @readonly @type {TensorSpec[]} */ _data;
  /** The input for lengths. @internal @readonly @type {TensorSpec | undefined} */ _valid;
  #ort;
  #session;
  #device;
  /** Whether a stream was opened that warned of its states. */
  #told = false;

  /**
   * @internal
   * @param {Ort} ort
   * @param {any} session
   * @param {Manifest} manifest
   * @param {{identity: string, bytes: number, device: string}} file
   */
  constructor(ort, session, manifest, file) {
    this.#ort = ort;
    this.#session = session;
    this.manifest = manifest;
    this.identity = file.identity;
    this.bytes = file.bytes;
    this.#device = file.device;
    this._data = manifest.inputs.filter(({ name }) => name !== manifest.lengths);
    this._valid = manifest.inputs.find(({ name }) => name === manifest.lengths);
    const { inputs, outputs } = tensorNames(manifest);
    checkNames("inputs", session.inputNames, inputs);
    checkNames("outputs", session.outputNames, outputs);
    Object.freeze(this);
  }

  /** Class names in the order of the logits; empty if the file has none. */
  get labels() {
    return this.manifest.task?.labels ?? [];
  }

  /** The unit of each predicted value; empty if unknown. */
  get units() {
    return this.manifest.task?.units ?? [];
  }

  /** The names of a sample's values. */
  get features() {
    return this.manifest.signal.features;
  }

  /** Hertz; null if unknown. */
  get samplingRate() {
    return this.manifest.signal.sampling_rate;
  }

  /** Why the file can't be streamed; empty if it can. */
  get unstreamable() {
    const { unstreamable, states, unit = 1 } = this.manifest;
    return unstreamable || (states.length || unit > 1 ? "" : "it carries no states");
  }

  /** Steps after which a stream is reset, as in training; null for never. */
  get resetEvery() {
    const { trained, states } = this.manifest;
    return states.length && !trained?.carry ? this.#window : null;
  }

  /** Time steps of a training window; null if unknown. */
  get #window() {
    const { trained, signal } = this.manifest;
    return trained ? trained.window : signal.window;
  }

  /**
   * Open a stream: one source of samples, which owns its state.
   *
   * @param {{resetEvery?: number | "window" | "never"}} [options] steps after which it starts again from the reset state:
   *   a number; `"window"`, the window that the network was trained on; or `"never"`, which is the default, with a
   *   warning on the console, once, if each training window started from reset
   * @throws {LstmEdgeError} ContractError: the file can't be streamed; the message says why. InputError: `resetEvery` is none
   *   of these, or the window is not known
   */
  stream({ resetEvery } = {}) {
    if (this.unstreamable) {
      throw new LstmEdgeError(
        "ContractError", `this file can't be streamed: ${this.unstreamable}; use model.run() on whole sequences`,
      );
    }
    if (resetEvery === undefined && this.resetEvery && !this.#told) {
      this.#told = true;
      console.warn(
        `each window of ${this.resetEvery} steps in this file's training started from reset, and states that live longer were never ` +
          'trained; use model.stream({ resetEvery: "window" }), or "never" to carry them on',
      );
    }
    return new Stream(this, this.#every(resetEvery ?? "never"));
  }

  /** @param {number | "window" | "never"} given @returns {number} */
  #every(given) {
    if (given === "never") return Infinity;
    if (given === "window" && this.#window === null) {
      throw new LstmEdgeError("InputError", "this file has no training window; give the number of steps, such as resetEvery: 100");
    }
    const every = given === "window" ? this.#window : given;
    if (typeof every === "number" && Number.isSafeInteger(every) && every > 0) return every;
    throw new LstmEdgeError("InputError", `resetEvery is ${given}, expected a positive integer, 'window' or 'never'`);
  }

  /**
   * Run whole sequences.
   *
   * @param {Samples} x row-major, for example `(N, L, I)`
   * @param {{batch?: number, state?: State, lengths?: Numbers}} [options] the number of sequences (1), where to
   *   start from (the reset values), and each row's count of valid steps (all)
   * @returns {Promise<{outputs: Arrays, state: State}>}
   * @throws {LstmEdgeError} InputError, StateError, ContractError
   */
  async run(x, { batch = 1, state, lengths } = {}) {
    if (!(Number.isInteger(batch) && batch > 0)) throw new LstmEdgeError("InputError", `batch is ${batch}, expected a positive integer`);
    if (batch > 1 && this.manifest.axes.batch === null) throw new LstmEdgeError("InputError", `batch is ${batch}, but this file has one sequence per call`);
    const sizes = this._sizes({ batch }), feeds = this._feeds(x, sizes, lengths);
    const start = state ? this._admit(state, sizes) : this._start(sizes);
    const { outputs, states } = await inTurn(() => this._call({ ...feeds, ...start }));
    const steps = lengths ? Math.max(...Array.from(lengths, Number)) : this._steps(feeds);
    return { outputs: mapValues(outputs, toNamed), state: this._toState(states, (state?.age ?? 0) + steps) };
  }

  /**
   * Interpret the main output.
   *
   * @param {TypedArray} values logits, or predicted values, of one row
   * @returns {Interpretation}
   */
  interpret(values) {
    if (this.manifest.task?.kind !== "classification") return { units: this.units };
    const logits = Float64Array.from(/** @type {ArrayLike<number>} */ (values), Number), top = Math.max(...logits);
    const exps = logits.map((value) => Math.exp(value - top)), sum = exps.reduce((left, right) => left + right, 0);
    const best = logits.indexOf(top), probabilities = exps.map((value) => value / sum);
    return best < 0 ? { probabilities } : { label: this.labels[best] ?? String(best), probabilities };
  }

  /**
   * Replay the golden cases in the file on this device: whole, in two chunks and step by step with carried states.
   *
   * @returns {Promise<SelfTest>}
   * @throws {LstmEdgeError} InputError: the file carries no golden case
   */
  async selftest() {
    const golden = this.manifest.golden;
    if (!golden) throw new LstmEdgeError("InputError", "this file has no golden case; export it again with lstm-edge export");
    return replayGolden(this, golden);
  }

  /** Free the session's memory; the model and its streams can't be used afterwards. */
  async close() {
    await inTurn(() => this.#session.release());
  }

  /** @internal @param {{batch?: number, steps?: number}} known @returns {Sizes} */
  _sizes({ batch = 1, steps }) {
    const sizes = new Map(), { batch: batchAxis, sequence } = this.manifest.axes;
    if (batchAxis !== null) sizes.set(batchAxis, batch);
    if (sequence !== null && steps !== undefined) sizes.set(sequence, steps);
    return sizes;
  }

  /** @internal @param {Feeds} feeds @returns {number} the time steps of a call; 1 if no input has a time axis */
  _steps(feeds) {
    for (const { name, axes } of this._data) {
      const axis = axes.indexOf(this.manifest.axes.sequence ?? "");
      if (axis >= 0) return feeds[name]?.dims[axis] ?? 1;
    }
    return 1;
  }

  /** @internal @param {Samples} x @returns {Record<string, unknown>} numbers by input name */
  _named(x) {
    const names = this._data.map(({ name }) => name), isMapping = typeof x === "object" && x !== null && !ArrayBuffer.isView(x) && !Array.isArray(x);
    if (!isMapping) {
      if (names.length === 1) return { [/** @type {string} */ (names[0])]: x };
      throw new LstmEdgeError("InputError", `expected an object with ${names.join(", ")}; got one array`);
    }
    const came = Object.keys(x);
    if (came.length === names.length && names.every((name) => Object.hasOwn(x, name))) return { ...x };
    throw new LstmEdgeError("InputError", `expected the inputs ${names.join(", ")}; got ${came.join(", ") || "none"}`);
  }

  /**
   * Check and copy a caller's arrays, and add the sizes of their named axes to `sizes`.
   *
   * @internal
   * @param {Samples} x
   * @param {Sizes} sizes
   * @param {Numbers} [lengths]
   * @param {Record<string, AxisRange>} [ranges] the sizes that axes may have
   * @returns {Feeds}
   */
  _feeds(x, sizes, lengths, ranges = this.manifest.axes.ranges) {
    const named = this._named(x);
    /** @type {Feeds} */
    const feeds = {};
    for (const spec of this._data) {
      const data = toArray(spec.name, named[spec.name], spec.dtype);
      feeds[spec.name] = this._tensor({ dtype: spec.dtype, dims: fit(spec, data.length, sizes, ranges), data });
    }
    if (this._valid) feeds[this._valid.name] = this._lengths(this._valid, sizes, lengths);
    else if (lengths) throw new LstmEdgeError("InputError", "got lengths, but this file has no such input; export it with lengths");
    return feeds;
  }

  /** @internal @param {TensorSpec} spec @param {Sizes} sizes @param {Numbers} [lengths] */
  _lengths(spec, sizes, lengths) {
    const longest = sizes.get(this.manifest.axes.sequence ?? "") ?? Infinity, dims = shapeOf(spec.axes, sizes);
    if (!lengths && longest === Infinity) {
      throw new LstmEdgeError("InputError", `no ${spec.name} came, and this file's time axis is fixed; give run() one per row`);
    }
    const data = lengths ? toArray(spec.name, lengths, spec.dtype) : filled(spec.dtype, product(dims), longest);
    const values = Array.from(data, Number);
    if (values.length !== product(dims) || !values.every((value) => value >= 1 && value <= longest)) {
      throw new LstmEdgeError("InputError", `${spec.name} is [${values.slice(0, 8).join(", ")}], expected ${product(dims)} of 1 to ${longest}`);
    }
    return this._tensor({ dtype: spec.dtype, dims, data });
  }

  /** @internal @param {NamedArray} array @returns {OrtTensor} */
  _tensor({ dtype, dims, data }) {
    return new this.#ort.Tensor(dtype, data, dims);
  }

  /** @internal @param {Sizes} sizes @returns {Feeds} the reset values by state input */
  _start(sizes) {
    return Object.fromEntries(this.manifest.states.map((spec) => {
      const dims = shapeOf(spec.axes, sizes);
      if (typeof spec.reset === "number") {
        return [spec.input, this._tensor({ dtype: spec.dtype, dims, data: filled(spec.dtype, product(dims), spec.reset) })];
      }
      const axis = spec.batch_axis, rows = axis === null ? spec.reset : repeat(spec.reset, axis, /** @type {number} */ (dims[axis]));
      if (String(rows.dims) !== String(dims)) {
        throw new LstmEdgeError("ManifestError", `state ${spec.input} has a reset value of shape (${spec.reset.dims}); export the model again`);
      }
      return [spec.input, this._tensor({ ...rows, dims, data: toArray(spec.input, rows.data, spec.dtype) })];
    }));
  }

  /** @internal @param {State} state @param {Sizes} sizes @returns {Feeds} the state's arrays, copied, if they are this model's */
  _admit(state, sizes) {
    if (state?.identity !== this.identity) {
      throw new LstmEdgeError(
        "StateError", `the state is of model ${String(state?.identity).slice(0, 12)}, expected one of ${this.identity.slice(0, 12)}`,
      );
    }
    if (!(Number.isSafeInteger(state.age ?? 0) && (state.age ?? 0) >= 0)) {
      throw new LstmEdgeError("StateError", `the state is of age ${state.age}, expected a whole number of steps from 0`);
    }
    return Object.fromEntries(this.manifest.states.map((spec) => {
      const dims = shapeOf(spec.axes, sizes), array = state.arrays[spec.input];
      if (array?.dtype !== spec.dtype || String(array.dims) !== String(dims) || array.data.length !== product(dims)) {
        throw new LstmEdgeError(
          "StateError", `state ${spec.input} has shape (${array?.dims}), expected (${dims}) ${spec.dtype}; nothing is reset automatically`,
        );
      }
      return [spec.input, this._tensor({ ...array, data: toArray(spec.input, array.data, spec.dtype) })];
    }));
  }

  /** @internal @param {Feeds} states by state input @param {number} age @param {Feeds} [rest] @returns {State} */
  _toState(states, age, rest) {
    const copied = (/** @type {Feeds} */ feeds) => mapValues(feeds, (tensor) => ({ ...toNamed(tensor), data: tensor.data.slice() }));
    return { identity: this.identity, age, arrays: copied(states), ...(rest && { rest: copied(rest) }) };
  }

  /**
   * Run the session.
   *
   * @internal
   * @param {Feeds} feeds every graph input
   * @returns {Promise<{outputs: Feeds, states: Feeds}>} the outputs by name, the new states by state input
   */
  async _call(feeds) {
    /** @type {Feeds} */
    let fetched;
    try {
      fetched = await this.#session.run(feeds);
    } catch (cause) {
      const advice = this.#device === "cpu" ? "" : "; load the file with device 'cpu'";
      throw new LstmEdgeError("ContractError", `onnxruntime refused the call: ${firstLine(cause)}${advice}`, { cause });
    }
    const states = Object.fromEntries(this.manifest.states.map((spec) => {
      const before = /** @type {OrtTensor} */ (feeds[spec.input]), after = /** @type {OrtTensor} */ (fetched[spec.output]);
      if (String(before.dims) !== String(after.dims)) {
        throw new LstmEdgeError("ContractError", `state ${spec.input} went in as (${before.dims}) and came out as (${after.dims}); export the model again`);
      }
      return [spec.input, after];
    }));
    return { outputs: Object.fromEntries(this.manifest.outputs.map(({ name }) => [name, /** @type {OrtTensor} */ (fetched[name])])), states };
  }
}

/** @param {string} role @param {readonly string[]} found @param {readonly string[]} declared */
function checkNames(role, found, declared) {
  if (!isSame(found, declared)) {
    throw new LstmEdgeError("ContractError", `the graph has the ${role} ${found.join(", ")}, the manifest ${declared.join(", ")}; export the model again`);
  }
}
