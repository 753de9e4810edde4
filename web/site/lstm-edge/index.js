/** Run native programs (`.lep`) of lstm-edge in browsers and in Node: the C library in WebAssembly. */

/** @typedef {Float32Array | BigInt64Array | Int32Array | Int16Array | Int8Array | Uint8Array} Numbers */
/** @typedef {ArrayLike<number> | Readonly<Record<string, ArrayLike<number>>>} Samples one array, or one by the name of each input */
/** @typedef {Float32Array | Record<string, Float32Array> | null} Result one array, or one by the name of each output; null if no frame is complete */
/**
 * An input, output or state.
 *
 * @typedef {object} Port
 * @property {string} name
 * @property {number} width numbers of one step, or of one frame of an output
 * @property {number} type of an element: a place in `TYPES`
 * @property {boolean} everyStep of an output: whether `process` gives one for each step, or the last one
 * @property {number} frames of an output: frames in one unit
 */
/**
 * Everything that a stream goes on from: plain data, for `structuredClone` and IndexedDB.
 *
 * @typedef {object} State
 * @property {string} identity of the file that it belongs to
 * @property {number} age steps since the reset
 * @property {Record<string, Numbers>} arrays the states by name
 * @property {Record<string, Numbers>} rest by input, the samples that do not fill a unit yet
 */
/** @typedef {{task: {kind: string, output: string, labels: string[], units: string[]} | null, signal: {features: string[], sampling_rate: number | null, window: number | null}, reset_every: number | null, precision: string, identity?: string, provenance: Record<string, unknown>}} Manifest */
/** @typedef {WebAssembly.Exports & {memory: WebAssembly.Memory} & Record<string, any>} Library */

const TYPES = [Float32Array, BigInt64Array, Int32Array, Int16Array, Int8Array, Uint8Array];
const INPUT = 0, OUTPUT = 1, STATE = 2, PORT_BYTES = 28, NO_GOLDEN = 8;

/** What went wrong, in one line; `name` tells the kind. */
export class LstmEdgeError extends Error {
  /** @param {"NotFoundError" | "FileFormatError" | "InputError" | "StateError"} name @param {string} message */
  constructor(name, message) {
    super(message);
    this.name = name;
  }
}

/** Read bytes, a Blob or a URL (in Node also a path). @param {string | URL | Blob | ArrayBuffer | ArrayBufferView} source @returns {Promise<Uint8Array>} */
async function read(source) {
  if (ArrayBuffer.isView(source)) return new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  if (source instanceof Blob) return new Uint8Array(await source.arrayBuffer());
  const isPath = typeof process === "object" && Boolean(process.versions?.node) && !/^(https?|data|blob):/.test(String(source));
  try {
    if (isPath) return new Uint8Array(await (await import("node:fs/promises")).readFile(String(source).startsWith("file:") ? new URL(source) : source));
    const response = await fetch(source);
    if (response.ok) return new Uint8Array(await response.arrayBuffer());
    throw new Error(`${response.status} ${response.statusText}`.trim());
  } catch (cause) {
    throw new LstmEdgeError("NotFoundError", `${source} can't be read: ${cause instanceof Error ? cause.message : cause}`);
  }
}

/** @type {Promise<WebAssembly.Module> | undefined} */ let compiled;

/**
 * Open a program.
 *
 * @param {string | URL | Blob | ArrayBuffer | ArrayBufferView} source a `.lep` file: its URL (in Node also a path), or its content
 * @returns {Promise<Model>}
 */
