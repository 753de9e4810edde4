/** A stream: one source of samples, which owns its state. */

import { cut, joined, mapValues, sizeOf, toArray, toNamed } from "./arrays.js";
import { LstmEdgeError } from "./errors.js";
import { inTurn } from "./turns.js";

/** @import { TensorSpec, TypedArray } from "./arrays.js" */
/** @import { Feeds, Model, Numbers, OrtTensor, Result, Samples, State } from "./model.js" */

/** One source of samples; `Model.stream` creates it. Calls take effect in their order. */
export class Stream {
  #model;
  #states;
  #every;
  /** Steps since the state was at reset. */
  #age = 0;

  /** @internal @param {Model} model @param {number} every steps after which it starts again; Infinity for never */
  constructor(model, every) {
    this.#model = model;
    this.#every = every;
    this.#states = model._start(model._sizes({}));
  }

  /**
   * Take one time step.
   *
   * @param {Samples} sample `(I,)`
   * @returns {Promise<Result>} `(C,)`
   * @throws {LstmEdgeError} InputError, ContractError; the state is as before
   */
  async step(sample) {
    const sizes = this.#model._sizes({ steps: 1 }), feeds = this.#model._feeds(sample, sizes);
    return inTurn(() => this.#advance([feeds]));
  }

  /**
   * Process many time steps in one call into onnxruntime; in several if the stream is reset between them.
   *
   * @param {Samples} chunk `(L, I)`, row-major
   * @returns {Promise<Result>} after the last step; an output with a time axis keeps it
   * @throws {LstmEdgeError} InputError, ContractError; the state is as before
   */
  async process(chunk) {
    const model = this.#model;
    if (model.manifest.axes.sequence !== null) {
      const feeds = model._feeds(chunk, model._sizes({}));
      return inTurn(() => this.#advance([feeds]));
    }
    const steps = this.#bySteps(chunk);
    return inTurn(() => this.#advance(steps));
  }

  /** Return a copy of the state after all calls made so far. @returns {Promise<State>} */
  async state() {
    return inTurn(() => this.#model._toState(this.#states, this.#age));
  }

  /** Put every state back to its reset value, after all calls made so far. */
  async reset() {
    const start = this.#model._start(this.#model._sizes({}));
    await inTurn(() => { this.#states = start; this.#age = 0; });
  }

  /**
   * Go on from `state`, after all calls made so far.
   *
   * @param {State} state
   * @throws {LstmEdgeError} StateError: of another model or batch size; the stream keeps its own
   */
  async restore(state) {
    const start = this.#model._admit(state, this.#model._sizes({}));
    await inTurn(() => { this.#states = start; this.#age = state.age ?? 0; });
  }

  /** Make calls one after the other, in chunks that end where the stream is reset. @param {Feeds[]} calls @returns {Promise<Result>} */
  async #advance(calls) {
    const model = this.#model;
    let states = this.#states, age = this.#age;
    /** @type {Feeds[]} */
    let pieces = [];
    for (const feeds of calls) {
      const steps = model._steps(feeds);
      pieces = [];
      for (let at = 0, size = 0; at < steps; at += size) {
        if (age >= this.#every) [states, age] = [model._start(model._sizes({})), 0];
        size = Math.min(steps - at, this.#every - age);
        const made = await model._call({ ...(size === steps ? feeds : this.#cut(feeds, at, at + size)), ...states });
        states = made.states;
        age += size;
        pieces.push(made.outputs);
      }
    }
    this.#states = states;
    this.#age = age;
    const results = Object.fromEntries(model.manifest.outputs.map(({ name, axes }) => [name, this.#join(pieces.map((piece) => /** @type {OrtTensor} */ (piece[name])), axes)]));
    return Object.keys(results).length === 1 ? /** @type {TypedArray} */ (Object.values(results)[0]) : results;
  }

  /** Return a chunk's steps `from` to `to`. @param {Feeds} feeds @param {number} from @param {number} to @returns {Feeds} */
  #cut(feeds, from, to) {
    const model = this.#model, pieces = Object.fromEntries(model._data.map(({ name, axes }) => {
      const tensor = /** @type {OrtTensor} */ (feeds[name]), axis = axes.indexOf(model.manifest.axes.sequence ?? "");
      return [name, axis < 0 ? tensor : model._tensor(cut(toNamed(tensor), axis, from, to))];
    }));
    return model._valid ? { ...pieces, [model._valid.name]: model._lengths(model._valid, model._sizes({ steps: to - from })) } : pieces;
  }

  /** Return an output of a whole chunk: its chunks along time, or the output after the last. @param {OrtTensor[]} pieces @param {TensorSpec["axes"]} axes */
  #join(pieces, axes) {
    const axis = axes.indexOf(this.#model.manifest.axes.sequence ?? ""), last = /** @type {OrtTensor} */ (pieces.at(-1));
    if (axis < 0 || pieces.length === 1) return last.data;
    const steps = pieces.reduce((sum, { dims }) => sum + (dims[axis] ?? 0), 0);
    return joined(pieces.map(toNamed), axis, last.dims.map((size, place) => (place === axis ? steps : size))).data;
  }

  /** Cut a chunk for a file with one step per call. @param {Samples} chunk @returns {Feeds[]} */
  #bySteps(chunk) {
    const model = this.#model, named = model._named(chunk);
    const arrays = mapValues(named, (value, name) => {
      const spec = /** @type {TensorSpec} */ (model._data.find((input) => input.name === name));
      return { data: toArray(name, value, spec.dtype), size: sizeOf(spec, model._sizes({})) };
    });
    const counts = Object.values(arrays).map(({ data, size }) => data.length / size), count = counts[0] ?? 0;
    if (!(Number.isInteger(count) && count > 0 && counts.every((other) => other === count))) {
      throw new LstmEdgeError("InputError", `the chunk has ${counts.join(", ")} steps, expected one whole number of steps from 1`);
    }
    return Array.from({ length: count }, (_, step) =>
      model._feeds(mapValues(arrays, ({ data, size }) => /** @type {Numbers} */ (data.subarray(step * size, (step + 1) * size))), model._sizes({})));
  }
}
