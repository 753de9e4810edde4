/** A signal and, below it, the recognized class at each moment. */

import { argmax, haveLabel } from "./lstm-edge/results.js";
import { rounded } from "./page.js";

const LANE = 84,
  BAND = 36,
  TOP = 18,
  GAP = 6;

/** @param {string} name @param {Record<string, string | number>} attributes @param {string} [text] */
export function svg(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Return the indices of names by the panel in which they are drawn: `acc_x acc_y gyr_x` are two panels. @param {readonly string[]} names */
export function panelsOf(names) {
  /** @type {Map<string, number[]>} */
  const panels = new Map();
  names.forEach((name, index) => {
    const stem = name.replace(/[\s_.-]?([xyz]|\d+)$/i, "");
    panels.set(stem, [...(panels.get(stem) ?? []), index]);
  });
  return panels.size <= 3 ? panels : new Map([["", [...names.keys()]]]);
}

/**
 * @typedef {object} Row
 * @property {ArrayLike<number>} sample
 * @property {ArrayLike<number>[]} results of each output; empty where there is none yet
 */
/** @typedef {(row: Row) => ArrayLike<number> | undefined} ValuesOf */

/** Draws the samples and results that are pushed, at most once a frame. */
export class Plot {
  /** @type {Row[]} */ #rows = [];
  #svg;
  #what;
  #columns = 1;
  #asked = 0;

  /**
   * @param {SVGElement} element
   * @param {{names: readonly string[], labels: readonly string[], outputs: readonly (readonly string[])[]}} what the names
   *   of a sample's values; the classes of the first output; the names of each output's values, none for classes
   */
  constructor(element, what) {
    this.#svg = element;
    this.#what = what;
    this.clear(1);
    new ResizeObserver(() => this.ask()).observe(element);
  }

  /** @param {number} columns the number of samples that the plot is wide */
  clear(columns) {
    this.#rows = [];
    this.#columns = columns;
    this.draw();
  }

  /** @param {ArrayLike<number>} sample its result comes with `tell` */
  push(sample) {
    this.#rows.push({ sample, results: [] });
    if (this.#rows.length > 2 * this.#columns) this.#trim();
  }

  /**
   * Give `count` samples a result; the last of them was pushed `back` samples ago.
   *
   * @param {number} output its index
   * @param {ArrayLike<number>} result
   * @param {number} back
   * @param {number} count
   */
  tell(output, result, back, count) {
    const end = this.#rows.length - back;
    for (const row of this.#rows.slice(Math.max(0, end - count), Math.max(0, end)))
      row.results[output] = result;
  }

  /** Draw before the next frame. */
  ask() {
    if (!this.#asked)
      this.#asked = requestAnimationFrame(() => {
        this.#asked = 0;
        this.draw();
      });
  }

  /** Drop the rows that are no longer shown. */
  #trim() {
    this.#rows = this.#rows.slice(Math.max(0, this.#rows.length - this.#columns));
  }

  draw() {
    this.#trim();
    const width = this.#svg.clientWidth || 300,
      { names, labels, outputs } = this.#what,
      parts = [];
    let top = 0;
    const panels = (/** @type {readonly string[]} */ shown, /** @type {ValuesOf} */ of) => {
      for (const [name, indices] of panelsOf(shown)) {
        parts.push(...this.#panel(name, indices, of, top, width));
        top += TOP + LANE + GAP;
      }
    };
    panels(names, ({ sample }) => sample);
    if (labels.length) {
      parts.push(this.#band(top, width));
      top += BAND;
    }
    outputs.forEach((shown, output) => {
      if (shown.length) panels(shown, ({ results }) => results[output]);
    });
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${top}`);
    this.#svg.setAttribute("height", String(top));
    this.#svg.replaceChildren(...parts);
  }

  /** @param {string} name @param {number[]} indices @param {ValuesOf} of @param {number} top @param {number} width */
  #panel(name, indices, of, top, width) {
    const [low, high] = this.#range(indices, of);
    const span = high - low || 1;
    const y = (/** @type {number} */ value) => top + TOP + LANE * (1 - (value - low) / span);
    const range = Number.isFinite(span) ? ` ${rounded(low, 2)} to ${rounded(high, 2)}` : "";
    const lines = indices.map((index) =>
      svg("polyline", { class: `s${index % 6}`, points: this.#points(index, of, width, y) }),
    );
    return [
      svg("line", { class: "axis", x1: 0, x2: width, y1: y(0), y2: y(0) }),
      svg("text", { x: 0, y: top + 12 }, name + range),
      ...lines,
    ];
  }

  /** Return the least and the largest finite value, and 0. @param {number[]} indices @param {ValuesOf} of */
  #range(indices, of) {
    let low = 0;
    let high = 0;
    for (const row of this.#rows) {
      for (const index of indices) {
        const value = Number(of(row)?.[index]);
        if (!Number.isFinite(value)) continue;
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
    return /** @type {const} */ ([low, high]);
  }

  /**
   * Return the points of a line: the least and the largest value per pixel if there are more samples than pixels.
   *
   * @param {number} index
   * @param {ValuesOf} of
   * @param {number} width
   * @param {(value: number) => number} y
   */
  #points(index, of, width, y) {
    const perPixel = Math.max(1, Math.floor(this.#columns / width));
    const points = [];
    for (let start = 0; start < this.#rows.length; start += perPixel) {
      const values = [];
      for (const row of this.#rows.slice(start, start + perPixel)) {
        const value = Number(of(row)?.[index]);
        if (Number.isFinite(value)) values.push(value);
      }
      const x = ((width * (start + perPixel / 2)) / this.#columns).toFixed(1);
      const ends = perPixel > 1 ? [Math.min(...values), Math.max(...values)] : values;
      if (values.length) points.push(...ends.map((value) => `${x},${y(value).toFixed(1)}`));
    }
    return points.join(" ");
  }

  /** @param {number} top @param {number} width */
  #band(top, width) {
    const band = svg("g", { class: "band" }),
      step = width / this.#columns;
    const classes = this.#rows.map(({ results: [result] }) =>
      result && haveLabel(result) ? argmax(result) : -1,
    );
    for (let from = 0, to = 0; from < classes.length; from = to) {
      while (to < classes.length && classes[to] === classes[from]) to += 1;
      const index = classes[from] ?? -1,
        label = this.#what.labels[index] ?? "",
        room = (to - from) * step;
      if (index < 0) continue; // no result yet, because of the delay, or no finite one
      band.append(
        svg("rect", { class: `c${index % 8}`, x: from * step, y: top + 8, width: room, height: BAND - 8 }),
      );
      const shown = [label, label.slice(0, 1)].find((text) => text.length * 8 + 6 < room);
      if (shown) band.append(svg("text", { x: from * step + 5, y: top + 26 }, shown));
    }
    return band;
  }
}
