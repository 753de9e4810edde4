/** A signal and, below it, the recognized class at each moment. */

const LANE = 84,
  BAND = 36,
  TOP = 18;

/** @param {string} name @param {Record<string, string | number>} attributes @param {string} [text] */
export function svg(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Return the indices of names by the lane in which they are drawn: `acc_x acc_y gyr_x` are two lanes. @param {readonly string[]} names */
export function lanesOf(names) {
  /** @type {Map<string, number[]>} */
  const lanes = new Map();
  names.forEach((name, index) => {
    const stem = name.replace(/[\s_.-]?([xyz]|\d+)$/i, "");
    lanes.set(stem, [...(lanes.get(stem) ?? []), index]);
  });
  return lanes.size <= 3 ? lanes : new Map([["", [...names.keys()]]]);
}

/** Draws the samples and results that are pushed, at most once a frame. */
export class Plot {
  /** @type {{sample: ArrayLike<number>, result: ArrayLike<number>}[]} */ #rows = [];
  #svg;
  #what;
  #columns = 1;
  #asked = 0;

  /**
   * @param {SVGElement} element
   * @param {{names: readonly string[], labels: readonly string[], outputs: readonly string[]}} what the names of a sample's
   *   values; the classes; for a regression the names of the values
   */
  constructor(element, what) {
    this.#svg = element;
    this.#what = what;
    this.clear(1);
  }

  /** @param {number} columns the number of samples that the plot is wide */
  clear(columns) {
    this.#rows = [];
    this.#columns = columns;
    this.draw();
  }

  /** @param {ArrayLike<number>} sample its result comes with `tell` */
  push(sample) {
    this.#rows.push({ sample, result: [] });
    if (this.#rows.length > this.#columns) this.#rows.shift();
  }

  /** Give `count` samples a result; the last of them was pushed `back` samples ago. @param {ArrayLike<number>} result @param {number} back @param {number} count */
  tell(result, back, count) {
    const end = this.#rows.length - back;
    for (const row of this.#rows.slice(Math.max(0, end - count), Math.max(0, end))) row.result = result;
  }

  /** Draw before the next frame. */
  ask() {
    if (!this.#asked)
      this.#asked = requestAnimationFrame(() => {
        this.#asked = 0;
        this.draw();
      });
  }

  draw() {
    const width = this.#svg.clientWidth || 300,
      { names, labels, outputs } = this.#what,
      parts = [];
    let top = 0;
    const lane = (
      /** @type {string} */ name,
      /** @type {number[]} */ indices,
      /** @type {"sample" | "result"} */ of,
    ) => {
      parts.push(...this.#lane(name, indices, of, top, width));
      top += LANE + TOP;
    };
    for (const [name, indices] of lanesOf(names)) lane(name, indices, "sample");
    if (labels.length) {
      parts.push(this.#band(top, width));
      top += BAND;
    } else {
      for (const [name, indices] of lanesOf(outputs)) lane(name, indices, "result");
    }
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${top}`);
    this.#svg.setAttribute("height", String(top));
    this.#svg.replaceChildren(...parts);
  }

  /** @param {string} name @param {number[]} indices @param {"sample" | "result"} of @param {number} top @param {number} width */
  #lane(name, indices, of, top, width) {
    const filled = [...this.#rows.entries()].filter(([, row]) => row[of].length);
    const values = indices.map((at) => filled.map(([, row]) => Number(row[of][at])));
    const finite = values.flat().filter(Number.isFinite),
      low = Math.min(0, ...finite),
      high = Math.max(0, ...finite);
    const y = (/** @type {number} */ value) => top + TOP + LANE * (1 - (value - low) / (high - low || 1));
    const x = (/** @type {number} */ index) => (width * (index + 0.5)) / this.#columns;
    const range = finite.length ? ` ${low.toPrecision(2)} to ${high.toPrecision(2)}` : "";
    return [
      svg("line", { class: "axis", x1: 0, x2: width, y1: y(0), y2: y(0) }),
      svg("text", { x: 0, y: top + 12 }, name + range),
      ...values.map((line, at) =>
        svg("polyline", {
          class: `s${(indices[at] ?? 0) % 6}`,
          points: line
            .map((value, index) => `${x(filled[index]?.[0] ?? 0).toFixed(1)},${y(value).toFixed(1)}`)
            .join(" "),
        }),
      ),
    ];
  }

  /** @param {number} top @param {number} width */
  #band(top, width) {
    const band = svg("g", { class: "band" }),
      step = width / this.#columns;
    const classes = this.#rows.map(({ result }) => (result.length ? best(result) : -1));
    for (let from = 0, to = 0; from < classes.length; from = to) {
      while (to < classes.length && classes[to] === classes[from]) to += 1;
      const index = classes[from] ?? -1,
        label = this.#what.labels[index] ?? "",
        room = (to - from) * step;
      if (index < 0) continue; // no result yet, because of the delay
      band.append(
        svg("rect", { class: `c${index % 8}`, x: from * step, y: top + 8, width: room, height: BAND - 8 }),
      );
      const shown = [label, label.slice(0, 1)].find((text) => text.length * 8 + 6 < room);
      if (shown) band.append(svg("text", { x: from * step + 5, y: top + 26 }, shown));
    }
    return band;
  }
}

/** Return the index of the largest value. @param {ArrayLike<number>} values */
export const best = (values) =>
  Array.from(values).reduce((top, value, index, all) => (value > (all[top] ?? -Infinity) ? index : top), 0);
