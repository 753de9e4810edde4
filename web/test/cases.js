/** What the package does, in Node and in Chromium. */

/** @import { load, Result, State } from "../site/lstm-edge/index.js" */
/** @typedef {(place: {load: typeof load, url: string, bytes: (name: string) => Promise<Uint8Array>}) => Promise<void>} Case */

/** @param {unknown} holds @param {string} what */
function check(holds, what) {
  if (!holds) throw new Error(what);
}

/** @param {() => unknown} work @param {string} name @param {RegExp} words */
async function refuses(work, name, words) {
  try {
    await work();
  } catch (error) {
    const refusal = /** @type {Error} */ (error);
    return check(refusal.name === name && words.test(refusal.message) && !refusal.message.includes("\n"), `${refusal.name}: ${refusal.message}`);
  }
  throw new Error(`not refused: ${words}`);
}

/** The first output of a result. @param {Result} result @returns {Float32Array} */
function only(result) {
  const array = result instanceof Float32Array ? result : Object.values(result ?? {})[0];
  if (!array) throw new Error("no result");
  return array;
}
const signal = (/** @type {number} */ count) => Float32Array.from({ length: count }, (_, index) => Math.sin(index * 1.7));
const isSame = (/** @type {ArrayLike<number>} */ a, /** @type {ArrayLike<number>} */ b) => a.length === b.length && Array.from(a).every((value, index) => Object.is(value, b[index]));

