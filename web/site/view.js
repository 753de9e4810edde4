/** A stream with its plot, legend and result under one prefix of ids. */

import { byId, chosen, element, milliseconds, say } from "./page.js";
import { lanesOf, Plot, svg } from "./plot.js";
import { asSample, columnsOf } from "./recordings.js";

/** @import { Model, SlidingStream, Stream } from "./lstm-edge/index.js" */

const MAX_LINES = 12;

/** Open a stream as the section "State" says. @param {Model} model */
function openStream(model) {
  const mode = chosen("mode");
  if (mode === "never") return model.stream({ resetEvery: "never" });
  const interval = Number(chosen("interval"));
  return mode === "window" ? model.stream({ window: interval }) : model.stream({ resetEvery: interval });
}

/** Return the names of the values of the main output; classes if it is a classification. @param {Model} model */
function mainOutput(model) {
  const { outputs, labels, units, manifest } = model;
  const port = outputs.find(({ name }) => name === manifest.task?.output) ?? outputs[0];
  const width = manifest.outputs.find(({ name }) => name === port?.name)?.axes.at(-1);
  const count = typeof width === "number" ? width : (port?.width ?? 0);
  const isClasses = manifest.task?.kind === "classification" && labels.length === count;
  const withUnit = (/** @type {number} */ index) =>
    [port?.name, index, units[index]].filter((part) => part !== undefined).join(" ");
  const names = isClasses ? [...labels] : Array.from({ length: count }, (_, index) => withUnit(index));
  return { names, isClasses, frames: port?.frames || 1 };
}

/** Shows what a stream takes and gives. */
export class View {
  /** @type {Stream | SlidingStream | undefined} */
  #stream;
  /** @type {ArrayLike<number> | undefined} */
  #values;
  #milliseconds = 0;
  #steps = 0;

  /** @param {"replay" | "live" | "hand" | "microphone"} prefix @param {Model} model */
  constructor(prefix, model) {
    this.prefix = prefix;
    this.model = model;
    this.output = mainOutput(model);
    const { isClasses, names } = this.output;
    const columns = columnsOf(model).slice(0, MAX_LINES);
    const outputs = names.slice(0, MAX_LINES);
    const figure = /** @type {any} */ (byId(`${prefix}-plot`));
    this.plot = new Plot(figure, {
      names: columns,
      labels: isClasses ? names : [],
      outputs: isClasses ? [] : outputs,
    });
    byId(`${prefix}-legend`).replaceChildren(...legendOf(columns), ...(isClasses ? [] : legendOf(outputs)));
    say(`${prefix}-result`, "");
  }

  /** The class of the last frame with its probability, or the values; empty before the first. */
  get words() {
    if (!this.#values) return "";
    if (!this.output.isClasses)
      return Array.from(this.#values, (value) => value.toPrecision(4))
        .slice(0, MAX_LINES)
        .join(", ");
    const { label, probabilities } = this.model.interpret(this.#values);
    return `${label} ${Math.max(...probabilities).toFixed(2)}`;
  }

  /** The class of the last frame; empty before the first. */
  get label() {
    if (!this.#values || !this.output.isClasses) return "";
    return this.model.interpret(this.#values).label;
  }

  /** Start from the reset state, with a plot of so many samples. @param {number} columns */
  start(columns) {
    this.close();
    this.#stream = openStream(this.model);
    this.plot.clear(columns);
    this.#milliseconds = 0;
    this.#steps = 0;
    this.#values = undefined;
  }

  /** True if a stream is open. */
  get isOpen() {
    return this.#stream !== undefined;
  }

  /** Run a step, and show it. @param {readonly number[]} row */
  take(row) {
    const { model, output } = this;
    const sample = asSample(model, row);
    const started = performance.now();
    const result = this.#stream?.step(sample) ?? null;
    this.#milliseconds += performance.now() - started;
    this.#steps += 1;
    this.plot.push(row);
    const frames = model.frames(result);
    frames.forEach((values, index) => {
      const later = ((frames.length - 1 - index) * model.unit) / output.frames;
      this.#values = values;
      this.plot.tell(
        values,
        Math.floor(model.delay + later),
        Math.max(1, Math.floor(model.unit / output.frames)),
      );
    });
    this.plot.ask();
  }

  /** Show rows without results. @param {readonly number[][]} rows */
  preview(rows) {
    this.plot.clear(rows.length);
    for (const row of rows) this.plot.push(row);
    this.plot.draw();
  }

  /** Draw the end and say how it ended, also to those who do not see the picture. @param {string} decision @param {number} rate samples per second */
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
  return [...lanesOf(names).values()].flat().map((index) => {
    const line = element("span", "");
    const swatch = svg("svg", { viewBox: "0 0 20 10", "aria-hidden": "true" });
    swatch.append(svg("line", { class: `s${index % 6}`, x1: 0, x2: 20, y1: 5, y2: 5, "stroke-width": 3 }));
    line.append(swatch, names[index] ?? "");
    return line;
  });
}
