/** Run native programs (`.lep`) of lstm-edge in browsers and in Node: the C library in WebAssembly. */

import { checkManifest } from "./manifest.js";
import { asInputs, typedArrayAt } from "./samples.js";
import { LstmEdgeError } from "./errors.js";

export { LstmEdgeError } from "./errors.js";

/** @import { Manifest } from "./manifest.js" */
/** @import { Numbers, Samples } from "./samples.js" */
/**
 * One array, or one by the name of each output; null if no frame is complete.
 *
 * @typedef {Float32Array | Record<string, Float32Array> | null} Result
 */
/**
 * An input, output or state.
 *
 * @typedef {object} Port
 * @property {string} name
 * @property {number} width numbers of one step, or of one frame of an output
 * @property {number} type of an element: an index in `TYPES`
 * @property {boolean} everyStep of an output: true if `process` gives one for each step, false for the last one
 * @property {number} frames of an output: frames in one unit
 */
/**
 * Everything that a stream continues from, as C and Python write it: plain bytes, for files and IndexedDB.
 *
 * @typedef {Uint8Array<ArrayBuffer>} State
 */
/**
 * @typedef {object} StreamOptions
 * @property {number | "never"} [resetEvery] steps after which the state is reset; the manifest's if left out
 * @property {undefined} [window]
 */
/**
 * @typedef {object} WindowOptions
 * @property {number} window run the last samples from the reset state at every step
 * @property {undefined} [resetEvery]
 */
/** @typedef {WebAssembly.Exports & {memory: WebAssembly.Memory} & Record<string, any>} Library */

const INPUT = 0;
const OUTPUT = 1;
const STATE = 2;
const PORT_BYTES = 28;
const NO_GOLDEN = 8;
const BAD_STATE = 9;
/** Bytes of the largest block: sizes are signed numbers of 32 bits in WebAssembly. */
const MAX_BYTES = 2 ** 31 - 1;

/**
 * Read bytes, a Blob or a URL (in Node also a path).
 *
 * @param {string | URL | Blob | ArrayBuffer | ArrayBufferView} source
 * @returns {Promise<Uint8Array>}
 */
async function read(source) {
  if (ArrayBuffer.isView(source)) return new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  try {
    if (source instanceof Blob) return new Uint8Array(await source.arrayBuffer());
    if (isPath(source)) {
      const { readFile } = await import("node:fs/promises");
      return new Uint8Array(await readFile(String(source).startsWith("file:") ? new URL(source) : source));
    }
    const response = await fetch(source);
    if (response.ok) return new Uint8Array(await response.arrayBuffer());
    throw new Error(`${response.status} ${response.statusText}`.trim());
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new LstmEdgeError("NotFoundError", `${String(source)} can't be read: ${reason}`);
  }
}

/** @param {string | URL} source */
function isPath(source) {
  const isNode = typeof process === "object" && Boolean(process.versions?.node);
  return isNode && !/^(https?|data|blob):/.test(String(source));
}

/** @type {Promise<WebAssembly.Module> | undefined} */
let compiled;

/**
 * Open a program.
 *
 * @param {string | URL | Blob | ArrayBuffer | ArrayBufferView} source a `.lep` file: its URL (in Node also a
 *   path), or its content
 * @returns {Promise<Model>}
 */
export async function load(source) {
  compiled ??= read(new URL("lstm_edge.wasm", import.meta.url)).then((bytes) =>
    WebAssembly.compile(/** @type {BufferSource} */ (bytes)),
  );
  const [module, bytes] = await Promise.all([compiled, read(source)]);
  /** @type {Record<string, Record<string, () => number>>} */
  const imports = {};
  for (const { module: from, name } of WebAssembly.Module.imports(module)) {
    (imports[from] ??= {})[name] = () => 0;
  }
  const c = /** @type {Library} */ ((await WebAssembly.instantiate(module, imports)).exports);
  c._initialize();
  const data = allocate(c, bytes.length);
  if (!data) throw new LstmEdgeError("FileFormatError", `no memory for a file of ${bytes.length} bytes`);
  new Uint8Array(c.memory.buffer).set(bytes, data);
  const program = c.lstm_edge_load(data, bytes.length);
  c.free(data);
  if (!program) {
    const reason = lastError(c);
    throw new LstmEdgeError(
      "FileFormatError",
      `not a program of lstm-edge: ${reason}; convert the file again`,
    );
  }
  return new Model(c, program);
}

