/** A stream: one source of samples, which owns its state. */

import { along, cut, mapValues, shapeOf, sizeOf, toArray, toNamed } from "./arrays.js";
import { LstmEdgeError } from "./errors.js";
import { framesOf } from "./frames.js";
import { inTurn } from "./turns.js";

/** @import { NamedArray, Sizes, TensorSpec } from "./arrays.js" */
/** @import { Arrays } from "./manifest.js" */
/** @import { Feeds, Model, Numbers, OrtTensor, Result, Samples, State } from "./model.js" */
/** @typedef {{outputs: Feeds, age: number, steps: number}} Call what a call gave, the age at which it began, and its steps */

/** One source of samples; `Model.stream` creates it. Calls take effect in their order. */
export class Stream {
  #model;
  #states;
  #every;
  #batch;
  #unit;
  /** Steps since the state was at reset. */
  #age = 0;
  /** The last samples, which don't fill a unit yet. @type {Feeds | undefined} */ #rest;

  /**
   * @internal
   * @param {Model} model
   * @param {number} every steps after which it starts again; Infinity for never
   * @param {number} [batch] rows, of a golden case
   */
  constructor(model, every, batch = 1) {
    this.#model = model;
    this.#every = every;
    this.#batch = batch;
    this.#unit = model.manifest.unit ?? 1;
    this.#states = model._start(this.#sizes());
  }

