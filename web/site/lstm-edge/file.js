/** Reading the manifest from a model file's bytes: onnxruntime-web has no access to metadata. */

import { LstmEdgeError } from "./errors.js";

const KEY = "lstm_edge";
const TRUNCATED = "the file is truncated, or not an ONNX file; export or copy it again";
const utf8 = new TextDecoder();

/**
 * Return whether the bytes are in onnxruntime's own flatbuffers format.
 *
 * @param {Uint8Array} bytes
 * @internal
 */
export const isOrtFormat = (bytes) => utf8.decode(bytes.subarray(4, 8)) === "ORTM";

/**
 * Return the JSON text of the manifest in an `.onnx` or `.ort` file.
 *
 * @param {Uint8Array} bytes
 * @returns {string | undefined} undefined if the file has none
 * @throws {LstmEdgeError} FileFormatError: truncated, or another format
 * @internal
 */
export function manifestText(bytes) {
  try {
    return isOrtFormat(bytes) ? fromOrt(bytes) : fromOnnx(bytes);
  } catch (cause) {
    throw new LstmEdgeError("FileFormatError", TRUNCATED, { cause });
  }
}

/** @param {Uint8Array} bytes */
function fromOnnx(bytes) {
  let graphs = 0, text;
  for (const [number, value] of fields(bytes)) {
    if (number === 7) graphs += 1;
    if (number !== 14) continue;
    const entry = new Map(fields(value));
    if (utf8.decode(entry.get(1)) === KEY) text = utf8.decode(entry.get(2));
  }
  if (!graphs) throw new RangeError("no graph");
  return text;
}

/**
 * Yield the number and content of each length-delimited field; varints and fixed ones are skipped.
 * Format: https://protobuf.dev/programming-guides/encoding/
 *
 * @param {Uint8Array} bytes
 * @returns {Generator<[number, Uint8Array]>}
 */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let power = 1; ; power *= 128) {
      const byte = bytes[at++];
      if (byte === undefined || power > 2 ** 63) throw new RangeError("varint");
      value += (byte & 127) * power;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint(), kind = key % 8, number = Math.floor(key / 8);
    if (kind === 0) {
      varint();
      continue;
    }
    const size = kind === 2 ? varint() : kind === 1 ? 8 : kind === 5 ? 4 : NaN;
    if (!number || !(at + size <= bytes.length)) throw new RangeError("field");
    if (kind === 2) yield [number, bytes.subarray(at, at + size)];
    at += size;
  }
}

/**
 * Read `model.metadata_props` of an `InferenceSession` table (onnxruntime's `ort.fbs`).
 *
 * @param {Uint8Array} bytes
 */
function fromOrt(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const follow = (/** @type {number} */ at) => at + view.getUint32(at, true);
  const field = (/** @type {number} */ table, /** @type {number} */ index) => {
    const vtable = table - view.getInt32(table, true), slot = 4 + 2 * index;
    const offset = slot < view.getUint16(vtable, true) ? view.getUint16(vtable + slot, true) : 0;
    return offset && table + offset;
  };
  const text = (/** @type {number} */ at) => {
    const start = follow(at), end = start + 4 + view.getUint32(start, true);
    if (end > bytes.length) throw new RangeError("text");
    return utf8.decode(bytes.subarray(start + 4, end));
  };
  const props = field(follow(field(follow(0), 1)), 9);
  if (!props) return undefined;
  const list = follow(props);
  for (let left = view.getUint32(list, true), at = list + 4; left > 0; left -= 1, at += 4) {
    const entry = follow(at);
    if (text(field(entry, 0)) === KEY) return text(field(entry, 1));
  }
  return undefined;
}
