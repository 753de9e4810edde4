/** Recordings as rows of numbers: the golden case of a file, tables (CSV) and sound (WAV). */

/** @import { Model, Samples } from "./lstm-edge/index.js" */

/**
 * Samples to replay.
 *
 * @typedef {object} Recording
 * @property {string} label a class of the model, or a title
 * @property {number[][]} rows one per step, with the numbers of all inputs
 */

const SEPARATORS = [",", ";", "\t", " "];
const PCM = 1;
const FLOAT = 3;
const EXTENSIBLE = 0xfffe;
const DECIMAL = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
/** @type {Record<string, (view: DataView, offset: number) => number>} */
const READERS = {
  float32: (view, offset) => view.getFloat32(offset, true),
  float64: (view, offset) => view.getFloat64(offset, true),
  int64: (view, offset) => Number(view.getBigInt64(offset, true)),
  int32: (view, offset) => view.getInt32(offset, true),
  int16: (view, offset) => view.getInt16(offset, true),
  int8: (view, offset) => view.getInt8(offset),
  uint8: (view, offset) => view.getUint8(offset),
  bool: (view, offset) => view.getUint8(offset),
};

/** Return the names of the numbers of a step. @param {Model} model */
export function columnsOf({ inputs, features }) {
  const [only] = inputs;
  if (inputs.length === 1 && features.length === only?.width) return [...features];
  return inputs.flatMap(({ name, width }) =>
    width === 1 ? [name] : Array.from({ length: width }, (_, index) => `${name}_${index}`),
  );
}

/** Return a row as a stream takes it. @param {Model} model @param {readonly number[]} row @returns {Samples} */
export function asSample({ inputs }, row) {
  if (inputs.length === 1) return row;
  let start = 0;
  const entries = inputs.map(({ name, width }) => {
    const values = row.slice(start, start + width);
    start += width;
    return /** @type {[string, number[]]} */ ([name, values]);
  });
  return Object.fromEntries(entries);
}

/** Return the first row of the batch in the golden case; null if the file has none. @param {Model} model @returns {Recording | null} */
export function goldenRecording({ manifest, inputs }) {
  const arrays = manifest.golden?.inputs;
  if (!arrays) return null;
  const { batch, sequence } = manifest.axes;
  const steps = inputs.map(({ name, width }) => {
    const axes = manifest.inputs.find((spec) => spec.name === name)?.axes ?? [];
    return stepsOf(arrays[name], axes.indexOf(batch ?? ""), axes.indexOf(sequence ?? ""), width);
  });
  const count = Math.min(...steps.map((rows) => rows.length));
  const rows = Array.from({ length: count }, (_, step) => steps.flatMap((input) => input[step] ?? []));
  return { label: "Golden case of the file", rows };
}

/**
 * Return the steps of the first row of an array of the manifest.
 *
 * @param {{dtype: string, shape: number[], data: string}} array
 * @param {number} batch the index of the axis, -1 if there is none
 * @param {number} time
 * @param {number} width
 */
function stepsOf({ dtype, shape, data }, batch, time, width) {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const read = READERS[dtype];
  const count = shape.reduce((product, size) => product * size, 1);
  if (!read || !count) return [];
  const elementSize = bytes.length / count;
  /** @type {number[][]} */
  const steps = Array.from({ length: time < 0 ? 1 : (shape[time] ?? 0) }, () => []);
  for (let index = 0; index < count; index += 1) {
    const place = indices(index, shape);
    if (batch >= 0 && place[batch] !== 0) continue;
    steps[time < 0 ? 0 : (place[time] ?? 0)]?.push(read(view, index * elementSize));
  }
  return steps.filter((step) => step.length === width);
}

/** Return the index on each axis. @param {number} index @param {readonly number[]} shape */
function indices(index, shape) {
  const place = shape.map(() => 0);
  let rest = index;
  for (let axis = shape.length - 1; axis >= 0; axis -= 1) {
    const size = shape[axis] ?? 1;
    place[axis] = rest % size;
    rest = Math.floor(rest / size);
  }
  return place;
}

/** Read a file by its content. @param {File} file @param {Model} model @returns {Promise<Recording>} */
export async function readRecording(file, model) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const isWav = textAt(bytes, 0) === "RIFF" && textAt(bytes, 8) === "WAVE";
  const rows = isWav ? readWav(bytes, model) : readTable(new TextDecoder().decode(bytes), columnsOf(model));
  return { label: file.name, rows };
}

// --- Tables

/**
 * Read rows of numbers. With a header, columns are found by name, and others are ignored.
 *
 * @param {string} text
 * @param {readonly string[]} columns
 */