  /** What a stream takes: chunks of any length, as it keeps steps up to a unit. */
  get #ranges() {
    const { ranges = {}, sequence } = this.#model.manifest.axes, { [sequence ?? ""]: own, ...others } = ranges;
    return this.#unit > 1 || !own ? others : ranges;
  }

  /** Number of steps by which the outputs lag. */
  get delay() {
    const { manifest } = this.#model, frames = manifest.outputs.map((spec) => framesOf(manifest, spec));
    return Math.max(0, ...frames.map(({ delay, each }) => Math.ceil((delay * this.#unit) / each)));
  }

  /**
   * Take one time step.
   *
   * @param {Samples} sample `(I,)`
   * @returns {Promise<Result | null>} `(C,)`, or the frames of a unit that has several `(frames, C)`; null if the step
   *   completes none; by name those outputs that have one
   * @throws {LstmEdgeError} InputError, ContractError; the state is as before
   */
  async step(sample) {
    const sizes = this.#sizes(1), feeds = this.#model._feeds(sample, sizes, undefined, this.#ranges), found = await inTurn(() => this.#advance([feeds]));
    return this.#result(Object.fromEntries(Object.entries(found).filter(([, { data }]) => data.length)));
  }

  /**
   * Process many time steps in one call into onnxruntime; in several if the stream is reset between them.
   *
   * @param {Samples} chunk `(L, I)`, row-major, of any length from 1
   * @returns {Promise<Result | null>} after the last step; an output with a time axis keeps it: all frames that are complete,
   *   `(0, C)` if none is. An output without one that has no result yet is left out, or null if it is the only one
   * @throws {LstmEdgeError} InputError, ContractError; the state is as before
   */
  async process(chunk) {
    return this.#result(await this._frames(chunk));
  }

  /** As `process`, each output with its shape. @internal @param {Samples} chunk @returns {Promise<Arrays>} */
  async _frames(chunk) {
    const model = this.#model;
    if (model.manifest.axes.sequence !== null) {
      const feeds = model._feeds(chunk, this.#sizes(), undefined, this.#ranges);
      return inTurn(() => this.#advance([feeds]));
    }
    const steps = this.#bySteps(chunk);
    return inTurn(() => this.#advance(steps));
  }

  /** Return a copy of the state after all calls made so far. @returns {Promise<State>} */
  async state() {
    return inTurn(() => this.#model._toState(this.#states, this.#age, this.#rest));
  }

  /** Put every state back to its reset value, after all calls made so far. */
  async reset() {
    const start = this.#model._start(this.#sizes());
    await inTurn(() => { this.#states = start; this.#age = 0; this.#rest = undefined; });
  }

  /**
   * Go on from `state`, after all calls made so far.
   *
   * @param {State} state
   * @throws {LstmEdgeError} StateError: of another model or batch size; the stream keeps its own
   */
  async restore(state) {
    const start = this.#model._admit(state, this.#sizes()), rest = this.#admitRest(state);
    await inTurn(() => { this.#states = start; this.#age = state.age ?? 0; this.#rest = rest; });
  }

  /** @param {number} [steps] @returns {Sizes} */
  #sizes(steps) {
    return this.#model._sizes({ batch: this.#batch, ...(steps !== undefined && { steps }) });
  }

  /** Return a state's samples that don't fill a unit, copied. @param {State} state @returns {Feeds | undefined} */
  #admitRest({ age = 0, rest = {} }) {
    const model = this.#model, count = age % this.#unit, specs = count ? model._data.filter((spec) => this.#timeAxis(spec) >= 0) : [];
    const right = specs.every(({ name, dtype, axes }) => rest[name]?.dtype === dtype && String(rest[name].dims) === String(shapeOf(axes, this.#sizes(count))));
    if (!right || Object.keys(rest).length !== specs.length) {
      throw new LstmEdgeError("StateError", `the state of age ${age} has other samples than the last ${count}; save it again, or reset the stream`);
    }
    return count ? mapValues(rest, (array, name) => model._tensor({ ...array, data: toArray(name, array.data, array.dtype) })) : undefined;
  }

  /** Make calls one after the other, in chunks that end where the stream is reset. @param {Feeds[]} calls @returns {Promise<Arrays>} */
  async #advance(calls) {
    const model = this.#model;
    let states = this.#states, age = this.#age, rest = this.#rest;
    /** @type {Call[]} */
    let made = [];
    for (const feeds of calls) {
      const steps = model._steps(feeds);
      made = [];
      for (let at = 0, size = 0; at < steps; at += size) {
        if (age >= this.#every) [states, age, rest] = [model._start(this.#sizes()), 0, undefined];
        size = Math.min(steps - at, this.#every - age);
        const piece = size === steps ? feeds : this.#cut(feeds, at, at + size);
        [states, rest] = await this.#take(rest ? this.#behind(rest, piece) : piece, age - (age % this.#unit), age + size, states, made);
        age += size;
      }
    }
    this.#states = states;
    this.#age = age;
    this.#rest = rest;
    const found = model.manifest.outputs.map((spec) => [spec.name, this.#join(made, spec)]);
    return Object.fromEntries(found.filter(([, array]) => array));
  }

  /**
   * Take steps in whole units.
   *
   * @param {Feeds} feeds
   * @param {number} start the age of the first step
   * @param {number} end the age after the last one
   * @param {Feeds} states
   * @param {Call[]} made what the calls give is added to it
   * @returns {Promise<[Feeds, Feeds | undefined]>} the states after it, and the steps that don't fill a unit
   */
  async #take(feeds, start, end, states, made) {
    const whole = end - (end % this.#unit);
    if (start < whole) {
      const piece = whole === end ? feeds : this.#cut(feeds, 0, whole - start), call = await this.#model._call({ ...piece, ...states });
      states = call.states;
      made.push({ outputs: call.outputs, age: start, steps: whole - start });
    }
    return [states, whole < end ? this.#cut(feeds, whole - start, end - start) : undefined];
  }

  /** @param {TensorSpec} spec */
  #timeAxis({ axes }) {
    return axes.indexOf(this.#model.manifest.axes.sequence ?? "");
  }

  /** Return a chunk's steps `from` to `to`. @param {Feeds} feeds @param {number} from @param {number} to @returns {Feeds} */
  #cut(feeds, from, to) {
    const model = this.#model, pieces = Object.fromEntries(model._data.map((spec) => {
      const tensor = /** @type {OrtTensor} */ (feeds[spec.name]), axis = this.#timeAxis(spec);
      return [spec.name, axis < 0 ? tensor : model._tensor(cut(toNamed(tensor), axis, from, to))];
    }));
    return model._valid ? { ...pieces, [model._valid.name]: model._lengths(model._valid, this.#sizes(to - from)) } : pieces;
  }

  /** Return a chunk with the samples that were kept in front. @param {Feeds} rest @param {Feeds} feeds @returns {Feeds} */
  #behind(rest, feeds) {
    return mapValues(feeds, (tensor, name) => {
      const kept = rest[name], axis = this.#timeAxis(/** @type {TensorSpec} */ (this.#model._data.find((spec) => spec.name === name)));
      return kept && axis >= 0 ? this.#model._tensor(along([kept, tensor].map(toNamed), axis)) : tensor;
    });
  }

  /**
   * Return an output of a whole chunk: its frames along time, those before the first real one left out; or what the last call
   * gives of it, undefined if that is before the first.
   *
   * @param {Call[]} made
   * @param {TensorSpec} spec
   * @returns {NamedArray | undefined}
   */
  #join(made, spec) {
    const { manifest } = this.#model, { axis, each, delay } = framesOf(manifest, spec);
    const early = (/** @type {Call} */ call) => Math.max(delay - Math.floor((call.age * each) / this.#unit), 0);
    const named = (/** @type {Call} */ call) => toNamed(/** @type {OrtTensor} */ (call.outputs[spec.name]));
    if (axis < 0) {
      const last = made.findLast((call) => early(call) < call.steps / this.#unit);
      return last && named(last);
    }
    const parts = made.map((call) => {
      const array = named(call), left = early(call), frames = array.dims[axis] ?? 0;
      return left ? cut(array, axis, Math.min(left, frames), frames) : array;
    });
    const [only] = parts;
    if (parts.length) return only && parts.length === 1 ? only : along(parts, axis);
    const sizes = this.#sizes(0), dims = shapeOf(spec.axes, sizes).map((size, place) => (place === axis ? 0 : size));
    return { dtype: spec.dtype, dims, data: toArray(spec.name, [], spec.dtype) };
  }

  /** @param {Arrays} found @returns {Result | null} */
  #result(found) {
    const arrays = Object.values(found);
    if (this.#model.manifest.outputs.length === 1) return arrays[0]?.data ?? null;
    return arrays.length ? mapValues(found, ({ data }) => data) : null;
  }

  /** Cut a chunk for a file with one step per call. @param {Samples} chunk @returns {Feeds[]} */
  #bySteps(chunk) {
    const model = this.#model, named = model._named(chunk);
    const arrays = mapValues(named, (value, name) => {
      const spec = /** @type {TensorSpec} */ (model._data.find((input) => input.name === name));
      return { data: toArray(name, value, spec.dtype), size: sizeOf(spec, this.#sizes()) };
    });
    const counts = Object.values(arrays).map(({ data, size }) => data.length / size), count = counts[0] ?? 0;
    if (!(Number.isInteger(count) && count > 0 && counts.every((other) => other === count))) {
      throw new LstmEdgeError("InputError", `the chunk has ${counts.join(", ")} steps, expected one whole number of steps from 1`);
    }
    return Array.from({ length: count }, (_, step) =>
      model._feeds(mapValues(arrays, ({ data, size }) => /** @type {Numbers} */ (data.subarray(step * size, (step + 1) * size))), this.#sizes()));
  }
}
