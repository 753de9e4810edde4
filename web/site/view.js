/** A stream with its plot, legend and result under one prefix of ids. */

import { framesOf, haveLabel, mainOutput } from "./lstm-edge/results.js";
import { byId, chosen, element, milliseconds, rounded, say } from "./page.js";
import { panelsOf, Plot, svg } from "./plot.js";
import { asSample, columnsOf } from "./recordings.js";

/** @import { Model, Result, SlidingStream, Stream } from "./lstm-edge/index.js" */
/** @import { TensorSpec } from "./lstm-edge/manifest.js" */

const MAX_LINES = 12;

/** Open a stream with the settings of the section "State". @param {Model} model */
function openStream(model) {
  const mode = chosen("mode");
  if (mode === "never") return model.stream({ resetEvery: "never" });
  const interval = Number(chosen("interval"));
  return mode === "window" ? model.stream({ window: interval }) : model.stream({ resetEvery: interval });
}

/**
 * An output as it is shown.
 *
 * @typedef {object} ShownOutput
 * @property {TensorSpec} spec
 * @property {string[]} names of its values, or of the classes
 * @property {boolean} isClasses
 * @property {number} frames in one unit
 * @property {number} delay in samples
 */

/** Return the outputs that have frames of values, the main one first. @param {Model} model @returns {ShownOutput[]} */
function shownOutputs({ outputs, labels, units, manifest, unit }) {
  const main = mainOutput(manifest);
  const others = manifest.outputs.filter((spec) => spec !== main && isShown(spec.axes));
  return [main, ...others].map((spec) => {
    const port = outputs.find(({ name }) => name === spec.name);
    const width = spec.axes.at(-1);
    const count = typeof width === "number" ? width : (port?.width ?? 0);
    const isMain = spec === main;
    const isClasses = isMain && manifest.task?.kind === "classification" && labels.length === count;
    const withUnit = (/** @type {number} */ index) =>
      [spec.name, count > 1 ? index : undefined, isMain ? units[index] : undefined]
        .filter((part) => part !== undefined)
        .join(" ");
    const names = isClasses ? [...labels] : Array.from({ length: count }, (_, index) => withUnit(index));
    const frames = port?.frames || 1;
    return { spec, names, isClasses, frames, delay: ((manifest.delays[spec.name] ?? 0) * unit) / frames };
  });
}

/** True for frames with one axis of values. @param {readonly (number | string)[]} axes */
function isShown(axes) {
  const sizes = axes.filter((axis) => typeof axis === "number");
  return sizes.length > 0 && sizes.slice(0, -1).every((size) => size === 1);
}

/** Shows the inputs and outputs of a stream. */
export class View {
  /** @type {Stream | SlidingStream | undefined} */
  #stream;
  /** The last frame of each output. @type {(ArrayLike<number> | undefined)[]} */
  #values = [];
  #milliseconds = 0;
  #steps = 0;

  /** @param {"replay" | "live" | "hand" | "microphone"} prefix @param {Model} model */
  constructor(prefix, model) {
    this.prefix = prefix;
    this.model = model;
    this.outputs = shownOutputs(model);
    const columns = columnsOf(model).slice(0, MAX_LINES);
    const classes = this.outputs.flatMap(({ isClasses, names }) => (isClasses ? names : []));
    const outputs = this.outputs.map(({ isClasses, names }) => (isClasses ? [] : names.slice(0, MAX_LINES)));
    const figure = /** @type {any} */ (byId(`${prefix}-plot`));
    this.plot = new Plot(figure, {
      names: columns,
      labels: classes,
      outputs,
    });
    byId(`${prefix}-legend`).replaceChildren(...[columns, ...outputs].flatMap(legendOf));
    say(`${prefix}-result`, "");
  }

  /** True if the main output is classes. */
  get isClasses() {
    return this.outputs[0]?.isClasses === true;
  }

  /** The last frame of each output: a class with its probability, or values; empty before the first. */
  get words() {
    const parts = this.outputs.map(({ spec, isClasses }, index) => {
      const values = this.#values[index];
      if (!values) return "";
      const prefix = index ? `${spec.name} ` : "";
      if (isClasses) return this.#classWords(values);
      const numbers = Array.from(values, (value) => rounded(value, 4));
      return prefix + numbers.slice(0, MAX_LINES).join(", ");
    });
    return parts.filter(Boolean).join("; ");
  }

  /** @param {ArrayLike<number>} logits */
  #classWords(logits) {
    if (!haveLabel(logits)) return "not a finite number";
    const { label, probabilities } = this.model.interpret(logits);
    return `${label} ${Math.max(...probabilities).toFixed(2)}`;
  }

  /** The class of the last frame; empty before the first. */
  get label() {
    const [values] = this.#values;
    if (!values || !this.isClasses || !haveLabel(values)) return "";
    return this.model.interpret(values).label;
  }

  /** Start from the reset state, with a plot of so many samples. @param {number} columns */
  start(columns) {
    this.close();
    this.#stream = openStream(this.model);
    this.plot.clear(columns);
    this.#milliseconds = 0;
    this.#steps = 0;
    this.#values = [];
  }

  /** True if a stream is open. */
  get isOpen() {
    return this.#stream !== undefined;
  }

  /** Run a step, and show it. @param {readonly number[]} row */
  take(row) {
    const { model } = this;
    const sample = asSample(model, row);
    const started = performance.now();
    const result = this.#stream?.step(sample) ?? null;
    this.#milliseconds += performance.now() - started;
    this.#steps += 1;
    this.plot.push(row);
    this.outputs.forEach((output, index) => this.#show(output, index, result));
    this.plot.ask();
  }

  /** Show the frames of an output in a result. @param {ShownOutput} output @param {number} index @param {Result} result */
  #show({ spec, frames: perUnit, delay }, index, result) {
    const { manifest, outputs, unit } = this.model;
    const frames = framesOf(manifest, outputs, result, spec);
    frames.forEach((values, frame) => {
      const later = ((frames.length - 1 - frame) * unit) / perUnit;
      this.#values[index] = values;
      this.plot.tell(index, values, Math.floor(delay + later), Math.max(1, Math.floor(unit / perUnit)));
    });
  }

  /** Show rows without results. @param {readonly number[][]} rows */
  preview(rows) {
    this.plot.clear(rows.length);
    for (const row of rows) this.plot.push(row);
    this.plot.draw();
  }

  /** Draw the end and say how it ended, also for screen readers. @param {string} decision @param {number} rate samples per second */
  conclude(decision, rate) {
    const average = milliseconds(this.#milliseconds / Math.max(1, this.#steps));
    const text = `${decision}A step takes ${average} on average; a sample comes every ${milliseconds(1000 / rate)}.`;
    this.plot.draw();
    say(`${this.prefix}-result`, text);
    byId(`${this.prefix}-plot`).setAttribute("aria-label", `The signal and the outputs. ${text}`);
  }

  /** Free the stream. */
  close() {
    this.#stream?.close();
    this.#stream = undefined;
  }
}

/** Return an entry for each line. @param {readonly string[]} names */
function legendOf(names) {
  return [...panelsOf(names).values()].flat().map((index) => {
    const line = element("span", "");
    const swatch = svg("svg", { viewBox: "0 0 20 10", "aria-hidden": "true" });
    swatch.append(svg("line", { class: `s${index % 6}`, x1: 0, x2: 20, y1: 5, y2: 5, "stroke-width": 3 }));
    line.append(swatch, names[index] ?? "");
    return line;
  });
}