export function readTable(text, columns) {
  const lines = text.split(/\r?\n/).filter((line) => line.trim() !== "");
  const [first = ""] = lines;
  const separator = SEPARATORS.find((candidate) => first.trim().includes(candidate)) ?? ",";
  const cells = lines.map((line) => line.trim().split(separator).map(unquoted));
  const isHeader = (cells[0] ?? []).some((cell) => !DECIMAL.test(cell));
  const header = isHeader ? cells.shift() : undefined;
  const places = header ? placesIn(header, columns) : columns.map((_, index) => index);
  const rows = cells.map((row, index) => {
    const line = index + (isHeader ? 2 : 1);
    if (!header && row.length !== columns.length) {
      throw new Error(`Line ${line} has ${row.length} columns, expected ${columns.join(", ")}.`);
    }
    return places.map((place, column) => numberIn(row[place] ?? "", line, columns[column] ?? ""));
  });
  if (rows.length) return rows;
  throw new Error(`The file has no rows of numbers; expected columns ${columns.join(", ")}.`);
}

/** @param {string} cell */
function unquoted(cell) {
  return cell.trim().replace(/^"(.*)"$/, "$1");
}

/** @param {string} cell @param {number} line @param {string} column */
function numberIn(cell, line, column) {
  const value = DECIMAL.test(cell) ? Number(cell) : NaN;
  if (Number.isFinite(value)) return value;
  throw new Error(`Line ${line}: ${column} is "${cell.slice(0, 40)}", expected a number.`);
}

/** Return the place of each column. @param {string[]} header @param {readonly string[]} columns */
function placesIn(header, columns) {
  const missing = columns.filter((name) => !header.includes(name));
  if (missing.length) {
    throw new Error(`The header has no ${missing.join(", ")}; it has ${header.join(", ").slice(0, 200)}.`);
  }
  return columns.map((name) => header.indexOf(name));
}

// --- Sound

/**
 * Read samples from -1 to 1, times the file's full scale.
 *
 * @param {Uint8Array} bytes
 * @param {Model} model
 */
export function readWav(bytes, model) {
  const { format, data } = chunksOf(bytes);
  const [width = 0] = model.inputs.map((port) => port.width);
  if (model.inputs.length !== 1 || format.channels !== width) {
    throw new Error(`The sound has ${format.channels} channels, expected ${columnsOf(model).join(", ")}.`);
  }
  const rate = model.samplingRate;
  if (rate !== null && rate !== format.rate) {
    throw new Error(`The sound has ${format.rate} samples per second, expected ${rate}; resample it first.`);
  }
  const scale = model.manifest.signal.full_scale ?? 1;
  const size = format.bits / 8;
  const frames = Math.floor(data.byteLength / (size * width));
  return Array.from({ length: frames }, (_, frame) =>
    Array.from(
      { length: width },
      (__, channel) => scale * sampleAt(data, (frame * width + channel) * size, format),
    ),
  );
}

/** @typedef {{code: number, channels: number, rate: number, bits: number}} Format */

/** Return the format and the samples of a WAV file. @param {Uint8Array} bytes @returns {{format: Format, data: DataView}} */
function chunksOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  /** @type {Format | undefined} */
  let format;
  for (let start = 12; start + 8 <= bytes.length; ) {
    const name = textAt(bytes, start);
    const size = Math.min(view.getUint32(start + 4, true), bytes.length - start - 8);
    const at = start + 8;
    if (name === "fmt " && size >= 16) format = formatAt(view, at, size);
    if (name === "data" && format)
      return { format, data: new DataView(bytes.buffer, bytes.byteOffset + at, size) };
    start = at + size + (size % 2);
  }
  throw new Error("The WAV file is damaged: it has no samples.");
}

/** @param {DataView} view @param {number} at @param {number} size @returns {Format} */
function formatAt(view, at, size) {
  const tag = view.getUint16(at, true);
  const code = tag === EXTENSIBLE && size >= 26 ? view.getUint16(at + 24, true) : tag;
  const bits = view.getUint16(at + 14, true);
  const isKnown =
    (code === PCM && [8, 16, 24, 32].includes(bits)) || (code === FLOAT && [32, 64].includes(bits));
  if (!isKnown) throw new Error(`The WAV file has format ${code} of ${bits} bits, expected PCM or float.`);
  return { code, channels: view.getUint16(at + 2, true), rate: view.getUint32(at + 4, true), bits };
}

/** Return a sample from -1 to 1. @param {DataView} data @param {number} at @param {Format} format */
function sampleAt(data, at, { code, bits }) {
  if (code === FLOAT) return bits === 32 ? data.getFloat32(at, true) : data.getFloat64(at, true);
  if (bits === 8) return (data.getUint8(at) - 128) / 128;
  if (bits === 16) return data.getInt16(at, true) / 2 ** 15;
  if (bits === 24) return (data.getUint16(at, true) + data.getInt8(at + 2) * 2 ** 16) / 2 ** 23;
  return data.getInt32(at, true) / 2 ** 31;
}

/** @param {Uint8Array} bytes @param {number} at */
function textAt(bytes, at) {
  return String.fromCharCode(...bytes.subarray(at, at + 4));
}
