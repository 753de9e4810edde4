/** How many frames an output of a stream has, and by how many it lags. */

/** @import { TensorSpec } from "./arrays.js" */
/** @import { Manifest } from "./manifest.js" */

/**
 * Return the place of an output's time axis, -1 if it has none; its frames per unit; and its delay in frames.
 *
 * @param {Manifest} manifest
 * @param {TensorSpec} spec
 * @returns {{axis: number, each: number, delay: number}}
 * @internal
 */
export function framesOf({ axes: { sequence }, unit = 1, delays = {} }, { name: output, axes }) {
  const delay = delays[output] ?? 0;
  for (const [axis, name] of axes.entries()) {
    if (name === sequence) return { axis, each: unit, delay };
    // a rate: L/8, 2*L, 3*L/2
    const [head, steps = "1", ...more] = String(name).split("/");
    const [last, frames = "1", ...rest] = head?.split("*").reverse() ?? [];
    const isRate = last === sequence && !more.length && !rest.length && /^[1-9]\d*$/.test(steps) && /^[1-9]\d*$/.test(frames);
    if (isRate && unit % Number(steps) === 0) return { axis, each: (Number(frames) * unit) / Number(steps), delay };
  }
  return { axis: -1, each: 1, delay };
}