/**
 * Return the address of a block of memory, 0 if there is none.
 *
 * @param {Library} c
 * @param {number} size
 * @returns {number}
 */
function allocate(c, size) {
  return size <= MAX_BYTES ? c.malloc(Math.max(1, size)) >>> 0 : 0;
}

/** @param {Library} c @param {number} at */
function textAt(c, at) {
  const all = new Uint8Array(c.memory.buffer);
  return new TextDecoder().decode(all.slice(at, all.indexOf(0, at)));
}

/** @param {Library} c */
const lastError = (c) => textAt(c, c.lstm_edge_last_error());

/** An open program. Its streams share it. */
export class Model {
  /** @internal @readonly */ _c;
  /** @internal */ _program;
  /** The description in the file. @readonly @type {Manifest} */ manifest;
  /** @readonly @type {readonly Port[]} */ inputs;
  /** @readonly @type {readonly Port[]} */ outputs;
  /** @readonly @type {readonly Port[]} */ states;
  #hasWarned = false;

  /** @internal @param {Library} c @param {number} program */
  constructor(c, program) {
    this._c = c;
    this._program = program;
    this.inputs = this.#ports(INPUT);
    this.outputs = this.#ports(OUTPUT);
    this.states = this.#ports(STATE);
    const text = c.lstm_edge_manifest(program);
    this.manifest = checkManifest(
      text ? textAt(c, text) : "",
      this.outputs.map(({ name }) => name),
    );
  }

