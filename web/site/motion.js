/** This device's motion sensor, as the features of a file. */

/** @typedef {{acceleration: string, rotation: string}} Units */

const GRAVITY = 9.80665;
/** rotationRate names its angles by the axis that they turn about */
const ANGLES = /** @type {const} */ ({ x: "beta", y: "gamma", z: "alpha" });

/**
 * Return the reading of each feature, or null if a name is not one.
 *
 * @param {readonly string[]} features for example `acc_x`, `gyr_z`, `ax`
 */
export function readings(features) {
  const found = features.map((name) => {
    const [, acceleration, axis] = /^(a|acc\w*?|lin\w*?|user\w*?)[\s_.-]?([xyz])$/i.exec(name) ?? [];
    const [, rotation, about] = /^(g|gyr\w*?|rot\w*?|w|omega)[\s_.-]?([xyz])$/i.exec(name) ?? [];
    const letter = /** @type {"x" | "y" | "z" | undefined} */ ((axis ?? about)?.toLowerCase());
    return letter && { kind: acceleration ? "acceleration" : rotation ? "rotation" : "", axis: letter };
  });
  return found.length && found.every((one) => one !== undefined) ? found : null;
}

/** Averages the readings between two samples. */
export class Sampler {
  #wanted;
  #units;
  /** @type {number[]} */ #sums;
  #count = 0;
  /** @type {Float32Array | null} */ #latest = null;

  /** @param {NonNullable<ReturnType<typeof readings>>} wanted @param {Units} units */
  constructor(wanted, units) {
    this.#wanted = wanted;
    this.#units = units;
    this.#sums = wanted.map(() => 0);
  }

  /** @param {DeviceMotionEvent} event @returns {boolean} whether it has every required reading */
  add(event) {
    const { acceleration, rotation } = this.#units;
    const force = acceleration === "linear" ? event.acceleration : event.accelerationIncludingGravity;
    const values = this.#wanted.map(({ kind, axis }) =>
      kind === "acceleration"
        ? (force?.[axis] ?? NaN) / (acceleration === "g" ? GRAVITY : 1)
        : (event.rotationRate?.[ANGLES[axis]] ?? NaN) * (rotation === "radians" ? Math.PI / 180 : 1),
    );
    if (!values.every(Number.isFinite)) return false;
    values.forEach((value, place) => { this.#sums[place] = (this.#sums[place] ?? 0) + value; });
    this.#count += 1;
    return true;
  }

  /** Return the mean since the last call, the last one if there is none since; null before the first reading. */
  take() {
    if (this.#count) this.#latest = Float32Array.from(this.#sums, (sum) => sum / this.#count);
    this.#sums.fill(0);
    this.#count = 0;
    return this.#latest;
  }
}

/**
 * Yield once for each sample that is due. Where the consumer is half a second late, the clock is set back and
 * `onLate` gets the number of samples.
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
    if (due < 1 || now - painted > 12) {
      await new Promise((resolve) => { requestAnimationFrame(resolve); });
      painted = performance.now();
    }
    if (due >= 1 || rate === Infinity) {
      given += 1;
      yield;
    }
  }
}
