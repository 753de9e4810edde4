/** An AudioWorklet that sends the samples of the microphone to the page. */

class Microphone extends AudioWorkletProcessor {
  /** @param {Float32Array[][]} inputs */
  process([input]) {
    const samples = input?.[0];
    if (samples) this.port.postMessage(samples.slice());
    return true;
  }
}

registerProcessor("microphone", Microphone);