  /** @param {number} kind @returns {Port[]} */
  #ports(kind) {
    const { _c: c, _program: program } = this;
    const at = allocate(c, PORT_BYTES);
    const ports = Array.from({ length: c.lstm_edge_count(program, kind) }, (_, index) => {
      c.lstm_edge_describe(program, kind, index, at);
      const [name = 0, width = 0, type = 0, flag = 0, frames = 0] = new Uint32Array(c.memory.buffer, at, 7);
      return { name: textAt(c, name), width, type, everyStep: flag !== 0, frames };
    });
    c.free(at);
    return ports;
  }

  /** Class names, in the order of the task's output. @returns {readonly string[]} */
  get labels() {
    return this.manifest.task?.labels ?? [];
  }

  /** Units of predicted values. @returns {readonly string[]} */
  get units() {
    return this.manifest.task?.units ?? [];
  }

  /** Names of the input's features. @returns {readonly string[]} */
  get features() {
    return this.manifest.signal.features;
  }

  /** Samples per second, if known. @returns {number | null} */
  get samplingRate() {
    return this.manifest.signal.sampling_rate;
  }

  /** Steps after which a stream is reset, as in training; null for never. @returns {number | null} */
  get resetEvery() {
    return this.manifest.reset_every ?? null;
  }

  /** sha256 of the `.onnx` file that the program was made from. @returns {string} */
  get identity() {
    return this.manifest.identity ?? "";
  }

  /** Steps per result: 1 without strides. @returns {number} */
  get unit() {
    return this._c.lstm_edge_unit(this.#open());
  }

  /** Delay of the outputs, in steps. @returns {number} */
  get delay() {
    return this._c.lstm_edge_delay(this.#open());
  }

  /** Return the program; raise an error if it is closed. */
  #open() {
    if (!this._program) throw new LstmEdgeError("StateError", "this model is closed; load it again");
    return this._program;
  }

  /**
   * Open a stream at the reset state: one source of samples.
   *
   * @overload
   * @param {StreamOptions} [options]
   * @returns {Stream}
   */
  /**
   * Open a stream whose every result is computed from the last samples and the reset state.
   *
   * @overload
   * @param {WindowOptions} options
   * @returns {SlidingStream}
   */
  /** @param {StreamOptions | WindowOptions} [options] */
  stream(options = {}) {
    this.#open();
    for (const name of Object.keys(options)) {
      if (name !== "resetEvery" && name !== "window") {
        throw new LstmEdgeError("InputError", `got the option ${name}, expected resetEvery or window`);
      }
    }
    if (options.window !== undefined) {
      if (options.resetEvery !== undefined) {
        const reason = "a sliding window starts from reset at every step; remove resetEvery";
        throw new LstmEdgeError("InputError", reason);
      }
      return new SlidingStream(this, options.window);
    }
    return new Stream(this, this.#resetInterval(options.resetEvery));
  }

  /** @param {number | "never" | undefined} resetEvery @returns {number} */
  #resetInterval(resetEvery) {
    const interval = this.resetEvery;
    if (resetEvery === undefined && interval !== null) {
      if (!this.#hasWarned) {
        console.warn(
          `the state is reset every ${interval} steps, the training window; pass resetEvery: ${interval} to ` +
            `confirm, or resetEvery: "never" to carry it on`,
        );
      }
      this.#hasWarned = true;
      return interval;
    }
    if (resetEvery === undefined || resetEvery === "never") return Infinity;
    if (Number.isSafeInteger(resetEvery) && resetEvery >= 1) return resetEvery;
    const got = JSON.stringify(resetEvery);
    throw new LstmEdgeError("InputError", `resetEvery is ${got}, expected a positive integer or "never"`);
  }

  /**
   * Replay the golden case in the file.
   *
   * @returns {{ok: boolean, worst: number}} worst: the largest difference as a fraction of its limit
   */
  selftest() {
    const program = this.#open();
    const c = this._c;
    const at = allocate(c, 8);
    const status = c.lstm_edge_selftest(program, at);
    const [worst = NaN] = new Float64Array(c.memory.buffer, at, 1);
    c.free(at);
    if (status)
      throw new LstmEdgeError(status === NO_GOLDEN ? "InputError" : "FileFormatError", lastError(c));
    return { ok: worst <= 1, worst };
  }

  /**
   * Return the label and the probabilities of the last frame in a result of `step` or `process`.
   *
   * @param {Result | readonly number[]} result
   * @returns {{label: string, probabilities: number[]}}
   */
  interpret(result) {
    const { task } = this.manifest;
    if (task?.kind !== "classification") {
      const kind = task ? `the task ${JSON.stringify(task.kind)}` : "no task";
      throw new LstmEdgeError(
        "InputError",
        `this file has ${kind}, expected a classification; use the values as they are`,
      );
    }
    const { name, width } = /** @type {Port} */ (this.outputs.find((port) => port.name === task.output));
    const isList = Array.isArray(result) || ArrayBuffer.isView(result);
    const frames = isList ? result : /** @type {Record<string, Float32Array> | null} */ (result)?.[name];
    if (!frames?.length) {
      const reason =
        "got a result without a frame, expected logits; skip the null that a stream returns until its first frame";
      throw new LstmEdgeError("InputError", reason);
    }
    if (frames.length % width) {
      throw new LstmEdgeError(
        "InputError",
        `${name}: got ${frames.length} numbers, expected a multiple of ${width}`,
      );
    }
    const labels = task.labels.length
      ? task.labels
      : Array.from({ length: width }, (_, index) => String(index));
    if (labels.length !== width) {
      throw new LstmEdgeError(
        "FileFormatError",
        `${name} has ${width} values, expected one for each of ${labels.length} labels`,
      );
    }
    const logits = Array.from(frames, Number).slice(-width);
    const most = Math.max(...logits);
    const shares = logits.map((value) => Math.exp(value - most));
    const sum = shares.reduce((total, share) => total + share, 0);
    const probabilities = shares.map((share) => share / sum);
    return { label: labels[Math.max(0, logits.indexOf(most))] ?? "", probabilities };
  }

  /** Free the program once its streams are closed; it can't be used afterwards. */
  close() {
    if (this._program) this._c.lstm_edge_free(this._program);
    this._program = 0;
  }
}

/** Views of the memory of a stream. */
/** @typedef {{memory: unknown, input: Numbers[], output: Float32Array[]}} Views */

