/** An open program. */

import { LstmEdgeError, shown } from "./errors.js";
import { readManifest } from "./manifest.js";
import { INPUT, OUTPUT, portsOf, STATE } from "./ports.js";
import { framesOf, labelOf } from "./results.js";
import { SlidingStream } from "./sliding.js";
import { Stream } from "./stream.js";

/** @import { Library } from "./library.js" */
/** @import { Manifest } from "./manifest.js" */
/** @import { Port } from "./ports.js" */
/** @import { Label, Result } from "./results.js" */
/** @import { Program } from "./source.js" */

/**
 * How a stream treats its state; at most one of them.
 *
 * @typedef {object} StreamOptions
 * @property {number | "never"} [resetEvery] steps after which the state is reset; the file's `reset_every` if left out
 * @property {number} [window] run the last so many samples from the reset state at every step
 */

const NO_GOLDEN = 8;

/** An open program; `load` opens it. Its streams share it. */
export class Model {
  #library;
  /** The address of the program; 0 if it is closed. */
  #address;
  /** @type {Program} */
  #program;
  #warned = false;
  /** What the file says about itself. @readonly @type {Manifest} */
  manifest;
  /** @readonly @type {readonly Port[]} */
  inputs;
  /** @readonly @type {readonly Port[]} */
  outputs;
  /** @readonly @type {readonly Port[]} */
  states;
  /** Steps per result: 1 without strides. @readonly @type {number} */
  unit;
  /** Steps by which outputs lag behind the samples. @readonly @type {number} */
  delay;

