/** One source of samples, which owns its states. */

import { LstmEdgeError, shown } from "./errors.js";
import { only } from "./results.js";
import { readSamples } from "./samples.js";
import { Source } from "./source.js";

/** @import { Result } from "./results.js" */
/** @import { Samples } from "./samples.js" */
/** @import { Program } from "./source.js" */
/** @import { Numbers } from "./ports.js" */

/** Everything that a stream continues from; Python's `State` and the C library read and write the same bytes. @typedef {Uint8Array} State */

/** A stream; `Model.stream` opens it. An error leaves its state as it was. */
export class Stream {
  #program;
  #source;
  #interval;
  #counts;
  #age = 0;
  /** Room for a sample of the only input, if that is float32. @type {Float32Array | null} */
  #scratch = null;

  /**
   * @param {Program} program
   * @param {number} interval steps after which the state is reset; Infinity for never
   * @param {readonly string[]} counts outputs that count steps
   */
  constructor(program, interval, counts) {
    this.#program = program;
    this.#interval = interval;
    this.#counts = new Set(counts);
    this.#source = new Source(program);
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
    if (this.#age < this.#interval && this.#takeAtOnce(sample)) return this.#step();
    const { arrays } = readSamples(this.#program.inputs, sample, true);
    if (this.#age < this.#interval) return this.#stepWith(arrays);
    return this.#unchangedByErrors(() => {
      this.reset();
      return this.#stepWith(arrays);
    });
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

  /** @param {readonly Numbers[]} arrays */
  #stepWith(arrays) {
    const { inputs } = this.#source;
    for (const [index, array] of arrays.entries()) inputs[index]?.set(/** @type {any} */ (array));
    return this.#step();
  }

  #step() {
    const { outputs } = this.#program;
    this.#source.step();
    this.#age += 1;
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
    if (this.#age + steps <= this.#interval) {
      const results = this.#source.chunk(arrays, steps);
      this.#age += steps;
      return only(this.#program.outputs, results);
    }
    return this.#unchangedByErrors(() => this.#processPieces(arrays, steps));
  }

  /**
   * Run steps up to each reset.
   *
   * @param {readonly Numbers[]} arrays
   * @param {number} steps
   */
  #processPieces(arrays, steps) {
    const { inputs, outputs } = this.#program;
    /** @type {Float32Array[][]} */
    const pieces = outputs.map(() => []);
    for (let start = 0; start < steps; ) {
      if (this.#age >= this.#interval) this.reset();
      const count = Math.min(steps - start, this.#interval - this.#age);
      const cut = arrays.map((array, index) => {
        const width = inputs[index]?.width ?? 0;
        return array.subarray(start * width, (start + count) * width);
      });
      this.#source.chunk(cut, count).forEach((result, index) => {
        if (result) pieces[index]?.push(result);
      });
      this.#age += count;
      start += count;
    }
    const joined = outputs.map(({ name, everyStep }, index) => {
      const results = pieces[index] ?? [];
      if (this.#counts.has(name)) return summed(results);
      return everyStep ? concatenated(results) : (results.at(-1) ?? null);
    });
    return only(outputs, joined);
  }

  /**
   * Run `work`; if it throws, put the state back.
   *
   * @template T
   * @param {() => T} work
   */
  #unchangedByErrors(work) {
    const saved = this.#source.save();
    const age = this.#age;
    try {
      return work();
    } catch (error) {
      this.#source.restore(saved);
      this.#age = age;
      throw error;
    }
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
    this.#age = this.#source.age;
  }

  /** Reset all states. */
  reset() {
    this.#source.reset();
    this.#age = 0;
  }

  /** Free the stream's memory; it can't be used afterwards. */
  close() {
    this.#source.close();
  }
}

/** @param {readonly Float32Array[]} arrays @returns {Float32Array | null} */
function concatenated(arrays) {
  if (!arrays.length) return null;
  const length = arrays.reduce((sum, array) => sum + array.length, 0);
  const joined = new Float32Array(length);
  let position = 0;
  for (const array of arrays) {
    joined.set(array, position);
    position += array.length;
  }
  return joined;
}

/** @param {readonly Float32Array[]} arrays @returns {Float32Array | null} */
function summed(arrays) {
  const [first, ...others] = arrays;
  if (!first) return null;
  for (const array of others) array.forEach((value, index) => (first[index] = (first[index] ?? 0) + value));
  return first;
}