/** @type {Record<string, Case>} */
export const cases = {
  "golden cases of float, int8, delayed and strided programs are within their limits": async ({ load, url }) => {
    for (const name of ["lstm", "motions-int8", "late", "strided"]) {
      const { ok, worst } = (await load(`${url}${name}.lep`)).selftest();
      check(ok && worst > 0 && worst <= 1, `${name}: ${worst}`);
    }
    check(!(await load(`${url}wrong.lep`)).selftest().ok, "a wrong golden case passes");
  },

  "the manifest is there by name": async ({ load, url }) => {
    const model = await load(`${url}motions-int8.lep`);
    check(model.labels.join() === "Badminton,Running,Standing,Walking", String(model.labels));
    check(model.features.length === 6 && model.samplingRate === 10 && model.unit === 1 && model.delay === 0, "signal");
    check(/^[0-9a-f]{64}$/.test(model.identity) && model.inputs[0]?.name === "x" && model.states.length === 2, "identity and ports");
    const { label, probabilities } = model.interpret([0, 3, 1, 0]);
    check(label === "Running" && Math.abs(probabilities.reduce((sum, share) => sum + share, 0) - 1) < 1e-12, "probabilities");
  },

  "steps, chunks and other streams give the same bits": async ({ load, url, bytes }) => {
    const model = await load(await bytes("lstm.lep")), stream = model.stream(), other = (await load(`${url}lstm.lep`)).stream(), x = signal(3 * 40);
    const last = Array.from({ length: 40 }, (_, step) => only(stream.step(x.subarray(3 * step, 3 * step + 3)))).at(-1) ?? [];
    other.process(x.subarray(0, 3 * 7));
    check(isSame(last, only(other.process(x.subarray(3 * 7)))), "a chunk");
    stream.reset();
    const fresh = model.stream();
    check(isSame(only(stream.process(x)), only(fresh.process(Array.from(x)))), "a stream that was reset");
    for (let count = 0; count < 50; count += 1) model.stream().close();
    fresh.close();
  },

  "frames come with a unit, after the delay": async ({ load, url }) => {
    const strided = (await load(`${url}strided.lep`)), stream = strided.stream(), lagging = await load(`${url}late.lep`);
    check(strided.unit === 4 && strided.delay === 4 && lagging.unit === 1 && lagging.delay === 2, "pace");
    const results = Array.from({ length: 20 }, (_, step) => stream.step(signal(60).subarray(3 * step, 3 * step + 3)));
    check(results.every((result, step) => (result !== null) === ((step + 1) % 4 === 0 && step > 3)), "when frames come");
    const whole = only(strided.stream().process(signal(60))), single = results.flatMap((result) => Array.from(result === null ? [] : only(result)));
    check(isSame(whole, single) && whole.length === 4 * (strided.outputs[0]?.width ?? 0), "the same frames");
    const delayed = lagging.stream();
    check(delayed.step([1, 2, 3]) === null && delayed.step([1, 2, 3]) === null && delayed.step([1, 2, 3]) !== null, "a delay");
  },

  "a state goes on where it was taken, within a unit too": async ({ load, url }) => {
    for (const name of ["lstm", "strided"]) {
      const model = await load(`${url}${name}.lep`), first = model.stream(), second = model.stream(), x = signal(3 * 30);
      first.process(x.subarray(0, 3 * 10));
      const kept = structuredClone(first.state);
      check(kept.age === 10, "age");
      const expected = only(first.process(x.subarray(3 * 10)));
      second.process(x);
      second.restore(kept);
      check(isSame(only(second.process(x.subarray(3 * 10))), expected), `${name} goes on`);
    }
    const other = (await load(`${url}motions-int8.lep`)).stream(), stream = (await load(`${url}lstm.lep`)).stream(), { state } = stream;
    await refuses(() => other.restore(state), "StateError", /is of model [0-9a-f]{12}, expected [0-9a-f]{12}/);
    await refuses(() => stream.restore({ ...state, arrays: {} }), "StateError", /array of undefined numbers, expected 8/);
    await refuses(() => stream.restore({ ...state, age: -1 }), "StateError", /age is -1/);
    await refuses(() => stream.restore(/** @type {any} */ (undefined)), "StateError", /is of model undefined/);
  },

  "several inputs go by name": async ({ load, url }) => {
    const model = await load(`${url}gru.lep`), names = model.inputs.map(({ name }) => name).join();
    check(names === "x,gain", names);
    const result = model.stream().step({ x: [1, 2, 3], gain: [2] });
    check(result !== null, "a result");
    await refuses(() => model.stream().step([1, 2, 3]), "InputError", /expected numbers for x, gain; got none for x/);
    await refuses(() => model.stream().process({ x: signal(6), gain: [1] }), "InputError", /gain: got 1 numbers, expected a multiple of 1, of the same steps/);
  },

  "wrong input is one line and leaves the state as it was": async ({ load, url }) => {
    const stream = (await load(`${url}lstm.lep`)).stream(), any = /** @type {any} */ (stream);
    stream.step([1, 2, 3]);
    const before = stream.state;
    for (const [wrong, words] of /** @type {[any, RegExp][]} */ ([[[1, 2], /x: got 2 numbers, expected 3/], ["abc", /expected numbers for x/], [null, /got none for x/], [[[1, 2, 3], [4, 5, 6]], /got 2 numbers/]])) {
      await refuses(() => any.step(wrong), "InputError", words);
    }
    await refuses(() => any.process([1, 2, 3, 4]), "InputError", /x: got 4 numbers, expected a multiple of 3/);
    const values = (/** @type {State} */ { arrays }) => Object.values(arrays).flatMap((array) => Array.from(array, Number));
    check(isSame(values(stream.state), values(before)) && stream.state.age === 1, "the state");
  },

  "what is no program is one line": async ({ load, url, bytes }) => {
    const content = await bytes("lstm.lep");
    await refuses(() => load(new Uint8Array([1, 2, 3])), "FileFormatError", /not a program.*convert the file again/);
    await refuses(() => load(content.slice(0, 900)), "FileFormatError", /not a program/);
    content[1000] = (content[1000] ?? 0) ^ 1;
    await refuses(() => load(content), "FileFormatError", /not a program/);
    await refuses(() => load(`${url}nowhere.lep`), "NotFoundError", /nowhere\.lep can't be read/);
  },
};