  /**
   * @internal
   * @param {Library} library
   * @param {number} address of the program
   */
  constructor(library, address) {
    const { functions } = library;
    const text = functions.lstm_edge_manifest(address);
    if (!text) {
      throw new LstmEdgeError(
        "ManifestError",
        "the native program carries no manifest; convert the model again",
      );
    }
    this.#library = library;
    this.#address = address;
    this.manifest = readManifest(library.text(text));
    this.inputs = portsOf(library, address, INPUT, this.manifest);
    this.outputs = portsOf(library, address, OUTPUT, this.manifest);
    this.states = portsOf(library, address, STATE, this.manifest);
    this.unit = functions.lstm_edge_unit(address) >>> 0;
    this.delay = functions.lstm_edge_delay(address) >>> 0;
    this.#checkManifest();
    const frames = this.outputs.map((port) => (port.everyStep ? port.frames : 1));
    this.#program = {
      library,
      address,
      inputs: this.inputs,
      outputs: this.outputs,
      unit: this.unit,
      hasResultPerStep: this.unit === 1 && this.delay === 0 && frames.every((count) => count === 1),
    };
  }

  /** Throw if the program has other inputs, outputs or steps per result than its manifest says. */
  #checkManifest() {
    const { inputs, outputs, lengths, unit } = this.manifest;
    const data = inputs.filter(({ name }) => name !== lengths);
    const isAsDescribed =
      hasSameNames(data, this.inputs) && hasSameNames(outputs, this.outputs) && unit === this.unit;
    if (!isAsDescribed) {
      throw new LstmEdgeError(
        "FileFormatError",
        "the native program is not as its manifest says; convert the model again",
      );
    }
  }

  /** Class names, in the order of the task's output. @returns {readonly string[]} */
  get labels() {
    return this.manifest.task?.labels ?? [];
  }

  /** Units of predicted values. @returns {readonly string[]} */
  get units() {
    return this.manifest.task?.units ?? [];
  }

  /** Names of the input's features. @returns {readonly string[]} */
  get features() {
    return this.manifest.signal.features;
  }

  /** Samples per second, if known. @returns {number | null} */
  get samplingRate() {
    return this.manifest.signal.sampling_rate;
  }

  /** Steps after which a stream is reset, as in training; null for never. @returns {number | null} */
  get resetEvery() {
    return this.manifest.reset_every;
  }

  /** sha256 of the `.onnx` file that the program was made from. @returns {string} */
  get identity() {
    return this.manifest.identity;
  }

  /**
   * Open a stream at the reset state: one source of samples.
   *
   * @overload
   * @param {{resetEvery?: number | "never"}} [options]
   * @returns {Stream}
   */
  /**
   * Open a sliding window over the samples of one source.
   *
   * @overload
   * @param {{window: number}} options
   * @returns {SlidingStream}
   */
  /**
   * @param {StreamOptions} [options]
   * @returns {Stream | SlidingStream}
   */
  stream(options = {}) {
    this.#checkOpen();
    const { unstreamable, axes } = this.manifest;
    if (unstreamable)
      throw new LstmEdgeError("ContractError", `this file can't be streamed: ${unstreamable}`);
    const { resetEvery, window, ...others } = Object(options);
    const [unknown] = Object.keys(others);
    if (unknown !== undefined || typeof options !== "object") {
      throw new LstmEdgeError(
        "InputError",
        `unknown option ${shown(unknown ?? options)}, expected resetEvery or window`,
      );
    }
    if (window === undefined) return new Stream(this.#program, this.#interval(resetEvery));
    if (resetEvery !== undefined) {
      throw new LstmEdgeError(
        "InputError",
        "a sliding window starts from reset at every step; remove resetEvery",
      );
    }
    return new SlidingStream(this.#program, window, axes.sequence !== null);
  }

  /** Return the steps after which a stream is reset; Infinity for never. @param {unknown} resetEvery */
  #interval(resetEvery) {
    if (resetEvery === undefined) return this.#defaultInterval();
    if (resetEvery === "never") return Infinity;
    const isNumber = typeof resetEvery === "number" && Number.isSafeInteger(resetEvery) && resetEvery >= 1;
    if (isNumber) return resetEvery;
    throw new LstmEdgeError(
      "InputError",
      `resetEvery is ${shown(resetEvery)}, expected a whole number from 1, or "never"`,
    );
  }

  /** Return the file's reset interval, and say so the first time. */
  #defaultInterval() {
    const interval = this.manifest.reset_every;
    if (interval === null) return Infinity;
    if (!this.#warned) {
      console.warn(
        `the state is reset every ${interval} steps, the training window; pass resetEvery: ${interval} to confirm, or resetEvery: "never" to carry it on`,
      );
    }
    this.#warned = true;
    return interval;
  }

  /** Replay the golden case in the file. @returns {{ok: boolean, worst: number}} worst: the largest difference as a fraction of its limit */
  selftest() {
    this.#checkOpen();
    const library = this.#library;
    return library.allocated([8], ([address = 0]) => {
      const status = library.functions.lstm_edge_selftest(this.#address, address);
      library.check(status, status === NO_GOLDEN ? "InputError" : "FileFormatError");
      const [worst = NaN] = new Float64Array(library.buffer, address, 1);
      return { ok: worst <= 1, worst };
    });
  }

  /**
   * Return the frames of the main output in a stream's result: the task's output, or the first one.
   *
   * @param {Result} result
   * @returns {ArrayLike<number>[]} none if the result is null
   */
  frames(result) {
    return framesOf(this.manifest, this.outputs, result);
  }

  /**
   * Return the label and the probabilities of the last frame in a stream's result.
   *
   * @param {Result | ArrayLike<number>} result
   * @returns {Label}
   */
  interpret(result) {
    const last = framesOf(this.manifest, this.outputs, result).at(-1);
    if (last) return labelOf(this.manifest, last);
    throw new LstmEdgeError(
      "InputError",
      "got a result without a frame, expected logits; skip the null that a stream returns until its first frame",
    );
  }

  #checkOpen() {
    if (!this.#address) throw new LstmEdgeError("StateError", "this model is closed; load it again");
  }

  /** Free the program; streams that are open keep it until they are closed. */
  close() {
    this.#library.functions.lstm_edge_free(this.#address);
    this.#address = 0;
  }
}

/** @param {readonly {name: string}[]} specs @param {readonly Port[]} ports */
function hasSameNames(specs, ports) {
  return specs.length === ports.length && specs.every(({ name }, index) => name === ports[index]?.name);
}
