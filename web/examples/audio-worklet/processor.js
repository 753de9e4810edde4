/** Runs a network on sound in the audio thread: one channel in, the first output out. */

import { load } from "../../site/lstm-edge/index.js"; // from npm: "lstm-edge", bundled into one file

class Network extends AudioWorkletProcessor {
  /** @type {import("../../site/lstm-edge/index.js").Stream | undefined} */
  #stream;

  /** @param {{processorOptions: {library: WebAssembly.Module, program: ArrayBuffer}}} options */
  constructor({ processorOptions: { library, program } }) {
    super();
    load(program, { library }).then(
      (model) => {
        this.#stream = model.stream({ resetEvery: model.resetEvery ?? "never" });
        this.port.postMessage("ready");
      },
      (error) => this.port.postMessage(error.message),
    );
  }

  /**
   * @param {Float32Array[][]} inputs
   * @param {Float32Array[][]} outputs
   */
  process([input], [output]) {
    const samples = input?.[0];
    if (!samples || !this.#stream) return true;
    const result = this.#stream.process(samples);
    const values = result instanceof Float32Array ? result : Object.values(result ?? {})[0];
    const target = output?.[0];
    if (values && target) target.set(values.subarray(0, target.length));
    return true;
  }
}

registerProcessor("network", Network);
