/** A sliding window: every result is computed from the last samples and the reset state. */

import { LstmEdgeError, shown } from "./errors.js";
import { MAX_BYTES } from "./library.js";
import { arrayClass, elementSize } from "./ports.js";
import { only } from "./results.js";
import { readSamples } from "./samples.js";
import { Source } from "./source.js";

/** @import { Port, Numbers } from "./ports.js" */
/** @import { Result } from "./results.js" */
/** @import { Samples } from "./samples.js" */
/** @import { Program } from "./source.js" */

/**
 * One source of samples; `Model.stream({window})` opens it. A step runs the full window. An error
 * leaves the samples as they were.
 */
export class SlidingStream {
  #program;
  #source;
  #input;
  #window;
  /** The last samples, at most a window. @type {Numbers} */
  #samples;

  /**
   * @param {Program} program
   * @param {unknown} window steps
   * @param {boolean} hasSequence true if the file has a time axis
   */
  constructor(program, window, hasSequence) {
    const [input] = program.inputs;
    if (!hasSequence || !input || program.inputs.length !== 1) {
      throw new LstmEdgeError(
        "InputError",
        "a window requires a file with one input that has a sequence axis",
      );
    }
    this.#program = program;
    this.#input = input;
    this.#window = checkedWindow(window, program.unit, input);
    this.#samples = new (arrayClass(input))(0);
    this.#source = new Source(program);
    this.#checkResults();
  }

  /** Throw if a full window gives no frame, because of the delay. */
  #checkResults() {
    const { width } = this.#input;
    const zeros = new (arrayClass(this.#input))(this.#window * width);
    const results = this.#run(zeros);
    const { outputs } = this.#program;
    const missing = outputs.find((_, index) => !results[index]);
    if (!missing) return;
    this.#source.close();
    throw new LstmEdgeError(
      "InputError",
      `window is ${this.#window}, which is not longer than the delay of ${missing.name}; use a longer one`,
    );
  }

  /**
   * Take one time step.
   *
   * @param {Samples} sample the numbers of one sample
   * @returns {Result} the result at the end of the window; null until it is full
   */
  step(sample) {
    return this.#take(readSamples(this.#program.inputs, sample, true).arrays);
  }

  /**
   * Take several time steps.
   *
   * @param {Samples} chunk one sample after another
   * @returns {Result} the result after the last of them; null until the window is full
   */
  process(chunk) {
    return this.#take(readSamples(this.#program.inputs, chunk, false).arrays);
  }

  /** Run the window that ends with new samples, then keep it. @param {readonly Numbers[]} arrays */
  #take([added]) {
    const length = this.#window * this.#input.width;
    const all = joined(this.#input, this.#samples, /** @type {Numbers} */ (added));
    const window = all.subarray(Math.max(0, all.length - length));
    const isFull = window.length === length;
    // a whole number may be outside a table, which only the library knows
    const isRun = isFull || this.#input.dtype !== "float32";
    const results = isRun ? this.#run(window) : [];
    this.#source.reset();
    this.#samples = window;
    if (!isFull) return null;
    const { outputs } = this.#program;
    return only(
      outputs,
      results.map((result, index) => result && result.slice(-(outputs[index]?.width ?? 0))),
    );
  }

  /** Run samples from the reset state. @param {Numbers} samples */
  #run(samples) {
    this.#source.reset();
    return this.#source.chunk([samples], samples.length / this.#input.width);
  }

  /** Forget all samples. */
  reset() {
    this.#source.reset();
    this.#samples = new (arrayClass(this.#input))(0);
  }

  /** Free the stream's memory; it can't be used afterwards. */
  close() {
    this.#source.close();
  }
}

/** @param {unknown} window @param {number} unit @param {Port} input */
function checkedWindow(window, unit, input) {
  const isNumber = typeof window === "number" && Number.isSafeInteger(window) && window >= 1;
  if (!isNumber) {
    throw new LstmEdgeError("InputError", `window is ${shown(window)}, expected a whole number from 1`);
  }
  if (window % unit) {
    throw new LstmEdgeError(
      "InputError",
      `window is ${window}, expected a multiple of ${unit}, the unit of this file`,
    );
  }
  const longest = Math.floor(MAX_BYTES / (input.width * elementSize(input)));
  if (window > longest) {
    throw new LstmEdgeError("InputError", `window is ${window}, expected at most ${longest} steps`);
  }
  return window;
}

/**
 * @param {Port} port
 * @param {Numbers} samples
 * @param {Numbers} added
 */
function joined(port, samples, added) {
  const array = /** @type {any} */ (new (arrayClass(port))(samples.length + added.length));
  array.set(samples);
  array.set(added, samples.length);
  return /** @type {Numbers} */ (array);
}
