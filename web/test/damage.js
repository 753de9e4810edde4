/** Seeded damage to programs, to their manifests and to saved states; checksums are made right again. */

const TABLE = Uint32Array.from({ length: 256 }, (_, index) => {
  let crc = index;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});
const NUMBERS = [0, 1, 2, 127, 128, 255, 65535, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1];
/** Values for fields of a manifest. @type {unknown[]} */
const VALUES = [
  null,
  true,
  false,
  0,
  1,
  -1,
  2,
  1.5,
  1e308,
  2 ** 31,
  2 ** 53,
  "",
  "x",
  "\0",
  "\x1b[31mred",
  "line\nline",
  "\ud800",
  "x".repeat(2000),
  [],
  {},
  [[]],
  [null],
  { "": null },
  ["a", "a"],
  [1, "N"],
  "N",
  "L",
  "logits",
  "__proto__",
  "constructor",
  ["__proto__"],
  "classification",
  "regression",
  [2 ** 40],
  ["L", "N"],
];
const FRONT = { program: 16, state: 12 };

/** Return a generator of numbers from 0 to 1. @param {number} seed */
export function randomOf(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** @typedef {ReturnType<typeof randomOf>} Random */

/** @param {Random} random @param {number} count */
const below = (random, count) => Math.floor(random() * count);

/**
 * @template T
 * @param {Random} random
 * @param {readonly T[]} items
 */
const pick = (random, items) => /** @type {T} */ (items[below(random, items.length)]);

/** CRC-32 as in zlib. @param {Uint8Array} bytes */
function checksum(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ /** @type {number} */ (TABLE[(crc ^ byte) & 255]);
  return (crc ^ 0xffffffff) >>> 0;
}

/** Write the checksum in front of what it covers. @param {Uint8Array} bytes @param {"program" | "state"} kind */
function sealed(bytes, kind) {
  const front = FRONT[kind];
  if (bytes.length < front) return bytes;
  const address = kind === "program" ? 12 : 8;
  new DataView(bytes.buffer).setUint32(address, checksum(bytes.subarray(front)), true);
  return bytes;
}

/** Change, insert, cut or copy some bytes. @param {Random} random @param {Uint8Array} content */
function damaged(random, content) {
  let bytes = Array.from(content);
  const changes = pick(random, [1, 1, 1, 2, 4, 16]);
  for (let change = 0; change < changes; change += 1) {
    const at = below(random, bytes.length + 1);
    const size = pick(random, [1, 2, 4, 8, 64]);
    switch (below(random, 5)) {
      case 0:
        bytes[at] = (bytes[at] ?? 0) ^ (1 << below(random, 8));
        break;
      case 1:
        bytes.splice(at, 0, ...Array.from({ length: size }, () => below(random, 256)));
        break;
      case 2:
        bytes.splice(at, pick(random, [size, bytes.length]));
        break;
      case 3:
        bytes.splice(at, size, ...bytes.slice(below(random, bytes.length), size));
        break;
      default: {
        const number = pick(random, NUMBERS);
        const aligned = at - (at % 4);
        for (let byte = 0; byte < 4; byte += 1)
          bytes[aligned + byte] = Math.floor(number / 256 ** byte) % 256;
      }
    }
  }
  return Uint8Array.from(bytes);
}

/** Return a damaged program or state. @param {Random} random @param {Uint8Array} content @param {"program" | "state"} kind */
export function damagedFile(random, content, kind) {
  const bytes = damaged(random, content);
  if (random() < 0.2 || bytes.length < 64) return bytes;
  bytes.set(content.subarray(0, 8));
  if (kind === "program") new DataView(bytes.buffer).setBigUint64(16, BigInt(bytes.length), true);
  return sealed(bytes, kind);
}

/** Return a program whose manifest has other values. @param {Random} random @param {Uint8Array} content */
export function damagedManifest(random, content) {
  const text = Buffer.from(content).toString("latin1");
  const start = text.indexOf('{"axes"');
  const end = endOfObject(text, start);
  const manifest = JSON.parse(text.slice(start, end));
  delete manifest.golden; // makes room for longer values
  const edits = pick(random, [1, 1, 1, 2, 3]);
  for (let edit = 0; edit < edits; edit += 1) editOne(random, manifest);
  let json = JSON.stringify(manifest).replace(/[\u0080-\uffff]/g, "?");
  if (random() < 0.1) json = json.slice(0, below(random, json.length));
  const bytes = content.slice();
  bytes.set(Buffer.from(json.slice(0, end - start).padEnd(end - start), "latin1"), start);
  return sealed(bytes, "program");
}

/** Return the end of the JSON object at `start`. @param {string} text @param {number} start */
function endOfObject(text, start) {
  let depth = 0;
  const tokens = /"(?:[^"\\]|\\.)*"|[{}]/g;
  tokens.lastIndex = start;
  for (let token = tokens.exec(text); token; token = tokens.exec(text)) {
    if (token[0] === "{") depth += 1;
    if (token[0] === "}") depth -= 1;
    if (depth === 0) return tokens.lastIndex;
  }
  return text.length;
}

/** @param {Random} random @param {any} root */
function editOne(random, root) {
  /** @type {[any, string][]} */
  const entries = [];
  const visit = (/** @type {any} */ parent) => {
    for (const key of Object.keys(parent)) {
      entries.push([parent, key]);
      if (typeof parent[key] === "object" && parent[key] !== null) visit(parent[key]);
    }
  };
  visit(root);
  if (!entries.length) return;
  const [parent, key] = pick(random, entries);
  const value = parent[key];
  switch (below(random, 4)) {
    case 0:
      delete parent[key];
      break;
    case 1: {
      const [other, name] = pick(random, entries);
      parent[key] = structuredClone(other[name]);
      break;
    }
    case 2:
      parent[key] = Array.isArray(value) ? [...value, ...value] : [value];
      break;
    default:
      parent[key] = structuredClone(pick(random, VALUES)); // a later edit may change it
  }
}
