/** One call into onnxruntime at a time: onnxruntime-web rejects a second one, even of another session. */

let last = Promise.resolve();

/**
 * Run `work` after all work that was given before it.
 *
 * @template T
 * @param {() => T | Promise<T>} work
 * @returns {Promise<T>}
 * @internal
 */
export function inTurn(work) {
  const result = last.then(work);
  last = result.then(() => undefined, () => undefined);
  return result;
}
