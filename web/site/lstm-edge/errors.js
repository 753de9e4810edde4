/** The errors of this package. */

const MAX_LENGTH = 500;
const MAX_BEGINNING = 300;
const ELLIPSIS = " ... ";
const UNPRINTABLE = /[\p{C}\p{Zl}\p{Zp}]/gu;

/**
 * @typedef {"NotFoundError" | "FileFormatError" | "ManifestError" | "ContractError" | "InputError"
 *   | "StateError" | "UnsupportedError"} ErrorName
 */

/** What went wrong, in one line of at most 500 characters; `name` tells the kind. */
export class LstmEdgeError extends Error {
  /**
   * @param {ErrorName} name
   * @param {string} message
   */
  constructor(name, message) {
    super(oneLine(message));
    this.name = name;
  }
}

/** Return the message of anything that was thrown. @param {unknown} error */
export function messageOf(error) {
  return error instanceof Error ? error.message : String(error);
}

/** Return text for a message: the value itself if it is simple, else its kind. @param {unknown} value */
export function shown(value) {
  if (typeof value === "string") return JSON.stringify(shortened(value, 40));
  if (typeof value === "bigint") return `${value}n`;
  if (Array.isArray(value) || ArrayBuffer.isView(value)) return "an array";
  if (typeof value === "object" && value !== null) return "an object";
  if (typeof value === "function") return "a function";
  return String(value);
}

/** Return text with control and invisible characters escaped, shortened. @param {string} text */
function oneLine(text) {
  const beginning = shortened(text, MAX_LENGTH);
  return shortened(beginning.replace(UNPRINTABLE, escaped), MAX_LENGTH);
}

/** @param {string} character */
function escaped(character) {
  if (character === "\n") return "\\n";
  return `\\u{${character.codePointAt(0)?.toString(16)}}`;
}

/**
 * Return the beginning and the end of a long text.
 *
 * @param {string} text
 * @param {number} length the largest one
 */
function shortened(text, length) {
  if (text.length <= length) return text;
  const beginning = Math.min(MAX_BEGINNING, Math.floor(length / 2));
  return (
    text.slice(0, beginning) + ELLIPSIS + text.slice(text.length - (length - beginning - ELLIPSIS.length))
  );
}
