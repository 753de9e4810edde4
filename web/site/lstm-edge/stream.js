/** One source of samples, which owns its states. */

import { LstmEdgeError, shown } from "./errors.js";
import { only } from "./results.js";
import { readSamples } from "./samples.js";
import { Source } from "./source.js";

/** @import { Result } from "./results.js" */
/** @import { Samples } from "./samples.js" */
/** @import { Program } from "./source.js" */

/** Everything that a stream continues from; Python's `State` and the C library read and write the same bytes. @typedef {Uint8Array} State */

/** A stream; `Model.stream` opens it. An error leaves its state as it was. */
export class Stream {
  #program;
  #source;
  /** Room for a sample of the only input, if that is float32. @type {Float32Array | null} */
  #scratch = null;

  /**
   * @param {Program} program
   * @param {number} interval steps after which the state is reset; Infinity for never
   */
  constructor(program, interval) {
    this.#program = program;
    this.#source = new Source(program, interval);
    const [input] = program.inputs;
    const isOnlyFloat = program.inputs.length === 1 && input?.dtype === "float32";
    if (isOnlyFloat) this.#scratch = new Float32Array(input.width);
  }

  /**
   * Run one time step.
   *
   * @param {Samples} sample the numbers of one sample
   * @returns {Result}
   */
  step(sample) {
    if (this.#takeAtOnce(sample)) return this.#step();
    const { arrays } = readSamples(this.#program.inputs, sample, true);
    const { inputs } = this.#source;
    for (const [index, array] of arrays.entries()) inputs[index]?.set(/** @type {any} */ (array));
    return this.#step();
  }

  /**
   * Write a sample of the usual kind, numbers for the only float32 input; return false for any other.
   *
   * @param {Samples} sample
   */
  #takeAtOnce(sample) {
    const input = this.#source.inputs[0];
    const scratch = this.#scratch;
    if (!scratch || !input) return false;
    if (sample instanceof Float32Array) {
      if (sample.length !== scratch.length) return false;
      input.set(/** @type {any} */ (sample));
      return true;
    }
    if (!Array.isArray(sample) || sample.length !== scratch.length) return false;
    for (let index = 0; index < scratch.length; index += 1) {
      const value = sample[index];
      if (typeof value !== "number") return false;
      scratch[index] = value;
    }
    input.set(/** @type {any} */ (scratch));
    return true;
  }

  #step() {
    const { outputs } = this.#program;
    this.#source.step();
    if (outputs.length === 1) return this.#source.output(0);
    const results = [];
    for (let index = 0; index < outputs.length; index += 1) results.push(this.#source.output(index));
    return only(outputs, results);
  }

  /**
   * Run several time steps.
   *
   * @param {Samples} chunk one sample after another
   * @returns {Result} frames one after another, or the last step's output
   */
  process(chunk) {
    const { arrays, steps } = readSamples(this.#program.inputs, chunk, false);
    return only(this.#program.outputs, this.#source.chunk(arrays, steps));
  }

  /**
   * A copy of everything that the stream continues from, in the middle of a unit, too: plain bytes,
   * for files, `postMessage` and IndexedDB.
   *
   * @returns {State}
   */
  get state() {
    return this.#source.save();
  }

  /**
   * Continue from a state of this network.
   *
   * @param {State | ArrayBuffer} state
   */
  restore(state) {
    const isBytes = state instanceof Uint8Array || state instanceof ArrayBuffer;
    if (!isBytes) {
      throw new LstmEdgeError("StateError", `got ${shown(state)}, expected the bytes of a stream's state`);
    }
    this.#source.restore(new Uint8Array(state));
  }

  /** Reset all states. */
  reset() {
    this.#source.reset();
  }

  /** Free the stream's memory; it can't be used afterwards. */
  close() {
    this.#source.close();
  }
}
