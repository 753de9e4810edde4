/** The graph that streams, where it is another one: its manifest, its bytes, and how many frames it gives. */

import { LstmEdgeError } from "./errors.js";
import { shareInitializers } from "./file.js";

/** @import { TensorSpec } from "./arrays.js" */
/** @import { Manifest } from "./manifest.js" */

/**
 * Return the manifest of the graph that streams, and its bytes; undefined if the file's own graph does.
 *
 * @param {Manifest} manifest
 * @param {Uint8Array} bytes the file
 * @returns {{manifest: Manifest, bytes: Uint8Array} | undefined}
 * @throws {LstmEdgeError} ManifestError: it has other outputs than the file, or a unit that does not fit
 * @internal
 */
export function streamingOf(manifest, bytes) {
  const { stream, axes } = manifest;
  if (!stream) return undefined;
  const { unit = 1, outputs, states, graph } = stream, { [axes.sequence ?? ""]: _, ...ranges } = axes.ranges ?? {};
  const streaming = { ...manifest, outputs, states, axes: { ...axes, ranges }, unstreamable: "", golden: null };
  const names = (/** @type {readonly TensorSpec[]} */ specs) => specs.map(({ name, dtype }) => `${name} ${dtype}`).sort().join();
  const fits = axes.sequence !== null && manifest.lengths === null && names(outputs) === names(manifest.outputs);
  if (!fits || states.some(({ start = 0 }) => start % unit) || outputs.some((spec) => framesOf(streaming, spec).each < 1)) {
    throw new LstmEdgeError("ManifestError", `the stream has other outputs than the file, no time axis, or a unit of ${unit} steps that does not fit; export the model again`);
  }
  return { manifest: streaming, bytes: shareInitializers(Uint8Array.from(atob(graph), (letter) => letter.charCodeAt(0)), bytes) };
}

/**
 * Return the place of an output's time axis, -1 if it has none; its frames a unit; and the frames that it is behind.
 *
 * @param {Manifest} manifest of the graph that streams
 * @param {TensorSpec & {delay?: number}} spec
 * @returns {{axis: number, each: number, delay: number}}
 * @internal
 */
export function framesOf({ axes: { sequence }, stream }, { axes, delay = 0 }) {
  const unit = stream?.unit ?? 1;
  for (const [axis, name] of axes.entries()) {
    if (name === sequence) return { axis, each: unit, delay };
    // a rate: L/8, 2*L, 3*L/2
    const [head, steps = "1", ...more] = stream ? String(name).split("/") : [];
    const [last, frames = "1", ...rest] = head?.split("*").reverse() ?? [];
    if (last === sequence && !more.length && !rest.length && /^[1-9]\d*$/.test(steps) && /^[1-9]\d*$/.test(frames)) {
      return { axis, each: Math.floor((Number(frames) * unit) / Number(steps)), delay };
    }
  }
  return { axis: -1, each: 1, delay };
}
