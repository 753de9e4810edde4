/** What holds in Node and in every browser: each case runs there as it is. */

/** @import { LoadOptions, Model, Result, State } from "../site/lstm-edge/index.js" */
/**
 * Where a case runs.
 *
 * @typedef {object} Place
 * @property {(source: any, options?: LoadOptions) => Promise<Model>} load
 * @property {LoadOptions} options
 * @property {(name: string) => Promise<Uint8Array>} bytes of a test file
 * @property {string} url of the folder of the test files
 */
/** @typedef {(place: Place) => Promise<void>} Case */

/** @param {unknown} condition @param {string} message @returns {asserts condition} */
function check(condition, message) {
  if (!condition) throw new Error(message);
}

/** @param {ArrayLike<number>} left @param {ArrayLike<number>} right */
const isClose = (left, right, limit = 1e-6) =>
  left.length === right.length && Array.from(left).every((value, place) => Math.abs(value - (right[place] ?? NaN)) <= limit);

/** @param {Promise<unknown> | (() => unknown)} work @param {string} name @param {RegExp} words */
async function refuses(work, name, words) {
  /** @type {any} */
  let error;
  try {
    await (typeof work === "function" ? work() : work);
  } catch (thrown) {
    error = thrown;
  }
  check(error, `expected ${name} ${words}, got no error`);
  check(error.name === name && words.test(error.message), `expected ${name} ${words}, got ${error.name}: ${error.message}`);
  check(!error.message.includes("\n"), `more than one line: ${error.message}`);
}

/** A signal that is the same everywhere. @param {number} count */
const signal = (count, phase = 0) => Float32Array.from({ length: count }, (_, place) => Math.sin(place * 0.7 + phase) * 2);

/** @param {Result | null} result */
const only = (result) => {
  check(result instanceof Float32Array, "expected one array");
  return result;
};

/** @param {State} state */
const numbers = (state) => Object.values(state.arrays).flatMap(({ data }) => Array.from(data, Number));

/**
 * Return a file's bytes with a changed manifest: a second entry in metadata_props, which is the one that counts.
 *
 * @param {Uint8Array} bytes
 * @param {(manifest: any) => unknown} change
 */
export function withManifest(bytes, change) {
  const text = new TextDecoder("latin1").decode(bytes), start = text.indexOf('{"axes":{"batch"');
  let end = text.length;
  for (; ; end = text.lastIndexOf("}", end - 1)) {
    check(end > start, "no manifest found");
    try {
      const raw = JSON.parse(text.slice(start, end + 1));
      const changed = change(raw) ?? raw;
      return Uint8Array.from([...bytes, ...field(14, [...field(1, letters("lstm_edge")), ...field(2, letters(typeof changed === "string" ? changed : JSON.stringify(changed)))])]);
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
    }
  }
}
const letters = (/** @type {string} */ text) => [...new TextEncoder().encode(text)];
/** @param {number} number @param {number[]} content */
const field = (number, content) => {
  const size = [];
  for (let left = content.length; size.length === 0 || left > 0; left = Math.floor(left / 128)) size.push((left % 128) + (left > 127 ? 128 : 0));
  return [number * 8 + 2, ...size, ...content];
};