export async function load(source) {
  compiled ??= read(new URL("lstm_edge.wasm", import.meta.url)).then((bytes) => WebAssembly.compile(/** @type {BufferSource} */ (bytes)));
  const [module, bytes] = await Promise.all([compiled, read(source)]);
  /** @type {Record<string, Record<string, () => number>>} */ const imports = {};
  for (const { module: from, name } of WebAssembly.Module.imports(module)) (imports[from] ??= {})[name] = () => 0;
  const c = /** @type {Library} */ ((await WebAssembly.instantiate(module, imports)).exports);
  c._initialize();
  const data = c.malloc(bytes.length);
  new Uint8Array(c.memory.buffer).set(bytes, data);
  const program = c.lstm_edge_load(data, bytes.length);
  c.free(data);
  if (!program) throw new LstmEdgeError("FileFormatError", `not a program of lstm-edge: ${textAt(c, c.lstm_edge_last_error())}; convert the file again`);
  return new Model(c, program);
}

/** @param {Library} c @param {number} at */
function textAt(c, at) {
  const all = new Uint8Array(c.memory.buffer);
  return new TextDecoder().decode(all.slice(at, all.indexOf(0, at)));
}

/** An open program. Its streams share it. */
export class Model {
  /** @internal @readonly */ _c;
  /** @internal @readonly */ _program;
  /** What the file says of itself. @readonly @type {Manifest} */ manifest;
  /** @readonly @type {readonly Port[]} */ inputs;
  /** @readonly @type {readonly Port[]} */ outputs;
  /** @readonly @type {readonly Port[]} */ states;

  /** @internal @param {Library} c @param {number} program */
  constructor(c, program) {
    this._c = c;
    this._program = program;
    this.manifest = JSON.parse(textAt(c, c.lstm_edge_manifest(program)) || "{}");
    this.inputs = this.#ports(INPUT);
    this.outputs = this.#ports(OUTPUT);
    this.states = this.#ports(STATE);
  }

  /** @param {number} kind @returns {Port[]} */
  #ports(kind) {
    const { _c: c, _program: program } = this, at = c.malloc(PORT_BYTES);
    const ports = Array.from({ length: c.lstm_edge_count(program, kind) }, (_, index) => {
      c.lstm_edge_describe(program, kind, index, at);
      const [name = 0, width = 0, type = 0, flag = 0, frames = 0] = new Uint32Array(c.memory.buffer, at, 7);
      return { name: textAt(c, name), width, type, everyStep: flag !== 0, frames };
    });
    c.free(at);
    return ports;
  }

  /** Class names, in the order of the task's output. @returns {readonly string[]} */
  get labels() { return this.manifest.task?.labels ?? []; }
  /** Units of predicted values. @returns {readonly string[]} */
  get units() { return this.manifest.task?.units ?? []; }
  /** Names of the input's features. @returns {readonly string[]} */
  get features() { return this.manifest.signal?.features ?? []; }
  /** Samples per second, if known. @returns {number | null} */
  get samplingRate() { return this.manifest.signal?.sampling_rate ?? null; }
  /** Steps after which a stream is reset, as in training; null for never. @returns {number | null} */
  get resetEvery() { return this.manifest.reset_every ?? null; }
  /** sha256 of the `.onnx` file that the program was made from. @returns {string} */
  get identity() { return this.manifest.identity ?? ""; }
  /** Steps of which outputs come at a time: 1 without strides. @returns {number} */
  get unit() { return this._c.lstm_edge_unit(this._program); }
  /** Steps by which outputs lag behind the samples. @returns {number} */
  get delay() { return this._c.lstm_edge_delay(this._program); }

  /** Open a stream at the reset state: one source of samples. */
  stream() { return new Stream(this); }

  /** Replay the golden case in the file. @returns {{ok: boolean, worst: number}} worst: the largest difference as a fraction of its limit */
  selftest() {
    const { _c: c } = this, at = c.malloc(8), status = c.lstm_edge_selftest(this._program, at), [worst = NaN] = new Float64Array(c.memory.buffer, at, 1);
    c.free(at);
    if (status) throw new LstmEdgeError(status === NO_GOLDEN ? "InputError" : "FileFormatError", textAt(c, c.lstm_edge_last_error()));
    return { ok: worst <= 1, worst };
  }

  /** Return probabilities of logits, and the label of the largest. @param {ArrayLike<number>} logits */
  interpret(logits) {
    const values = Array.from(logits, Number), most = Math.max(...values), shares = values.map((value) => Math.exp(value - most));
    const sum = shares.reduce((total, share) => total + share, 0), index = values.indexOf(most);
    return { label: this.labels[index], probabilities: shares.map((share) => share / sum) };
  }
}

