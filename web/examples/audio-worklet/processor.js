/**
 * Runs a network on sound in the audio thread: one channel in, the first output out. The sound is behind by
 * the network's delay, and by a unit where several samples give their frames together.
 */

import { load } from "../../site/lstm-edge/index.js"; // from npm: "lstm-edge", bundled into one file

/** @import { Model, Stream } from "../../site/lstm-edge/index.js" */

/** Frames that wait for their turn. */
class Queue {
  #frames = new Float32Array(1024);
  #start = 0;
  #end = 0;

  /** @param {number} silence frames that come before all others */
  constructor(silence) {
    this.push(new Float32Array(silence));
  }

  /** @param {Float32Array} frames */
  push(frames) {
    const waiting = this.#frames.subarray(this.#start, this.#end);
    if (this.#end + frames.length > this.#frames.length) {
      const needed = waiting.length + frames.length;
      if (needed > this.#frames.length) {
        const longer = new Float32Array(2 * needed);
        longer.set(waiting);
        this.#frames = longer;
      } else this.#frames.copyWithin(0, this.#start, this.#end);
      this.#end -= this.#start;
      this.#start = 0;
    }
    this.#frames.set(frames, this.#end);
    this.#end += frames.length;
  }

  /** Fill a block with the next frames. @param {Float32Array} block */
  take(block) {
    const count = Math.min(block.length, this.#end - this.#start);
    block.set(this.#frames.subarray(this.#start, this.#start + count));
    this.#start += count;
  }
}

/** Throw if the first output is not sound: one number for each sample. @param {Model} model */
function checkSound({ outputs: [output], unit }) {
  const isSound = output?.everyStep && output.width === 1 && output.frames === unit;
  if (!isSound) throw new Error("expected a network whose first output is one number for each sample");
}

class Network extends AudioWorkletProcessor {
  /** @type {Stream | undefined} */
  #stream;
  #queue = new Queue(0);

  /** @param {{processorOptions: {library: WebAssembly.Module, program: ArrayBuffer}}} options */
  constructor({ processorOptions: { library, program } }) {
    super();
    load(program, { library })
      .then((model) => {
        checkSound(model);
        this.#queue = new Queue(model.unit - 1 + model.delay);
        this.#stream = model.stream({ resetEvery: model.resetEvery ?? "never" });
        this.port.postMessage("ready");
      })
      .catch((error) => this.port.postMessage(error.message));
  }

  /**
   * @param {Float32Array[][]} inputs
   * @param {Float32Array[][]} outputs
   */
  process([input], [output]) {
    const samples = input?.[0];
    const target = output?.[0];
    if (!samples || !target || !this.#stream) return true;
    const result = this.#stream.process(samples);
    const frames = result instanceof Float32Array ? result : Object.values(result ?? {})[0];
    if (frames) this.#queue.push(frames);
    this.#queue.take(target);
    return true;
  }
}

registerProcessor("network", Network);
