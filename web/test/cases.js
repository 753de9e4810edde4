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

/** Return a program with another manifest of at most its length, and the right checksum. @param {Uint8Array} content @param {number} start @param {number} end @param {string} text */
function withManifest(content, start, end, text) {
  const changed = content.slice();
  changed.fill(32, start, end);
  changed.set(new TextEncoder().encode(text), start);
  let crc = 0xffffffff;
  for (const byte of changed.subarray(16)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  new DataView(changed.buffer).setUint32(12, ~crc >>> 0, true);
  return changed;
}

/** @type {Record<string, Case>} */
export const cases = {
  "golden cases of float, int8, delayed and strided programs are within their limits": async ({
    load,
    url,
  }) => {
    for (const name of ["lstm", "motions-int8", "late", "strided"]) {
      const { ok, worst } = (await load(`${url}${name}.lep`)).selftest();
      check(ok && worst > 0 && worst <= 1, `${name}: ${worst}`);
    }
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
    const { label, probabilities } = model.interpret([0, 3, 1, 0]);
    check(
      label === "Running" && Math.abs(probabilities.reduce((sum, share) => sum + share, 0) - 1) < 1e-12,
      "probabilities",
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

  "a state goes on where it was taken, within a unit too": async ({ load, url }) => {
    for (const name of ["lstm", "strided", "late", "tokens"]) {
      const model = await load(`${url}${name}.lep`);
      const x = name === "tokens" ? Array.from({ length: 30 }, (_, index) => index % 5) : [...signal(3 * 30)];
      const width = model.inputs[0]?.width ?? 1;
      for (const steps of [10, 11]) {
        const first = model.stream();
        const second = model.stream();
        first.process(x.slice(0, steps * width));
        const kept = structuredClone(first.state);
        const expected = only(first.process(x.slice(steps * width)));
        second.process(x);
        second.restore(kept);
        check(isSame(only(second.process(x.slice(steps * width))), expected), `${name} goes on`);
      }
    }
    const other = (await load(`${url}motions-int8.lep`)).stream();
    const stream = (await load(`${url}lstm.lep`)).stream();
    stream.step([1, 2, 3]);
    const { state } = stream;
    await refuses(() => other.restore(state), "StateError", /of model [0-9a-f]{12}, expected [0-9a-f]{12}/);
    for (const damaged of [
      state.slice(0, 50),
      state.slice(1),
      state.map((byte, index) => (index === 200 ? byte ^ 1 : byte)),
    ]) {
      await refuses(() => stream.restore(damaged), "StateError", /saved stream/);
    }
    await refuses(() => stream.restore(/** @type {any} */ ({ age: 1 })), "StateError", /got no bytes/);
    check(isSame(stream.state, state), "unchanged");
  },

  "a stream follows the file's reset interval, or the one given": async ({ load, url }) => {
    const model = await load(`${url}reset.lep`);
    const x = signal(3 * 30);
    const at = (/** @type {number} */ step) => x.subarray(3 * step, 3 * step + 3);
    check(model.resetEvery === 7, "the interval");
    /** @type {string[]} */
    const warned = [];
    const { warn } = console;
    console.warn = (text) => warned.push(text);
    const follows = model.stream();
    model.stream();
    console.warn = warn;
    check(warned.length === 1 && /reset every 7 steps/.test(warned[0] ?? ""), "one warning");
    const told = model.stream({ resetEvery: 7 });
    const never = model.stream({ resetEvery: "never" });
    const byChunk = model.stream({ resetEvery: 7 });
    let fresh = model.stream({ resetEvery: "never" });
    for (let step = 0; step < 30; step += 1) {
      if (step % 7 === 0) fresh = model.stream({ resetEvery: "never" });
      const expected = only(fresh.step(at(step)));
      check(isSame(only(follows.step(at(step))), expected), `step ${step}`);
      check(isSame(only(told.step(at(step))), expected), `step ${step}, as told`);
      check(isSame(only(never.step(at(step))), expected) === step < 7, `step ${step}, never`);
      if (step % 10 === 9) {
        check(isSame(only(byChunk.process(x.subarray(3 * (step - 9), 3 * (step + 1)))), expected), "a chunk");
      }
    }
    for (const wrong of [0, 1.5, "window", null]) {
      await refuses(
        () => model.stream(/** @type {any} */ ({ resetEvery: wrong })),
        "InputError",
        /expected a positive integer or "never"/,
      );
    }
    await refuses(
      () => model.stream(/** @type {any} */ ({ windows: 3 })),
      "InputError",
      /got the option windows/,
    );
  },

  "a reset that is due is undone if the sample is refused": async ({ load, url }) => {
    const model = await load(`${url}tokens.lep`);
    const stream = model.stream({ resetEvery: 3 });
    stream.process([0, 1, 2]);
    const before = stream.state;
    await refuses(() => stream.step([9]), "InputError", /index 9, expected -5 to 4/);
    await refuses(() => stream.process([1, 2, 3, 4, 9]), "InputError", /index 9/);
    check(isSame(stream.state, before), "the state");
  },

  "a sliding window gives what the window alone gives from reset": async ({ load, url }) => {
    for (const [name, window] of /** @type {[string, number][]} */ ([
      ["lstm", 4],
      ["late", 5],
      ["strided", 8],
      ["tokens", 3],
    ])) {
      const model = await load(`${url}${name}.lep`);
      const width = model.inputs[0]?.width ?? 1;
      const x =
        name === "tokens" ? Array.from({ length: 20 }, (_, index) => index % 5) : [...signal(width * 20)];
      const stream = model.stream({ window });
      for (let step = 0; step < 20; step += 1) {
        if (step % 5 === 4 && name === "tokens")
          await refuses(() => stream.step([7]), "InputError", /index 7/);
        if (step % 5 === 4) await refuses(() => stream.step(/** @type {any} */ (["a"])), "InputError", /got/);
        const result = stream.step(x.slice(step * width, (step + 1) * width));
        check((result === null) === step + 1 < window, `${name}: when results come`);
        if (!result) continue;
        const fresh = only(model.stream().process(x.slice((step + 1 - window) * width, (step + 1) * width)));
        const size = model.outputs[0]?.width ?? 1;
        check(isSame(only(result), fresh.slice(-size)), `${name}: step ${step}`);
      }
      check(stream.stepsSeen === 20, "steps seen");
      stream.reset();
      check(stream.step(x.slice(0, width)) === null, "after a reset");
      stream.close();
    }
    const strided = await load(`${url}strided.lep`);
    await refuses(() => strided.stream({ window: 6 }), "InputError", /a multiple of 4, the unit/);
    await refuses(() => strided.stream({ window: 4 }), "InputError", /a delay of 4 steps/);
    await refuses(() => strided.stream({ window: 0 }), "InputError", /a whole number from 1/);
    await refuses(
      () => strided.stream(/** @type {any} */ ({ window: 8, resetEvery: 8 })),
      "InputError",
      /remove resetEvery/,
    );
  },

  "several inputs go by name": async ({ load, url }) => {
    const model = await load(`${url}gru.lep`),
      names = model.inputs.map(({ name }) => name).join();
    check(names === "x,gain", names);
    const result = model.stream().step({ x: [1, 2, 3], gain: [2] });
    check(result !== null, "a result");
    await refuses(
      () => model.stream().step([1, 2, 3]),
      "InputError",
      /expected arrays of numbers for x, gain; got none for x/,
    );
    await refuses(
      () => model.stream().process({ x: signal(6), gain: [1] }),
      "InputError",
      /gain: got 1 numbers, expected a multiple of 1, of the same steps/,
    );
  },

  "wrong input is one line and leaves the state as it was": async ({ load, url }) => {
    const stream = (await load(`${url}lstm.lep`)).stream(),
      any = /** @type {any} */ (stream);
    stream.step([1, 2, 3]);
    const before = stream.state;
    /** @type {[any, RegExp][]} */
    const wrongs = [
      [[1, 2], /x: got 2 numbers, expected 3/],
      ["abc", /expected arrays of numbers for x/],
      [null, /got none for x/],
      [undefined, /got none for x/],
      [{ length: 3 }, /got none for x/],
      [new DataView(new ArrayBuffer(12)), /got none for x/],
      [["a", "b", "c"], /x: got "a" at 0, expected float32/],
      [[1n, 2n, 3n], /x: got 1 at 0/],
      [[true, 1, 2], /x: got true at 0/],
      [[{}, {}, {}], /x: got \[object Object\] at 0/],
      [Array.from({ length: 3 }), /x: got undefined at 0/],
      [[Symbol("s"), 1, 2], /x: got Symbol\(s\) at 0/],
      [
        [
          [1, 2, 3],
          [4, 5, 6],
        ],
        /got 2 numbers/,
      ],
    ];
    for (const [wrong, words] of wrongs) {
      await refuses(() => any.step(wrong), "InputError", words);
      await refuses(() => any.process(wrong), "InputError", /expected/);
    }
    await refuses(
      () => any.process([1, 2, 3, 4]),
      "InputError",
      /x: got 4 numbers, expected a multiple of 3/,
    );
    await refuses(() => any.process([]), "InputError", /x: got 0 numbers/);
    const detached = new Float32Array(3);
    structuredClone(detached, { transfer: [detached.buffer] });
    await refuses(() => any.step(detached), "InputError", /x: got 0 numbers/);
    check(isSame(stream.state, before), "the state");
  },

  "tokens are whole numbers within the type and the table": async ({ load, url }) => {
    const model = await load(`${url}tokens.lep`);
    check(model.inputs[0]?.type === 1, "int64");
    const stream = model.stream();
    const before = stream.state;
    for (const wrong of [1.7, NaN, "3", null, true, 1e300, 2 ** 64, 2n ** 63n]) {
      await refuses(
        () => stream.step(/** @type {any} */ ([wrong])),
        "InputError",
        /tokens: got .* at 0, expected int64/,
      );
    }
    for (const wrong of [5, -6]) {
      await refuses(() => stream.step([wrong]), "InputError", /tokens: index -?\d, expected -5 to 4/);
      await refuses(() => stream.process([1, 2, wrong]), "InputError", /tokens: index/);
    }
    check(isSame(stream.state, before), "the state");
    check(isSame(only(model.stream().step([3])), only(model.stream().step([3n]))), "a BigInt");
  },

  "a closed stream is refused and touches no other one": async ({ load, url }) => {
    const model = await load(`${url}lstm.lep`);
    const closed = model.stream();
    closed.step([1, 2, 3]);
    const kept = closed.state;
    closed.close();
    closed.close();
    const open = model.stream();
    const before = open.state;
    for (const use of [
      () => closed.restore(kept),
      () => closed.step([1, 2, 3]),
      () => closed.process([1, 2, 3]),
      () => closed.reset(),
      () => closed.state,
    ]) {
      await refuses(use, "StateError", /this stream is closed/);
    }
    check(isSame(open.state, before), "another stream");
    model.close();
    model.close();
    check(only(open.step([1, 2, 3])).length === 4, "an open stream keeps its program");
    await refuses(() => model.stream(), "StateError", /this model is closed/);
    await refuses(() => model.selftest(), "StateError", /this model is closed/);
  },

  "a chunk that is too long for the memory is refused": async ({ load, url }) => {
    const model = await load(`${url}lstm.lep`);
    const stream = model.stream();
    const other = model.stream();
    stream.step([1, 2, 3]);
    const before = [stream.state, other.state];
    const huge = { length: 3 * 2 ** 30 };
    await refuses(() => stream.process(/** @type {any} */ (huge)), "InputError", /got none for x/);
    const wide = await load(`${url}wide.lep`);
    const long = new Float32Array(2 ** 22);
    await refuses(
      () => wide.stream().process(long),
      "InputError",
      /no memory for 4194304 steps in one call; use shorter chunks/,
    );
    check(wide.selftest().ok, "the library goes on");
    check(isSame(stream.state, before[0] ?? []) && isSame(other.state, before[1] ?? []), "the states");
  },

  "results are read as labels, or refused as in Python": async ({ load, url }) => {
    const model = await load(`${url}lstm.lep`);
    const logits = model.stream().step([1, 2, 3]);
    const { label, probabilities } = model.interpret(logits);
    check(label === model.labels[only(logits).indexOf(Math.max(...only(logits)))], label);
    check(Math.abs(probabilities.reduce((sum, share) => sum + share, 0) - 1) < 1e-12, "probabilities");
    check(model.interpret([0, 0, 9, 0, 9, 0, 0, 0]).label === "rest", "the last frame");
    await refuses(
      () => model.interpret(null),
      "InputError",
      /without a frame, expected logits; skip the null/,
    );
    await refuses(() => model.interpret([1, 2]), "InputError", /got 2 numbers, expected a multiple of 4/);
    const regression = await load(`${url}unbatched.lep`);
    await refuses(
      () => regression.interpret([1, 2, 3]),
      "InputError",
      /the task "regression", expected a classification/,
    );
  },

  "a manifest with a wrong value is one line": async ({ load, bytes }) => {
    const content = await bytes("lstm.lep");
    const text = new TextDecoder("latin1").decode(content);
    const start = text.indexOf('{"axes"');
    const end = text.indexOf("}", text.lastIndexOf('"unstreamable"')) + 1;
    const manifest = JSON.parse(text.slice(start, end));
    /** @type {[(m: any) => void, RegExp][]} */
    const edits = [
      [(m) => (m.schema = 2), /schema is 2, expected 1/],
      [(m) => (m.task = 3), /task has no kind/],
      [(m) => (m.task.output = "zzz"), /task\.output is "zzz"/],
      [(m) => (m.task.labels = 3), /task\.labels are not texts/],
      [(m) => (m.signal = null), /signal\.features are not texts/],
      [(m) => (m.signal.sampling_rate = -1), /signal\.sampling_rate is -1/],
      [(m) => (m.reset_every = 0), /reset_every is 0/],
      [(m) => (m.identity = 5), /identity is not a text/],
    ];
    for (const [edit, words] of edits) {
      const changed = structuredClone(manifest);
      edit(changed);
      delete changed.golden;
      await refuses(
        () => load(withManifest(content, start, end, JSON.stringify(changed))),
        "FileFormatError",
        words,
      );
    }
    await refuses(() => load(withManifest(content, start, end, "{")), "FileFormatError", /it is not JSON/);
    await refuses(
      () => load(withManifest(content, start, end, "[1]")),
      "FileFormatError",
      /it is not an object/,
    );
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
  },
};