/** One source of samples, with states of its own. */
export class Stream {
  #model;
  #at;
  /** Views of the library's memory. @type {{buffer: unknown, input: Numbers[], output: Numbers[], state: Numbers[], rest: Numbers[]}} */ #views = { buffer: null, input: [], output: [], state: [], rest: [] };

  /** @internal @param {Model} model */
  constructor(model) {
    this.#model = model;
    this.#at = model._c.lstm_edge_stream_new(model._program);
    if (!this.#at) throw new LstmEdgeError("StateError", textAt(model._c, model._c.lstm_edge_last_error()));
  }

  /** The views, made again if the memory grew. */
  get #buffers() {
    const { buffer } = this.#model._c.memory;
    if (this.#views.buffer === buffer) return this.#views;
    const { _c: c, inputs, outputs, states, unit } = this.#model;
    const view = (/** @type {string} */ name, /** @type {readonly Port[]} */ ports, /** @type {(port: Port) => number} */ length) =>
      ports.map((port, index) => arrayAt(port, buffer, c[`lstm_edge_${name}`](this.#at, index), length(port)));
    this.#views = {
      buffer,
      input: view("input", inputs, ({ width }) => width), output: view("output", outputs, ({ width, frames }) => width * Math.max(1, frames)),
      state: view("state", states, ({ width }) => width), rest: view("rest", inputs, ({ width }) => width * unit),
    };
    return this.#views;
  }

  /** Run one time step. @param {Samples} samples the numbers of one sample @returns {Result} */
  step(samples) {
    const { input } = this.#buffers, [x] = input;
    if (input.length === 1 && x instanceof Float32Array && typeof samples === "object" && samples?.length === x.length) x.set(/** @type {ArrayLike<number>} */ (samples));
    else this.#given(samples, 1).forEach((array, index) => fill(input[index], array));
    this.#check(this.#model._c.lstm_edge_step(this.#at));
    return this.#results((index) => this.#buffers.output[index]);
  }

  /** Run several time steps. @param {Samples} samples one sample after another @returns {Result} frames one after another, or the last step's output */
  process(samples) {
    const { _c: c, inputs, outputs, unit } = this.#model, given = this.#given(samples), steps = (given[0]?.length ?? 0) / (inputs[0]?.width ?? 1);
    const blocks = [...inputs.map(({ width }) => 8 * steps * width),
      ...outputs.map(({ width, everyStep, frames }) => 4 * width * (everyStep ? (Math.floor(steps / unit) + 1) * frames : 1))].map((bytes) => c.malloc(bytes + 8));
    const table = c.malloc(4 * blocks.length);
    new Uint32Array(c.memory.buffer, table, blocks.length).set(blocks);
    inputs.forEach((port, index) => fill(arrayAt(port, c.memory.buffer, blocks[index] ?? 0, steps * port.width), given[index] ?? []));
    try {
      this.#check(c.lstm_edge_chunk(this.#at, table, steps, table + 4 * inputs.length));
      return this.#results((index, count) => new Float32Array(c.memory.buffer, blocks[inputs.length + index], count));
    } finally {
      for (const block of [...blocks, table]) c.free(block);
    }
  }

  /** Check samples; return them by input. @param {Samples} samples @param {number} [steps] any number if left out @returns {ArrayLike<number>[]} */
  #given(samples, steps) {
    const { inputs } = this.#model, isOne = inputs.length === 1 && typeof samples?.length === "number";
    const arrays = inputs.map(({ name }) => (isOne ? samples : /** @type {any} */ (samples)?.[name])), count = steps ?? arrays[0]?.length / (inputs[0]?.width ?? 1);
    inputs.forEach(({ name, width }, index) => {
      const length = typeof arrays[index] === "object" ? arrays[index]?.length : undefined;
      if (length === undefined) throw new LstmEdgeError("InputError", `expected numbers for ${inputs.map((port) => port.name).join(", ")}; got none for ${name}`);
      if (length !== count * width || !Number.isInteger(count)) throw new LstmEdgeError("InputError", `${name}: got ${length} numbers, expected ${steps ? width : `a multiple of ${width}, of the same steps for each input`}`);
    });
    return arrays;
  }

  /** @param {(index: number, count: number) => Numbers | undefined} view @returns {Result} */
  #results(view) {
    const { _c: c, outputs } = this.#model;
    const result = (/** @type {Port} */ { width }, /** @type {number} */ index) => {
      const count = c.lstm_edge_frames(this.#at, index) * width;
      return count ? /** @type {Float32Array} */ (view(index, count)).slice(0, count) : null;
    };
    if (outputs[0] && outputs.length === 1) return result(outputs[0], 0);
    const results = outputs.map(result);
    return results.some(Boolean) ? Object.fromEntries(outputs.map(({ name }, index) => [name, results[index] ?? new Float32Array(0)])) : null;
  }

  /** @param {number} status */
  #check(status) {
    if (status) throw new LstmEdgeError("InputError", textAt(this.#model._c, this.#model._c.lstm_edge_last_error()));
  }

  /** A copy of everything that the stream goes on from. @returns {State} */
  get state() {
    const { inputs, states, identity, unit } = this.#model, age = Number(this.#model._c.lstm_edge_age(this.#at)), views = this.#buffers;
    const copies = (/** @type {readonly Port[]} */ ports, /** @type {Numbers[]} */ arrays, share = 1) =>
      Object.fromEntries(arrays.map((array, index) => [ports[index]?.name ?? "", array.slice(0, array.length * share)]));
    return { identity, age, arrays: copies(states, views.state), rest: copies(inputs, views.rest, (age % unit) / unit) };
  }

  /** Go on from a state of this network. @param {State} state */
  restore(state) {
    const { _c: c, inputs, states, identity, unit } = this.#model, { age } = state ?? {}, views = this.#buffers;
    if (state?.identity !== identity) throw new LstmEdgeError("StateError", `the state is of model ${String(state?.identity).slice(0, 12)}, expected ${identity.slice(0, 12)}`);
    if (!Number.isSafeInteger(age) || age < 0) throw new LstmEdgeError("StateError", `the state's age is ${age}, expected a whole number`);
    const fits = [...views.state.map((view, index) => /** @type {const} */ ([view, state.arrays?.[states[index]?.name ?? ""], 1])),
      ...views.rest.map((view, index) => /** @type {const} */ ([view, state.rest?.[inputs[index]?.name ?? ""], (age % unit) / unit]))];
    for (const [view, array, share] of fits) {
      const length = Math.round(view.length * share);
      if (array?.length !== length || array.constructor !== view.constructor) throw new LstmEdgeError("StateError", `the state has an array of ${array?.length} numbers, expected ${length}`);
    }
    for (const [view, array] of fits) view.set(/** @type {any} */ (array));
    c.lstm_edge_set_age(this.#at, BigInt(age));
  }

  /** Go back to the reset state. */
  reset() { this.#model._c.lstm_edge_reset(this.#at); }

  /** Free the stream's memory; it can't be used afterwards. */
  close() {
    this.#model._c.lstm_edge_stream_free(this.#at);
    this.#at = 0;
  }
}

/** @param {Port} port @param {ArrayBuffer} buffer @param {number} at @param {number} length @returns {Numbers} */
const arrayAt = ({ type }, buffer, at, length) => new (/** @type {any} */ (TYPES[type]))(buffer, at, length);

/** @param {Numbers | undefined} to @param {ArrayLike<number>} from */
function fill(to, from) {
  if (to instanceof BigInt64Array) to.set(Array.from(from, (value) => BigInt(value)));
  else to?.set(from);
}
