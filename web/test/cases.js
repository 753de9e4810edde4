/** What the package does, in Node and in Chromium. */

/** @import { load, Result } from "../site/lstm-edge/index.js" */
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
    return check(
      refusal.name === name && words.test(refusal.message) && !refusal.message.includes("\n"),
      `${refusal.name}: ${refusal.message}`,
    );
  }
  throw new Error(`not refused: ${words}`);
}

/** The first output of a result. @param {Result} result @returns {Float32Array} */
function only(result) {
  const array = result instanceof Float32Array ? result : Object.values(result ?? {})[0];
  if (!array) throw new Error("no result");
  return array;
}
const signal = (/** @type {number} */ count) =>
  Float32Array.from({ length: count }, (_, index) => Math.sin(index * 1.7));
const isSame = (/** @type {ArrayLike<number>} */ a, /** @type {ArrayLike<number>} */ b) =>
  a.length === b.length && Array.from(a).every((value, index) => Object.is(value, b[index]));

/** @type {Record<string, Case>} */
export const cases = {
  "golden cases of float, int8, sparse, delayed and strided programs are within their limits": async ({
    load,
    url,
  }) => {
    for (const name of ["lstm", "motions-int8", "sparse", "late", "strided"]) {
      const { ok, worst } = (await load(`${url}${name}.lep`)).selftest();
      check(ok && worst > 0 && worst <= 1, `${name}: ${worst}`);
    }
    check((await load(`${url}sparse-int8.lep`)).selftest().worst === 0, "int8 blocks are not exact");
    check(!(await load(`${url}wrong.lep`)).selftest().ok, "a wrong golden case passes");
  },

  "the manifest is there by name": async ({ load, url }) => {
    const model = await load(`${url}motions-int8.lep`);
    check(model.labels.join() === "Badminton,Running,Standing,Walking", String(model.labels));
    check(
      model.features.length === 6 && model.samplingRate === 10 && model.unit === 1 && model.delay === 0,
      "signal",
    );
    check(
      /^[0-9a-f]{64}$/.test(model.identity) && model.inputs[0]?.name === "x" && model.states.length === 2,
      "identity and ports",
    );
  },

  "steps, chunks and other streams give the same bits": async ({ load, url, bytes }) => {
    const model = await load(await bytes("lstm.lep")),
      stream = model.stream(),
      other = (await load(`${url}lstm.lep`)).stream(),
      x = signal(3 * 40);
    const last =
      Array.from({ length: 40 }, (_, step) => only(stream.step(x.subarray(3 * step, 3 * step + 3)))).at(-1) ??
      [];
    other.process(x.subarray(0, 3 * 7));
    check(isSame(last, only(other.process(x.subarray(3 * 7)))), "a chunk");
    stream.reset();
    const fresh = model.stream();
    check(isSame(only(stream.process(x)), only(fresh.process(Array.from(x)))), "a stream that was reset");
    for (let count = 0; count < 50; count += 1) model.stream().close();
    fresh.close();
  },

  "frames come with a unit, after the delay": async ({ load, url }) => {
    const strided = await load(`${url}strided.lep`),
      stream = strided.stream(),
      lagging = await load(`${url}late.lep`);
    check(strided.unit === 4 && strided.delay === 4 && lagging.unit === 1 && lagging.delay === 2, "pace");
    const results = Array.from({ length: 20 }, (_, step) =>
      stream.step(signal(60).subarray(3 * step, 3 * step + 3)),
    );
    check(
      results.every((result, step) => (result !== null) === ((step + 1) % 4 === 0 && step > 3)),
      "when frames come",
    );
    const whole = only(strided.stream().process(signal(60))),
      single = results.flatMap((result) => Array.from(result === null ? [] : only(result)));
    check(isSame(whole, single) && whole.length === 4 * (strided.outputs[0]?.width ?? 0), "the same frames");
    const delayed = lagging.stream();
    check(
      delayed.step([1, 2, 3]) === null &&
        delayed.step([1, 2, 3]) === null &&
        delayed.step([1, 2, 3]) !== null,
      "a delay",
    );
  },

  "a stream continues from a state, in the middle of a unit, too": async ({ load, url }) => {
    for (const name of ["lstm", "strided"]) {
      const model = await load(`${url}${name}.lep`),
        first = model.stream(),
        second = model.stream(),
        x = signal(3 * 30);
      first.process(x.subarray(0, 3 * 10));
      const kept = structuredClone(first.state);
      const expected = only(first.process(x.subarray(3 * 10)));
      second.process(x);
      second.restore(kept);
      check(isSame(only(second.process(x.subarray(3 * 10))), expected), `${name} continues`);
      check(kept instanceof Uint8Array, "plain bytes");
    }
    const other = (await load(`${url}motions-int8.lep`)).stream(),
      stream = (await load(`${url}lstm.lep`)).stream();
    stream.step([1, 2, 3]);
    const { state } = stream,
      damaged = state.slice();
    damaged[damaged.length - 1] = 1;
    await refuses(
      () => other.restore(state),
      "StateError",
      /a state of model [0-9a-f]{12}, expected [0-9a-f]{12}/,
    );
    await refuses(() => stream.restore(damaged), "StateError", /damaged or truncated/);
    await refuses(() => stream.restore(state.slice(0, 40)), "StateError", /40 bytes/);
    await refuses(() => stream.restore(new Uint8Array(0)), "StateError", /0 bytes/);
    for (const wrong of [undefined, null, 5, "x", {}, [], new Float32Array(30)]) {
      await refuses(
        () => stream.restore(/** @type {any} */ (wrong)),
        "StateError",
        /expected the bytes of a stream's state/,
      );
    }
    check(isSame(stream.state, state), "the state is as it was");
  },

  "several inputs go by name": async ({ load, url }) => {
    const model = await load(`${url}gru.lep`),
      names = model.inputs.map(({ name }) => name).join();
    check(names === "x,gain", names);
    const stream = model.stream(),
      any = /** @type {any} */ (stream);
    check(stream.step({ x: [1, 2, 3], gain: [2] }) !== null, "a result");
    await refuses(
      () => stream.step([1, 2, 3]),
      "InputError",
      /got a single array, expected arrays for inputs x, gain/,
    );
    await refuses(() => stream.step({ x: [1, 2, 3] }), "InputError", /got inputs x, expected x, gain/);
    await refuses(
      () => stream.step({ x: [1, 2, 3], gain: [1], z: [1] }),
      "InputError",
      /got inputs x, gain, z/,
    );
    await refuses(() => any.step({ x: [1, 2, 3], gain: 2 }), "InputError", /gain is 2, expected an array/);
    await refuses(
      () =>
        any.step(
          new (class {
            x = [1, 2, 3];
            get gain() {
              return [1];
            }
          })(),
        ),
      "InputError",
      /got inputs x, expected/,
    );
    await refuses(
      () => stream.process({ x: signal(6), gain: [1] }),
      "InputError",
      /gain: got 1 numbers, expected 1 for each step, of the same steps/,
    );
  },

  "whatever is not a sample is refused in one line, and leaves the state as it was": async ({
    load,
    url,
  }) => {
    const stream = (await load(`${url}lstm.lep`)).stream(),
      any = /** @type {any} */ (stream);
    stream.step([1, 2, 3]);
    const before = stream.state,
      detached = new Float32Array(3);
    structuredClone(detached, { transfer: [detached.buffer] });
    const wrong = /** @type {[any, RegExp][]} */ ([
      [[1, 2], /x: got 2 numbers, expected/],
      ["abc", /got "abc", expected numbers for x/],
      [null, /got null/],
      [undefined, /got undefined/],
      [5, /got 5/],
      [
        [
          [1, 2, 3],
          [4, 5, 6],
          [7, 8, 9],
        ],
        /x is an array at \[0\], expected a number/,
      ],
      [["a", "b", "c"], /x is "a" at \[0\], expected a number/],
      [[1, 2, "3"], /x is "3" at \[2\]/],
      [[1, null, 3], /x is null at \[1\]/],
      [[1, undefined, 3], /x is undefined at \[1\]/],
      [[1, true, 3], /x is true at \[1\]/],
      [[1, {}, 3], /x is an object at \[1\]/],
      [[1, Symbol("s"), 3], /x is Symbol\(s\) at \[1\]/],
      [{ length: 3 }, /x is undefined at \[0\]/],
      [{ length: -3 }, /expected an array of numbers/],
      [{ length: 1.5 }, /expected an array of numbers/],
      [new DataView(new ArrayBuffer(12)), /expected an array of numbers/],
      [() => 1, /got a function/],
      [detached, /got 0 numbers/],
      [[], /got 0 numbers/],
      ["line\nline", /got "line/],
    ]);
    for (const [sample, words] of wrong) {
      for (const kind of ["step", "process"]) await refuses(() => any[kind](sample), "InputError", words);
    }
    await refuses(
      () => any.process([1, 2, 3, 4]),
      "InputError",
      /x: got 4 numbers, expected a multiple of 3/,
    );
    check(isSame(stream.state, before), "the state");
    stream.step(/** @type {any} */ ([1n, 2, 3]));
  },

  "tokens are whole numbers of the table": async ({ load, url }) => {
    const model = await load(`${url}tokens.lep`);
    check(model.inputs[0]?.dtype === "int64", String(model.inputs[0]?.dtype));
    for (const stream of [model.stream(), model.stream({ window: 3 }), model.stream({ resetEvery: 2 })]) {
      for (const token of [1, 2n, 0]) stream.step([token]);
      const whole = only(stream.process([1, 2, 3]));
      const wrong = /** @type {any[]} */ ([
        1.7,
        "a",
        "1",
        NaN,
        Infinity,
        null,
        true,
        2 ** 64,
        2n ** 64n,
        2n ** 63n,
        2 ** 70,
        -(2n ** 64n) + 1n,
      ]);
      for (const token of wrong) {
        await refuses(
          () => stream.step([token]),
          "InputError",
          /at \[0\], expected a whole number from -9223372036854775808 to 9223372036854775807 \(int64\)/,
        );
        await refuses(() => stream.process([1, token]), "InputError", /at \[1\], expected a whole number/);
      }
      for (const token of [-1e6, 1e6]) {
        await refuses(() => stream.step([token]), "InputError", /index -?1000000, expected/);
        await refuses(() => stream.process([0, 0, 1, token]), "InputError", /index -?1000000, expected/);
      }
      stream.reset();
      stream.process([1, 2, 0]);
      check(isSame(only(stream.process([1, 2, 3])), whole), "the same after refusals");
    }
  },

  "a sample that is refused at a reset leaves the state before it": async ({ load, url }) => {
    const stream = (await load(`${url}tokens.lep`)).stream({ resetEvery: 2 });
    stream.process([1, 2]);
    const before = stream.state;
    await refuses(() => stream.step([1e6]), "InputError", /index 1000000, expected/);
    check(isSame(stream.state, before), "after a step");
    await refuses(() => stream.process([1, 2, 3, 1e6]), "InputError", /index 1000000, expected/);
    check(isSame(stream.state, before), "after a chunk over two resets");
  },

  "a stream resets as its file or its options say": async ({ load, url }) => {
    const model = await load(`${url}lstm-window.lep`),
      x = signal(3 * 13),
      steps = Array.from({ length: 13 }, (_, step) => x.subarray(3 * step, 3 * step + 3));
    check(model.resetEvery === 5, "the file's interval");
    const warn = console.warn,
      said = /** @type {string[]} */ ([]);
    console.warn = (words) => said.push(words);
    const byFile = model.stream();
    model.stream();
    console.warn = warn;
    check(said.length === 1 && /reset every 5 steps.*resetEvery: 5/.test(said[0] ?? ""), String(said));
    const by5 = model.stream({ resetEvery: 5 }),
      never = model.stream({ resetEvery: "never" });
    const [file, five, none] = [byFile, by5, never].map((stream) =>
      steps.map((sample) => Array.from(only(stream.step(sample)))),
    );
    check(
      JSON.stringify(file) === JSON.stringify(five) && JSON.stringify(file) !== JSON.stringify(none),
      "steps",
    );
    by5.reset();
    check(isSame(only(by5.process(x)), file?.at(-1) ?? []), "a chunk over two resets");
    const kept = by5.state;
    by5.process(x);
    by5.restore(kept);
    check(
      isSame(
        only(by5.process(x.subarray(0, 9))),
        only(model.stream({ resetEvery: "never" }).process(x.subarray(6, 9))),
      ),
      "a restored age",
    );
    const fromReset = model.stream({ resetEvery: "never" }),
      sliding = model.stream({ window: 4 }),
      results = steps.map((sample) => sliding.step(sample));
    check(
      results.slice(0, 3).every((result) => result === null),
      "no result until the window is full",
    );
    check(
      isSame(only(results[12] ?? null), only(fromReset.process(x.subarray(3 * 9)))),
      "a window from reset",
    );
    const any = /** @type {any} */ (model);
    for (const wrong of [0, -1, 1.5, "5", NaN, null, true, 2n]) {
      await refuses(
        () => any.stream({ resetEvery: wrong }),
        "InputError",
        /resetEvery is .*, expected a whole number from 1, or "never"/,
      );
      await refuses(
        () => any.stream({ window: wrong }),
        "InputError",
        /window is .*, expected a whole number from 1/,
      );
    }
    await refuses(
      () => any.stream({ window: 1e12 }),
      "InputError",
      /window is 1000000000000, expected at most/,
    );
    await refuses(() => any.stream({ window: 5, resetEvery: 5 }), "InputError", /remove resetEvery/);
    await refuses(
      () => any.stream({ reset_every: 5 }),
      "InputError",
      /unknown option "reset_every", expected resetEvery or window/,
    );
    await refuses(() => any.stream(20), "InputError", /unknown option 20/);
    await refuses(
      async () => (await load(`${url}strided.lep`)).stream({ window: 5 }),
      "InputError",
      /window is 5, expected a multiple of 4, the unit/,
    );
    await refuses(
      async () => (await load(`${url}late.lep`)).stream({ window: 2 }),
      "InputError",
      /window is 2, which is not longer than the delay of logits/,
    );
    await refuses(
      async () => (await load(`${url}gru.lep`)).stream({ window: 2 }),
      "InputError",
      /one input that has a sequence axis/,
    );
  },

  "a window keeps its samples when one is refused": async ({ load, url }) => {
    const model = await load(`${url}lstm.lep`),
      window = model.stream({ window: 3 }),
      other = model.stream({ window: 3 }),
      any = /** @type {any} */ (window);
    const samples = Array.from({ length: 5 }, (_, step) => Array.from(signal(3), (value) => value + step));
    for (const sample of samples) {
      await refuses(() => any.step([1, 2, "x"]), "InputError", /x is "x" at \[2\]/);
      const [result, expected] = [window.step(sample), other.step(sample)];
      check(
        (result === null) === (expected === null) &&
          (result === null || isSame(only(result), only(expected))),
        "the same result",
      );
    }
    window.reset();
    check(window.step([1, 2, 3]) === null, "a reset window is empty");
    window.close();
    await refuses(() => window.step([1, 2, 3]), "StateError", /this stream is closed/);
  },

  "results are read as the file's task says": async ({ load, url }) => {
    const model = await load(`${url}motions-int8.lep`),
      any = /** @type {any} */ (model);
    const { label, probabilities } = model.interpret([0, 3, 1, 0]);
    check(
      label === "Running" && Math.abs(probabilities.reduce((sum, share) => sum + share, 0) - 1) < 1e-12,
      "probabilities",
    );
    check(model.interpret([0, 3, 1, 0, 9, 0, 0, 0]).label === "Badminton", "the last frame counts");
    for (const wrong of [NaN, Infinity]) {
      await refuses(() => model.interpret([0, wrong, 1, 0]), "InputError", /largest value is not finite/);
    }
    check(model.interpret([0, -Infinity, 1, 0]).label !== "Running", "a class may be impossible");
    await refuses(() => model.interpret(null), "InputError", /skip the null/);
    await refuses(
      () => model.interpret([1, 2]),
      "InputError",
      /logits: got 2 values, expected a multiple of 4/,
    );
    await refuses(() => any.interpret(5), "InputError", /got 5, expected a result/);
    const values = await load(`${url}unbatched.lep`);
    await refuses(
      () => values.interpret(values.stream().step([1, 2, 3])),
      "InputError",
      /the task "regression", expected a classification/,
    );
    const strided = await load(`${url}strided.lep`),
      result = strided.stream().process(signal(3 * 16));
    check(strided.frames(result).length === 3 && strided.frames(null).length === 0, "frames");
    check(strided.interpret(result).probabilities.length === 3, "the task's output of several");
    const gru = await load(`${url}gru.lep`),
      stacked = gru.stream().step({ x: [1, 2, 3], gain: [1] });
    check(gru.frames(stacked)[0]?.length === 8, "the top layer's row");
  },

  "closed streams and models are refused, and touch no other stream": async ({ load, url }) => {
    const model = await load(`${url}lstm.lep`),
      closed = model.stream();
    closed.step([1, 2, 3]);
    const { state } = closed;
    closed.close();
    closed.close();
    const other = model.stream(),
      before = other.state;
    for (const work of [
      () => closed.restore(state),
      () => closed.step([1, 2, 3]),
      () => closed.process([1, 2, 3]),
      () => closed.reset(),
      () => closed.state,
    ]) {
      await refuses(work, "StateError", /this stream is closed; open another one/);
    }
    check(isSame(other.state, before), "another stream");
    const closing = {
      length: 3,
      get 0() {
        other.close();
        return 1;
      },
      1: 2,
      2: 3,
    };
    await refuses(() => other.step(closing), "StateError", /this stream is closed/);
    const open = model.stream();
    model.close();
    model.close();
    check(open.step([1, 2, 3]) !== null, "an open stream keeps the program");
    open.close();
    await refuses(() => model.stream(), "StateError", /this model is closed; load it again/);
    await refuses(() => model.selftest(), "StateError", /this model is closed/);
  },

  "a chunk that does not fit into memory is refused, and harms nothing": async ({ load, url }) => {
    const model = await load(`${url}lstm.lep`),
      stream = model.stream(),
      before = stream.state;
    await refuses(
      () => stream.process({ length: 3 * 2 ** 34 }),
      "InputError",
      /x: 51539607552 numbers are too many|no memory/,
    );
    const wide = await load(`${url}wide.lep`),
      other = wide.stream();
    other.step([1]);
    const { state } = other,
      steps = Math.ceil((2 ** 32 - 8) / (4 * (wide.outputs[0]?.width ?? 1))) + 1;
    await refuses(
      () => wide.stream().process(new Float32Array(steps)),
      "InputError",
      /no memory for \d+ MB; process fewer steps per call/,
    );
    check(isSame(other.state, state) && isSame(stream.state, before), "other streams");
    check(wide.stream().step([1]) !== null, "it goes on");
  },

  "what is no program is one line": async ({ load, url, bytes }) => {
    const content = await bytes("lstm.lep");
    await refuses(
      () => load(new Uint8Array([1, 2, 3])),
      "FileFormatError",
      /not a program.*convert the file again/,
    );
    await refuses(() => load(content.slice(0, 900)), "FileFormatError", /not a program/);
    content[1000] = (content[1000] ?? 0) ^ 1;
    await refuses(() => load(content), "FileFormatError", /not a program/);
    await refuses(() => load(`${url}nowhere.lep`), "NotFoundError", /nowhere\.lep can't be read/);
    for (const wrong of [undefined, null, 5, {}, []]) {
      await refuses(
        () => load(/** @type {any} */ (wrong)),
        "InputError",
        /expected a URL or the bytes of a \.lep file/,
      );
    }
    await refuses(() => load(new Uint8Array(0)), "FileFormatError", /not a program/);
  },
};