/** One source of samples, with states of its own. An error leaves its state as it was. */
export class Stream {
  #model;
  #at;
  #every;
  #age = 0;
  /** @type {Views} */
  #views = { memory: null, input: [], output: [] };

  /** @internal @param {Model} model @param {number} every steps after which it is reset */
  constructor(model, every) {
    this.#model = model;
    this.#every = every;
    this.#at = model._c.lstm_edge_stream_new(model._program);
    if (!this.#at) throw new LstmEdgeError("StateError", lastError(model._c));
  }

  /** The stream's address; raises an error if it is closed. */
  get #stream() {
    if (!this.#at) throw new LstmEdgeError("StateError", "this stream is closed; open another one");
    return this.#at;
  }

  /** The views, made again if the memory grew. */
  get #buffers() {
    const { buffer } = this.#model._c.memory;
    if (this.#views.memory !== buffer) {
      const { _c: c, inputs, outputs } = this.#model;
      const at = this.#stream;
      this.#views = {
        memory: buffer,
        input: inputs.map((port, index) =>
          typedArrayAt(port.type, buffer, c.lstm_edge_input(at, index), port.width),
        ),
        output: outputs.map(({ width, frames }, index) => {
          const size = width * Math.max(1, frames);
          return new Float32Array(buffer, c.lstm_edge_output(at, index), size);
        }),
      };
    }
    return this.#views;
  }

  /**
   * Run one time step.
   *
   * @param {Samples} samples the numbers of one sample
   * @returns {Result}
   */
  step(samples) {
    const at = this.#stream;
    const { input } = this.#buffers;
    const [x] = input;
    const isDue = this.#age >= this.#every;
    const isExact =
      samples instanceof Float32Array && x instanceof Float32Array && samples.length === x.length;
    if (isExact && input.length === 1 && !isDue) {
      x.set(samples);
      this.#check(this.#model._c.lstm_edge_step(at));
    } else {
      const arrays = asInputs(samples, this.#model.inputs, 1);
      const before = isDue ? this.state : null;
      if (before) this.#model._c.lstm_edge_reset(at);
      const targets = this.#buffers.input; // the memory may have grown
      arrays.forEach((array, index) => /** @type {any} */ (targets[index])?.set(array));
      this.#checkOr(before, this.#model._c.lstm_edge_step(at));
      if (before) this.#age = 0;
    }
    this.#age += 1;
    return this.#results((index, count) => this.#buffers.output[index]?.slice(0, count));
  }

  /**
   * Run several time steps.
   *
   * @param {Samples} samples one sample after another
   * @returns {Result} frames one after another, or the last step's output
   */
  process(samples) {
    const at = this.#stream;
    const { _c: c, inputs, outputs, unit } = this.#model;
    const arrays = asInputs(samples, inputs);
    const steps = (arrays[0]?.length ?? 0) / (inputs[0]?.width ?? 1);
    const inputSizes = arrays.map((array) => array.byteLength);
    const outputSizes = outputs.map(({ width, everyStep, frames }) => {
      const rows = everyStep ? (Math.floor(steps / unit) + 1) * frames : 1;
      return 4 * width * rows;
    });
    const blocks = this.#allocate(
      [...inputSizes, ...outputSizes, 4 * (inputs.length + outputs.length)],
      steps,
    );
    const before = this.#age + steps > this.#every ? this.state : null;
    const age = this.#age;
    try {
      arrays.forEach((array, index) => {
        const to = blocks[index] ?? 0;
        const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
        new Uint8Array(c.memory.buffer, to, array.byteLength).set(bytes);
      });
      /** @type {Result[]} */
      const results = [];
      for (let start = 0; start < steps; ) {
        if (this.#age >= this.#every) {
          c.lstm_edge_reset(at);
          this.#age = 0;
        }
        const count = Math.min(steps - start, this.#every - this.#age);
        const table = blocks.at(-1) ?? 0;
        const starts = inputs.map(({ width, type }, index) => {
          const elements = typedArrayAt(type, c.memory.buffer, 0, 0).BYTES_PER_ELEMENT;
          return (blocks[index] ?? 0) + start * width * elements;
        });
        new Uint32Array(c.memory.buffer, table, blocks.length - 1).set([
          ...starts,
          ...blocks.slice(inputs.length, -1),
        ]);
        this.#checkOr(before, c.lstm_edge_chunk(at, table, count, table + 4 * inputs.length));
        this.#age += count;
        start += count;
        results.push(
          this.#results((index, size) =>
            new Float32Array(c.memory.buffer, blocks[inputs.length + index] ?? 0, size).slice(),
          ),
        );
      }
      return joined(results, outputs);
    } catch (error) {
      this.#age = age;
      throw error;
    } finally {
      for (const block of blocks) c.free(block);
    }
  }

  /** @param {number[]} sizes @param {number} steps @returns {number[]} */
  #allocate(sizes, steps) {
    const c = this.#model._c;
    const blocks = sizes.map((size) => allocate(c, size));
    if (blocks.every(Boolean)) return blocks;
    for (const block of blocks) c.free(block);
    throw new LstmEdgeError("InputError", `no memory for ${steps} steps in one call; use shorter chunks`);
  }

  /**
   * @param {(index: number, count: number) => Float32Array | undefined} view
   * @returns {Result}
   */
  #results(view) {
    const { _c: c, outputs } = this.#model;
    const results = outputs.map(({ width }, index) => {
      const count = c.lstm_edge_frames(this.#at, index) * width;
      return count ? view(index, count) : undefined;
    });
    return byName(results, outputs);
  }

  /** @param {number} status */
  #check(status) {
    if (!status) return;
    const name = status === BAD_STATE ? "StateError" : "InputError";
    throw new LstmEdgeError(name, lastError(this.#model._c));
  }

  /** Raise an error for a status, after going back to a state. @param {State | null} before @param {number} status */
  #checkOr(before, status) {
    if (!status) return;
    const reason = lastError(this.#model._c);
    if (before) this.#restoreBytes(before);
    throw new LstmEdgeError("InputError", reason);
  }

  /** A copy of everything that the stream continues from. @returns {State} */
  get state() {
    const at = this.#stream;
    const c = this.#model._c;
    const size = c.lstm_edge_save(at, 0, 0);
    const buffer = allocate(c, size);
    if (!buffer) throw new LstmEdgeError("StateError", `no memory for a state of ${size} bytes`);
    c.lstm_edge_save(at, buffer, size);
    const bytes = new Uint8Array(c.memory.buffer, buffer, size).slice();
    c.free(buffer);
    return bytes;
  }

  /** Continue from a state of this network, also one of C or Python. @param {State} state */
  restore(state) {
    const at = this.#stream;
    if (!(state instanceof Uint8Array)) {
      throw new LstmEdgeError("StateError", "got no bytes, expected the state of a stream");
    }
    this.#check(this.#restoreBytes(state));
    this.#age = Number(this.#model._c.lstm_edge_age(at));
  }

  /** @param {Uint8Array} bytes @returns {number} the status */
  #restoreBytes(bytes) {
    const c = this.#model._c;
    const buffer = allocate(c, bytes.length);
    if (!buffer) throw new LstmEdgeError("StateError", `no memory for a state of ${bytes.length} bytes`);
    new Uint8Array(c.memory.buffer, buffer, bytes.length).set(bytes);
    const status = c.lstm_edge_restore(this.#at, buffer, bytes.length);
    c.free(buffer);
    return status;
  }

  /** Go back to the reset state. */
  reset() {
    this.#model._c.lstm_edge_reset(this.#stream);
    this.#age = 0;
  }

  /** Free the stream's memory; it can't be used afterwards. */
  close() {
    if (this.#at) this.#model._c.lstm_edge_stream_free(this.#at);
    this.#at = 0;
  }
}

/** One source of samples whose every result is computed from the last `window` samples and the reset state. */
export class SlidingStream {
  #model;
  #stream;
  #window;
  #steps = 0;
  /** The last samples of the only input, at most a window. @type {Numbers} */
  #samples;

  /** @internal @param {Model} model @param {number} window */
  constructor(model, window) {
    const [input] = model.inputs;
    if (!Number.isSafeInteger(window) || window < 1) {
      throw new LstmEdgeError("InputError", `window is ${String(window)}, expected a whole number from 1`);
    }
    if (!input || model.inputs.length !== 1) {
      throw new LstmEdgeError("InputError", "a window requires a file with one input");
    }
    if (window % model.unit) {
      const expected = `a multiple of ${model.unit}, the unit of this file`;
      throw new LstmEdgeError("InputError", `window is ${window}, expected ${expected}`);
    }
    if (window <= model.delay) {
      const reason = `window is ${window}, but the outputs have a delay of ${model.delay} steps; use a longer one`;
      throw new LstmEdgeError("InputError", reason);
    }
    this.#model = model;
    this.#window = window;
    this.#stream = new Stream(model, Infinity);
    this.#samples = typedArrayAt(input.type, new ArrayBuffer(0), 0, 0);
  }

  /** Run one time step. @param {Samples} samples the numbers of one sample @returns {Result} null until the window is full */
  step(samples) {
    return this.#take(asInputs(samples, this.#model.inputs, 1));
  }

  /** Run several time steps. @param {Samples} samples one sample after another @returns {Result} the result of the last one */
  process(samples) {
    return this.#take(asInputs(samples, this.#model.inputs));
  }

  /** @param {Numbers[]} arrays @returns {Result} */
  #take([array]) {
    const { inputs, outputs, unit } = this.#model;
    const width = inputs[0]?.width ?? 1;
    const added = /** @type {Numbers} */ (array);
    const size = Math.min(this.#window * width, this.#samples.length + added.length);
    const all = /** @type {any} */ (
      new /** @type {any} */ (added.constructor)(this.#samples.length + added.length)
    );
    all.set(this.#samples);
    all.set(added, this.#samples.length);
    const samples = /** @type {Numbers} */ (all.slice(all.length - size));
    const steps = size / width;
    const whole = steps - (steps % unit);
    this.#stream.reset();
    // an integer may be outside a table, which only the library knows: run what there is
    const result = whole
      ? this.#stream.process(/** @type {Samples} */ (samples.slice((steps - whole) * width)))
      : null;
    this.#samples = samples;
    this.#steps += added.length / width;
    if (steps < this.#window) return null;
    const last = outputs.map(({ name, width: size }) => {
      const frames = ArrayBuffer.isView(result) ? result : result?.[name];
      return frames?.slice(-size);
    });
    return byName(last, outputs);
  }

  /** Steps taken since it was opened or reset. */
  get stepsSeen() {
    return this.#steps;
  }

  /** Forget all samples. */
  reset() {
    this.#stream.reset();
    this.#samples = this.#samples.slice(0, 0);
    this.#steps = 0;
  }

  /** Free the stream's memory; it can't be used afterwards. */
  close() {
    this.#stream.close();
  }
}

/**
 * Return the array of a single output, all by name if there are several, null if there is none.
 *
 * @param {(Float32Array | undefined)[]} arrays
 * @param {readonly Port[]} outputs
 * @returns {Result}
 */
function byName(arrays, outputs) {
  if (!arrays.some(Boolean)) return null;
  if (outputs.length === 1) return arrays[0] ?? null;
  return Object.fromEntries(outputs.map(({ name }, index) => [name, arrays[index] ?? new Float32Array(0)]));
}

/**
 * Join the results of calls that follow each other.
 *
 * @param {Result[]} results
 * @param {readonly Port[]} outputs
 * @returns {Result}
 */
function joined(results, outputs) {
  if (results.length <= 1) return results[0] ?? null;
  const arrays = outputs.map(({ name, everyStep }) => {
    const parts = results
      .map((result) => (ArrayBuffer.isView(result) ? result : result?.[name]))
      .filter((part) => part !== undefined && part !== null && part.length > 0);
    if (!everyStep || parts.length <= 1) return parts.at(-1);
    const whole = new Float32Array(parts.reduce((size, part) => size + (part?.length ?? 0), 0));
    let at = 0;
    for (const part of parts) {
      whole.set(part ?? [], at);
      at += part?.length ?? 0;
    }
    return whole;
  });
  return byName(arrays, outputs);
}
