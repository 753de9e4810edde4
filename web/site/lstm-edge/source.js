/** A stream of the C library: its memory, its calls and their errors. */

import { LstmEdgeError } from "./errors.js";
import { arrayAt, elementSize } from "./ports.js";

/** @import { Library } from "./library.js" */
/** @import { Numbers, Port } from "./ports.js" */

/**
 * The program that a stream runs.
 *
 * @typedef {object} Program
 * @property {Library} library
 * @property {number} address
 * @property {readonly Port[]} inputs
 * @property {readonly Port[]} outputs
 * @property {number} unit steps per result
 * @property {boolean} hasResultPerStep true without delay and unit
 */

/**
 * Views of the buffers of one step.
 *
 * @typedef {object} Views
 * @property {ArrayBufferLike} buffer the memory that they are views of
 * @property {Numbers[]} inputs
 * @property {Float32Array[]} outputs with room for the frames of a unit
 */

/** One stream of the library. */
export class Source {
  #program;
  #address;
  /** @type {Views | null} */
  #views = null;

  /** @param {Program} program @param {number} interval steps after which it is reset; Infinity for never */
  constructor(program, interval = Infinity) {
    const { library, address } = program;
    this.#program = program;
    this.#address = library.functions.lstm_edge_stream_new(address) >>> 0;
    if (!this.#address) throw new LstmEdgeError("StateError", library.lastError);
    const steps = interval === Infinity ? 0n : BigInt(interval);
    library.functions.lstm_edge_set_reset_every(this.#address, steps);
  }

  /** The address of an open stream. */
  get #open() {
    if (!this.#address) throw new LstmEdgeError("StateError", "this stream is closed; open another one");
    return this.#address;
  }

  /** Views of the step's inputs; write a sample to them before `step`. */
  get inputs() {
    return this.#current.inputs;
  }

  /** The views, made again if the memory grew. */
  get #current() {
    const address = this.#open;
    const { library, inputs, outputs } = this.#program;
    const { buffer, functions } = library;
    if (this.#views?.buffer === buffer) return this.#views;
    this.#views = {
      buffer,
      inputs: inputs.map((port, index) =>
        arrayAt(port, buffer, functions.lstm_edge_input(address, index), port.width),
      ),
      outputs: outputs.map((port, index) => {
        const length = port.width * Math.max(1, port.frames);
        return new Float32Array(buffer, functions.lstm_edge_output(address, index) >>> 0, length);
      }),
    };
    return this.#views;
  }

  /** Run the step in `inputs`. */
  step() {
    const { library } = this.#program;
    library.check(library.functions.lstm_edge_step(this.#open), "InputError");
  }

  /** Return a copy of an output of the last step; null if it has no frame. @param {number} index */
  output(index) {
    const { outputs, hasResultPerStep } = this.#program;
    if (hasResultPerStep) return this.#outputView(index).slice();
    const frames = this.#frames(index);
    if (frames === 0) return null;
    const { width } = /** @type {Port} */ (outputs[index]);
    return this.#outputView(index).slice(0, frames * width);
  }

  /** @param {number} index */
  #outputView(index) {
    return /** @type {Float32Array} */ (this.#current.outputs[index]);
  }

  /**
   * Run several steps; return the frames of each output, null if it has none.
   *
   * @param {readonly Numbers[]} arrays one per input
   * @param {number} steps
   * @returns {(Float32Array | null)[]}
   */
  chunk(arrays, steps) {
    const address = this.#open;
    const { library, inputs, outputs, unit } = this.#program;
    const maxUnits = Math.floor(steps / unit) + 1;
    const inputBytes = inputs.map((port) => steps * port.width * elementSize(port));
    const outputBytes = outputs.map((port) => {
      const maxFrames = port.everyStep ? maxUnits * port.frames : 1;
      return maxFrames * port.width * Float32Array.BYTES_PER_ELEMENT;
    });
    const count = inputs.length + outputs.length;
    const sizes = [count * Uint32Array.BYTES_PER_ELEMENT, ...inputBytes, ...outputBytes];
    return library.allocated(sizes, ([table = 0, ...blocks]) => {
      new Uint32Array(library.buffer, table, count).set(blocks);
      inputs.forEach((port, index) => {
        const array = /** @type {any} */ (arrays[index]);
        arrayAt(port, library.buffer, blocks[index] ?? 0, steps * port.width).set(array);
      });
      const targets = table + inputs.length * Uint32Array.BYTES_PER_ELEMENT;
      library.check(library.functions.lstm_edge_chunk(address, table, steps, targets), "InputError");
      return outputs.map((port, index) => {
        const length = this.#frames(index) * port.width;
        const start = blocks[inputs.length + index];
        return length ? new Float32Array(library.buffer, start, length).slice() : null;
      });
    });
  }

  /** Frames that the last call wrote. @param {number} output */
  #frames(output) {
    return this.#program.library.functions.lstm_edge_frames(this.#address, output) >>> 0;
  }

  reset() {
    this.#program.library.functions.lstm_edge_reset(this.#open);
  }

  /** Return everything that the stream continues from. @returns {Uint8Array} */
  save() {
    const address = this.#open;
    const { library } = this.#program;
    const { functions } = library;
    const size = functions.lstm_edge_save(address, 0, 0) >>> 0;
    return library.allocated([size], ([start = 0]) => {
      functions.lstm_edge_save(address, start, size);
      return new Uint8Array(library.buffer, start, size).slice();
    });
  }

  /** Continue from the bytes that `save` returned. @param {Uint8Array} bytes */
  restore(bytes) {
    const address = this.#open;
    const { library } = this.#program;
    library.allocated([bytes.length], ([start = 0]) => {
      new Uint8Array(library.buffer, start, bytes.length).set(bytes);
      library.check(library.functions.lstm_edge_restore(address, start, bytes.length), "StateError");
    });
  }

  close() {
    this.#program.library.functions.lstm_edge_stream_free(this.#address);
    this.#address = 0;
    this.#views = null;
  }
}
