/** A stream: one source of samples, which owns its state. */

import { mapValues, sizeOf, toArray } from "./arrays.js";
import { LstmEdgeError } from "./errors.js";
import { inTurn } from "./turns.js";

/** @import { TensorSpec } from "./arrays.js" */
/** @import { Feeds, Model, Numbers, OrtTensor, Result, Samples, State } from "./model.js" */

/** One source of samples; `Model.stream` makes it. Calls take effect in the order in which they were made. */
export class Stream {
  #model;
  #states;

  /** @internal @param {Model} model */
  constructor(model) {
    this.#model = model;
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
   * Take many time steps in one call into onnxruntime.
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
    return inTurn(() => this.#model._toState(this.#states));
  }

  /** Put every state back to its reset value, after all calls made so far. */
  async reset() {
    const start = this.#model._start(this.#model._sizes({}));
    await inTurn(() => { this.#states = start; });
  }

  /**
   * Go on from `state`, after all calls made so far.
   *
   * @param {State} state
   * @throws {LstmEdgeError} StateError: of another model or batch size; the stream keeps its own
   */
  async restore(state) {
    const start = this.#model._admit(state, this.#model._sizes({}));
    await inTurn(() => { this.#states = start; });
  }

  /** @param {Feeds[]} steps @returns {Promise<Result>} */
  async #advance(steps) {
    let states = this.#states;
    /** @type {Feeds} */
    let outputs = {};
    for (const feeds of steps) ({ outputs, states } = await this.#model._call({ ...feeds, ...states }));
    this.#states = states;
    const results = Object.values(outputs);
    return results.length === 1 ? /** @type {OrtTensor} */ (results[0]).data : mapValues(outputs, ({ data }) => data);
  }

  /** Cut a chunk for a file that takes one step a call. @param {Samples} chunk @returns {Feeds[]} */
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
