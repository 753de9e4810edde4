/** Time: samples at their rate, without falling behind. */

const FRAME = 12;

const nextFrame = () => new Promise((resolve) => { requestAnimationFrame(resolve); });

/**
 * Yield once for each sample that is due. Where the consumer is half a second behind, the clock is set back and
 * `onLate` gets the number of samples that it was behind.
 *
 * @param {number} rate samples a second; Infinity for as fast as possible
 * @param {AbortSignal} signal
 * @param {(samples: number) => void} onLate
 */
export async function* pace(rate, signal, onLate) {
  let start = performance.now(), given = 0, painted = start;
  while (!signal.aborted) {
    const now = performance.now(), due = Math.floor(((now - start) / 1000) * rate) - given;
    if (rate < Infinity && due > Math.max(1, rate / 2)) {
      onLate(due - 1);
      start += ((due - 1) / rate) * 1000;
    }
    if (due < 1 || now - painted > FRAME) {
      await nextFrame();
      painted = performance.now();
    }
    if (due >= 1 || rate === Infinity) {
      given += 1;
      yield;
    }
  }
}