/** @type {Record<string, Case>} */
export const cases = {
  "the golden cases of a float and an int8 file are within their limits, whole and chunked": async ({ load, options, url }) => {
    for (const name of ["lstm.onnx", "motions-int8.onnx"]) {
      const model = await load(url + name, options), { ok, worst, comparisons } = await model.selftest();
      check(ok && worst.ratio > 0 && worst.ratio <= 1, `${name}: ${JSON.stringify(worst)}`);
      const ways = ["whole", "in two chunks", "step by step"], found = new Set(comparisons.map(({ how, name: output }) => `${how}: ${output}`));
      check(["c_n", "h_n", "logits"].every((output) => ways.every((how) => found.has(`${how}: ${output}`))), "comparisons are missing");
      await model.close();
    }
  },

  "fp16 weights load everywhere; float16 inputs load or the error names the file to make": async ({ load, options, url }) => {
    check((await (await load(`${url}stored.onnx`, options)).selftest()).ok, "fp16 weights");
    if (options.device === "webgpu") {
      // a GPU that computes float16 passes; a software one says what to do
      const tested = (await load(`${url}half.onnx`, options)).selftest();
      await tested.then(({ ok }) => check(ok, "float16 inputs"), () => refuses(tested, "ContractError", /load the file with device 'cpu'/));
    } else if ("Float16Array" in globalThis) check((await (await load(`${url}half.onnx`, options)).selftest()).ok, "float16 inputs");
    else await refuses(load(`${url}half.onnx`, options), "ProviderError", /float16.*float32.*--keep-io/);
  },

  "a selftest fails where the device computes something else": async ({ load, options, bytes }) => {
    const changed = withManifest(await bytes("lstm.onnx"), (manifest) => {
      const { data } = manifest.golden.outputs.logits, raw = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
      const values = new Float32Array(raw.buffer);
      values[0] = (values[0] ?? 0) + 1e-5;
      manifest.golden.outputs.logits.data = btoa(String.fromCharCode(...raw));
    });
    const { ok, worst, comparisons } = await (await load(changed, options)).selftest();
    check(!ok && worst.name === "logits" && Math.abs(worst.error - 1e-5) < 1e-6, JSON.stringify(worst));
    check(comparisons.filter((each) => !each.ok).length === 3, "whole, in two chunks, step by step");
  },

  "limits a channel and further cases are heeded": async ({ load, options, bytes }) => {
    const limited = (/** @type {number[]} */ values) => (/** @type {any} */ manifest) => {
      const { more: _, ...first } = manifest.golden;
      manifest.golden.more = [{ ...first, limits: { logits: { shape: [1, 4], values } } }];
    };
    const whole = await bytes("lstm.onnx"), tight = [1, 1, 1e-12, 1];
    const { ok, comparisons } = await (await load(withManifest(whole, limited([1, 1, 1, 1])), options)).selftest();
    check(ok && comparisons.length === 18, "two cases, three ways, three outputs");
    check(comparisons.filter(({ limit }) => limit === 1).length === 3, "the second case's own limits");
    const failed = (await (await load(withManifest(whole, limited(tight)), options)).selftest()).worst;
    check(failed.name === "logits" && failed.limit === 1e-12 && failed.ratio > 1, JSON.stringify(failed));
    await refuses((await load(withManifest(whole, limited([1, 1])), options)).selftest(), "ManifestError", /limits/);
  },

  "the manifest's words are the model's": async ({ load, options, url }) => {
    const model = await load(`${url}lstm.onnx`, options), other = await load(`${url}unbatched.onnx`, options);
    check(model.labels.join() === "rest,walk,run,fall" && model.features.join() === "ax,ay,az", "names");
    check(model.samplingRate === 50 && other.units.join() === "m,m,m", "units");
    check(/^[0-9a-f]{64}$/.test(model.identity), model.identity);
    const { label, probabilities } = model.interpret(Float32Array.of(0, 1, 3, 1));
    check(label === "run" && isClose(probabilities ?? [], [0.0339, 0.0923, 0.6815, 0.0923].map((value) => value / 0.9), 2e-3), "softmax");
    check(model.interpret(Float32Array.of(0, NaN, 3, 1)).label === undefined, "NaN is no class");
    check(other.interpret(Float32Array.of(1, 2, 3)).units?.join() === "m,m,m", "regression");
  },

  "chunks, cut anywhere, equal steps and the whole": async ({ load, options, url }) => {
    const model = await load(`${url}lstm.onnx`, options), x = signal(3 * 20);
    const { outputs, state } = await model.run(x), whole = outputs.logits?.data ?? [];
    for (const cuts of [Array.from({ length: 20 }, (_, place) => place + 1), [7, 20], [1, 19, 20], [20]]) {
      const stream = model.stream();
      let from = 0, result;
      for (const to of cuts) {
        const piece = x.subarray(from * 3, to * 3);
        result = only(await (to - from === 1 ? stream.step(piece) : stream.process(piece)));
        from = to;
      }
      check(isClose(result ?? [], /** @type {any} */ (whole)), `cut at ${cuts}`);
      check(isClose(numbers(await stream.state()), numbers(state)), `state, cut at ${cuts}`);
    }
  },

  "a stream that starts again gives what one gives that is reset by hand, also after it moved": async ({ load, options, url }) => {
    const gru = await load(`${url}gru.onnx`, options), count = 17, x = signal(3 * count), gain = signal(count, 1);
    const part = (/** @type {number} */ from, /** @type {number} */ to) => ({ x: x.subarray(from * 3, to * 3), gain: gain.subarray(from, to) });
    const byHand = gru.stream(), stepped = gru.stream({ resetEvery: 5 }), whole = /** @type {any} */ (await gru.stream({ resetEvery: 5 }).process(part(0, count)));
    let chunked = gru.stream({ resetEvery: 5 }), from = 0, last, logits;
    const outputs = [];
    for (let step = 0; step < count; step += 1) {
      if (step % 5 === 0) await byHand.reset();
      last = /** @type {any} */ (await byHand.step(part(step, step + 1)));
      outputs.push(...last.output);
      logits = /** @type {any} */ (await stepped.step(part(step, step + 1))).logits;
      check(isClose(logits, last.logits), `step ${step}`);
    }
    for (const to of [3, 5, 6, 16, 17]) {
      const moved = structuredClone(await chunked.state());
      chunked = gru.stream({ resetEvery: 5 });
      await chunked.restore(moved);
      logits = /** @type {any} */ (await chunked.process(part(from, to))).logits;
      from = to;
    }
    check(isClose(logits, last.logits) && isClose(whole.logits, last.logits) && isClose(whole.output, outputs), "chunks");
    check((await chunked.state()).age === 2 && (await stepped.state()).age === 2, "age");
    await refuses(() => gru.stream({ resetEvery: "window" }), "InputError", /has no training window/);
    for (const wrong of [0, 1.5, "40"]) await refuses(() => gru.stream({ resetEvery: /** @type {any} */ (wrong) }), "InputError", /expected a positive integer/);
  },

  "a stream that outlives what was trained warns once": async ({ load, options, bytes }) => {
    const file = await bytes("lstm.onnx"), warn = console.warn;
    /** @type {string[]} */
    const said = [];
    console.warn = (/** @type {string} */ text) => said.push(text);
    try {
      const carried = await load(file, options);
      carried.stream();
      const model = await load(withManifest(file, (manifest) => { manifest.trained.carry = false; }), options);
      const older = await load(withManifest(file, (manifest) => { delete manifest.trained; }), options);
      check(carried.resetEvery === null && model.resetEvery === 20 && older.resetEvery === 20, "resetEvery");
      model.stream({ resetEvery: "window" });
      model.stream({ resetEvery: "never" });
      check(said.join() === "", said.join());
      model.stream();
      model.stream();
      check(said.length === 1 && /window of 20 steps .* resetEvery: "window"/.test(said[0] ?? ""), said.join());
    } finally {
      console.warn = warn;
    }
  },

  "a chunk of a file that takes one step a call, and files with other axes and inputs": async ({ load, options, url }) => {
    const gru = await load(`${url}gru.onnx`, options), stream = gru.stream(), whole = gru.stream();
    const x = signal(12), gain = signal(4, 1);
    const chunk = /** @type {any} */ (await whole.process({ x, gain }));
    let last;
    for (let step = 0; step < 4; step += 1) last = /** @type {any} */ (await stream.step({ x: x.subarray(step * 3, step * 3 + 3), gain: gain.subarray(step, step + 1) }));
    check(isClose(last.logits, chunk.logits) && isClose(last.output, chunk.output.subarray(24)), "gru");
    const wide = (await load(`${url}wide.onnx`, options)).stream();
    check(only(await wide.step([1, 2, 3])).length === 3, "wide");
    await refuses(wide.process([1, 2, 3, 4, 5, 6]), "InputError", /leaves F open/);
    const plain = (await load(`${url}unbatched.onnx`, options)).stream();
    check(isClose(only(await plain.process([1, 2, 3, 4, 5, 6])), [5, 7, 9]), "unbatched");
  },

  "rows of unequal length are the rows alone": async ({ load, options, url }) => {
    const gru = await load(`${url}gru.onnx`, options), x = signal(4 * 2 * 3), gain = signal(4 * 2, 1);
    const { outputs, state } = await gru.run({ x, gain }, { batch: 2, lengths: [4, 2] });
    const row = (/** @type {Float32Array} */ array, /** @type {number} */ width, /** @type {number} */ steps) =>
      Float32Array.from({ length: steps * width }, (_, place) => array[Math.floor(place / width) * 2 * width + width + (place % width)] ?? NaN);
    const alone = await gru.run({ x: row(x, 3, 2), gain: row(gain, 1, 2) });
    check(isClose(numbers(state).slice(8), numbers(alone.state)), "state of the second row");
    check(String(outputs.output?.dims) === "4,2,8", "shape");
    await refuses(gru.run({ x, gain }, { batch: 2, lengths: [5, 2] }), "InputError", /expected 2 of 1 to 4/);
    await refuses(gru.run({ x, gain }, { batch: 2, lengths: [1] }), "InputError", /expected 2/);
  },

  "streams share one session and never mix, and a call waits for those before it": async ({ load, options, url }) => {
    const model = await load(`${url}lstm.onnx`, options), count = 12;
    /** @type {Float32Array[]} */
    const alone = [];
    for (const phase of [0, 1, 2]) {
      const stream = model.stream(), x = signal(3 * count, phase);
      for (let step = 0; step < count; step += 1) alone[phase] = only(await stream.step(x.subarray(step * 3, step * 3 + 3)));
    }
    const streams = [0, 1, 2].map(() => model.stream()), buffer = new Float32Array(3);
    /** @type {Promise<Result | null>[]} */
    let pending = [];
    for (let step = 0; step < count; step += 1) {
      pending = streams.map((stream, phase) => {
        buffer.set(signal(3 * count, phase).subarray(step * 3, step * 3 + 3));
        return stream.step(buffer); // not awaited, and the buffer is used again at once
      });
    }
    const results = await Promise.all(pending);
    results.forEach((result, phase) => check(isClose(only(result), alone[phase] ?? []), `stream ${phase}`));
  },

  "reset, state and restore take their turn among steps": async ({ load, options, url }) => {
    const model = await load(`${url}lstm.onnx`, options), stream = model.stream(), fresh = model.stream();
    const [, kept, , , afterReset] = await Promise.all([stream.step([1, 2, 3]), stream.state(), stream.step([9, 9, 9]), stream.reset(), stream.state()]);
    check(isClose(numbers(afterReset), numbers(await fresh.state()), 0), "a reset stream is a new one");
    check(!isClose(numbers(kept), numbers(afterReset)), "the state moves");
    const next = only(await stream.step([1, 2, 3]));
    check(isClose(next, only(await fresh.step([1, 2, 3])), 0), "reset");
    const other = model.stream(), copy = structuredClone(kept);
    await other.restore(copy);
    copy.arrays.h_0?.data.fill(/** @type {never} */ (7));
    check(isClose(only(await other.step([4, 5, 6])), only(await fresh.step([4, 5, 6])), 0), "restore goes on from a copy");
    const foreign = (await load(`${url}motions-int8.onnx`, options)).stream();
    await refuses(foreign.restore(kept), "StateError", /is of model [0-9a-f]{12}, expected one of [0-9a-f]{12}/);
    await refuses(model.run(signal(6), { batch: 2, state: kept }), "StateError", /nothing is reset automatically/);
    await refuses(stream.restore(/** @type {any} */ (undefined)), "StateError", /expected/);
    await refuses(stream.restore({ ...kept, arrays: {} }), "StateError", /h_0/);
  },

  "learned initial states are where a stream starts": async ({ load, options, url }) => {
    const gru = await load(`${url}gru.onnx`, options), { state } = await gru.run({ x: signal(6), gain: signal(2) }, { batch: 2 });
    check(numbers(await gru.stream().state()).every((value) => value === 0.25), "reset value");
    check(String(state.arrays.h_0?.dims) === "1,2,8", "two rows of it");
  },

  "wrong input is one clear line, and leaves the state as it was": async ({ load, options, url }) => {
    const model = await load(`${url}lstm.onnx`, options), stream = model.stream(), any = /** @type {any} */ (stream);
    await stream.step([1, 2, 3]);
    const before = numbers(await stream.state());
    await refuses(stream.step([1, 2]), "InputError", /x has 2 values, expected 3: \(N, L, 3\) with N=1, L=1/);
    await refuses(stream.step(new Float32Array(6)), "InputError", /x has 6 values, expected 3/);
    await refuses(stream.process(new Float32Array(7)), "InputError", /x has 7 values, expected a multiple of 3/);
    await refuses(stream.process([]), "InputError", /x has 0 values/);
    await refuses(any.step(["1", "2", "3"]), "InputError", /expected float32 numbers/);
    await refuses(any.step([[1], [2], [3]]), "InputError", /expected float32 numbers/);
    await refuses(any.step("abc"), "InputError", /x is String/);
    await refuses(any.step(undefined), "InputError", /x is Undefined/);
    await refuses(any.step(null), "InputError", /x is/);
    await refuses(stream.step({ y: [1, 2, 3] }), "InputError", /expected the inputs x; got y/);
    await refuses(model.run([1, 2, 3], { lengths: [1] }), "InputError", /has no such input/);
    await refuses(model.run([1, 2, 3], { batch: 0 }), "InputError", /batch is 0/);
    check(isClose(numbers(await stream.state()), before, 0), "the state moved");
    const gru = (await load(`${url}gru.onnx`, options)).stream();
    await refuses(gru.step([1, 2, 3]), "InputError", /expected an object with x, gain; got one array/);
    await refuses(gru.process({ x: signal(6), gain: signal(3) }), "InputError", /gain has 3 values, expected 2/);
    check(only(await stream.step(Float64Array.of(1, 2, 3))).length === 4 && only(await stream.step(Int16Array.of(1, 2, 3))).length === 4, "other numbers are converted");
  },

  "a size outside of its axis's range is refused in the words of the Python runtime": async ({ load, options, bytes }) => {
    const limited = withManifest(await bytes("lstm.onnx"), (manifest) => { manifest.axes.ranges = { L: { least: 4, most: 12, multiple: 4 } }; });
    const model = await load(limited, options), stream = model.stream(), before = numbers(await stream.state());
    const words = (/** @type {number} */ steps) => String.raw`^x has shape \(1, ${steps}, 3\): axis L of \(N, L, 3\) is ${steps}, this file accepts 4\.\.12:4; use `;
    await refuses(stream.step(signal(3)), "InputError", new RegExp(`${words(1)}at least 4$`));
    await refuses(stream.process(signal(48)), "InputError", new RegExp(`${words(16)}at most 12$`));
    await refuses(model.run(signal(18)), "InputError", new RegExp(`${words(6)}a multiple of 4, such as 8$`));
    check(isClose(numbers(await stream.state()), before, 0), "the state moved");
    check((await model.run(signal(24))).outputs.logits?.dims[0] === 1, "8 steps");
    for (const range of [{ least: 0, most: null, multiple: 1 }, { least: 1, multiple: 1 }, 4]) {
      const malformed = withManifest(await bytes("lstm.onnx"), (manifest) => { manifest.axes.ranges = { L: range }; });
      await refuses(load(malformed, options), "ManifestError", /malformed at 'axes'/);
    }
  },

  "an axis that follows from another one decides its size": async ({ load, options, bytes }) => {
    const doubled = withManifest(await bytes("lstm.onnx"), (manifest) => {
      manifest.inputs[0].axes = ["N", "2*L", 3];
      manifest.axes.ranges = { L: { least: 2, most: null, multiple: 1 } };
    });
    const model = await load(doubled, options);
    await refuses(model.run(signal(9)), "InputError", /^x has 9 values, expected a multiple of 3: \(N, 2\*L, 3\) with N=1$/);
    await refuses(model.run(signal(6)), "InputError", /axis L of \(N, 2\*L, 3\) is 1, this file accepts 2\.\.; use at least 2$/);
    check((await model.run(signal(12))).outputs.logits?.dims[0] === 1, "4 steps");
  },

  "a truncated or foreign file is one clear line": async ({ load, options, bytes, url }) => {
    for (const name of options.device === "webgpu" ? ["lstm.onnx"] : ["lstm.onnx", "motions-int8.onnx"]) {
      const whole = await bytes(name);
      for (const share of [0, 0.001, 0.01, 0.3, 0.6, 0.9, 0.99, 0.999]) {
        await refuses(load(whole.slice(0, Math.floor(whole.length * share)), options), "FileFormatError", /truncated|can't open/);
      }
    }
    await refuses(load(new TextEncoder().encode("<!doctype html><title>404</title>"), options), "FileFormatError", /not an ONNX file/);
    await refuses(load(`${url}bare.onnx`, options), "ManifestError", /no manifest.*lstm-edge lift/);
    await refuses(load(`${url}broken.onnx`, options), "ContractError", /h_last|c_0/);
    await refuses(load(`${url}nowhere.onnx`, options), "NotFoundError", /nowhere.onnx can't be read/);
    await refuses(load(/** @type {any} */ (17), options), "InputError", /number/);
    await refuses(load(`${url}lstm.onnx`, /** @type {any} */ ({ ...options, device: "tpu" })), "InputError", /'cpu' or 'webgpu'/);
  },

  "a malformed manifest is refused, wherever it is wrong": async ({ load, options, bytes }) => {
    const whole = await bytes("lstm.onnx");
    await refuses(load(withManifest(whole, (manifest) => ({ ...manifest, schema: 4 })), options), "ManifestError", /schema 4, this version reads 3/);
    await refuses(load(withManifest(whole, () => "{"), options), "ManifestError", /not JSON/);
    await refuses(load(withManifest(whole, () => "[]"), options), "ManifestError", /schema/);
    const fields = ["inputs", "outputs", "states", "axes", "lengths", "unstreamable", "task", "signal", "precision", "provenance", "equivalence", "golden"];
    for (const name of fields) {
      for (const wrong of [7, undefined, [7]]) {
        await refuses(load(withManifest(whole, (manifest) => ({ ...manifest, [name]: wrong })), options), "ManifestError", new RegExp(`malformed at '${name}'`));
      }
    }
    for (const wrong of [{ axes: [0] }, { dtype: "float3" }, { reset: "0" }, { input: null }]) {
      await refuses(load(withManifest(whole, (manifest) => { Object.assign(manifest.states[0], wrong); }), options), "ManifestError", /malformed at 'states'/);
    }
    await refuses(load(withManifest(whole, (manifest) => { manifest.golden.inputs.x.data = "AAAA"; }), options), "ManifestError", /array/);
    await refuses((await load(withManifest(whole, (manifest) => { delete manifest.golden.outputs.c_n; }), options)).selftest(), "ManifestError", /leaves out/);
    await refuses((await load(withManifest(whole, (manifest) => { manifest.golden = null; }), options)).selftest(), "InputError", /no golden case/);
    await load(withManifest(whole, (manifest) => { manifest.later = 1; }), options); // fields of a later release are passed over
  },

  "a stream that lags gives the frames of the file, from samples and blocks of any size": async ({ load, options, url }) => {
    for (const [name, unit, delay, behind] of /** @type {[string, number, number, number][]} */ ([["late", 1, 2, 2], ["strided", 4, 4, 1]])) {
      const model = await load(`${url}${name}.onnx`, options), steps = 30, x = signal(3 * steps);
      check(model.unstreamable === "" && model.stream().delay === delay, `${name}: delay`);
      const units = x.subarray(0, 3 * (steps - (steps % unit))), frames = Math.floor(steps / unit) - behind;
      const whole = /** @type {Float32Array} */ ((await model.run(units)).outputs.logits?.data).subarray(3 * behind);
      const main = (/** @type {any} */ result) => (ArrayBuffer.isView(result) || result === null ? result : result.logits);
      const stepped = model.stream(), found = [];
      for (let step = 0; step < steps; step += 1) {
        const frame = main(await stepped.step(x.subarray(step * 3, step * 3 + 3)));
        check((frame === null) === ((step + 1) % unit > 0 || (step + 1) / unit <= behind), `${name}: a frame at step ${step}`);
        found.push(...(frame ?? []));
      }
      check(found.length === frames * 3 && isClose(found, whole.subarray(0, found.length)), `${name}: steps`);
      for (const cuts of [[30], [1, 3, 9, 10, 30], [7, 14, 29, 30]]) {
        let stream = model.stream(), from = 0;
        const blocks = [];
        for (const to of cuts) {
          blocks.push(...main(await stream.process(x.subarray(from * 3, to * 3))));
          const kept = structuredClone(await stream.state());
          check(kept.age === to && (kept.rest?.x?.dims[1] ?? 0) === to % unit, `${name}: rest at ${to}`);
          stream = model.stream();
          await stream.restore(kept);
          from = to;
        }
        check(isClose(blocks, found), `${name}: cut at ${cuts}`);
      }
      const again = model.stream({ resetEvery: 13 }), each = main(await model.stream().process(x.subarray(0, 39)));
      check(isClose(main(await again.process(x.subarray(0, 39))), each), "before it starts again");
      check(isClose(main(await again.process(x.subarray(0, 39))), each), "after it");
      await stepped.reset();
      check(isClose(main(await stepped.process(x)), found), `${name}: reset`);
    }
  },

  "a second output of a stream has its own frames, and a result of the last one alone is left out before it": async ({ load, options, url }) => {
    const model = await load(`${url}strided.onnx`, options), stream = model.stream(), x = signal(3 * 8);
    check(Object.keys(/** @type {any} */ (await stream.process(x.subarray(0, 21)))).join() === "logits", "7 samples");
    const { logits, last } = /** @type {any} */ (await stream.step(x.subarray(21)));
    check(logits.length === 3 && last.length === 2, "8 samples");
    check((await stream.step([1, 2, 3])) === null, "a ninth");
  },

  "a state of a stream that does not fit is refused": async ({ load, options, bytes, url }) => {
    const model = await load(`${url}strided.onnx`, options), stream = model.stream();
    await stream.process(signal(3 * 6));
    const kept = await stream.state();
    for (const wrong of [{ rest: {} }, { age: 4 }, { rest: { x: { .../** @type {any} */ (kept.rest).x, dims: [1, 1, 3] } } }]) {
      await refuses(stream.restore(/** @type {any} */ ({ ...kept, ...wrong })), "StateError", /has other samples than the last [02]/);
    }
    for (const wrong of [{ unit: 0 }, { delays: { logits: -1 } }]) {
      const changed = withManifest(await bytes("strided.onnx"), (manifest) => { Object.assign(manifest, wrong); });
      await refuses(load(changed, options), "ManifestError", /malformed at/);
    }
  },

  "a file that can't be streamed says why and runs whole sequences": async ({ load, options, bytes }) => {
    const why = "layer 'encoder' is bidirectional", whole = await bytes("lstm.onnx");
    const model = await load(withManifest(whole, (manifest) => { manifest.unstreamable = why; }), options);
    await refuses(() => model.stream(), "ContractError", /can't be streamed: layer 'encoder' is bidirectional; use model.run\(\) on whole sequences/);
    check(model.unstreamable === why && (await model.run(signal(30))).outputs.logits?.data.length === 4, "run");
    const { ok, comparisons } = await model.selftest();
    check(ok && comparisons.every(({ how }) => how === "whole"), "selftest in one call only");
  },
};
