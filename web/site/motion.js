/** This device's motion sensor, as the features of a file, and samples at their rate. */

const GRAVITY = 9.80665;
/** rotationRate names its angles by the axis that they turn about */
const ANGLES = /** @type {const} */ ({ x: "beta", y: "gamma", z: "alpha" });

/**
 * Return the reading of each feature, or null if a name is not one.
 *
 * @param {readonly string[]} features for example `acc_x`, `gyr_z`, `ax`
 */
export function readings(features) {
  const matches = features.map(
    (name) => /^(?:(a|acc\w*?|lin\w*?|user\w*?)|g|gyr\w*?|rot\w*?|w|omega)[\s_.-]?([xyz])$/i.exec(name) ?? [],
  );
  if (!matches.every(({ length }) => length) || !matches.length) return null;
  return matches.map(([, acceleration, axis]) => ({
    isRotation: !acceleration,
    axis: /** @type {"x" | "y" | "z"} */ (axis?.toLowerCase()),
  }));
}

/**
 * Return an event's readings as a sample, null if it lacks one.
 *
 * @param {DeviceMotionEvent} event
 * @param {NonNullable<ReturnType<typeof readings>>} wanted
 * @param {{acceleration: string, rotation: string}} units
 */
export function sampleOf(event, wanted, { acceleration, rotation }) {
  const force = acceleration === "linear" ? event.acceleration : event.accelerationIncludingGravity;
  const values = wanted.map(({ isRotation, axis }) =>
    isRotation
      ? (event.rotationRate?.[ANGLES[axis]] ?? NaN) * (rotation === "radians" ? Math.PI / 180 : 1)
      : (force?.[axis] ?? NaN) / (acceleration === "g" ? GRAVITY : 1),
  );
  return values.every(Number.isFinite) ? Float32Array.from(values) : null;
}

/**
 * Yield once for each sample that is due; a device that is too slow gets fewer.
 *
 * @param {number} rate samples per second
 * @param {AbortSignal} signal
 */
export async function* pace(rate, signal) {
  for (let due = performance.now(); !signal.aborted; ) {
    await new Promise((resolve) => {
      requestAnimationFrame(resolve);
    });
    const now = performance.now();
    for (; due <= now && !signal.aborted && performance.now() - now < 12; due += 1000 / rate) yield;
    if (now - due > 500) due = now;
  }
}
