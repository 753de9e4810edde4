/** The error of this package. */

/** Longest message: names and texts of a file may be of any length. */
const LONGEST = 500;

/** The reason in one line; `name` is the kind of error. */
export class LstmEdgeError extends Error {
  /**
   * @param {"NotFoundError" | "FileFormatError" | "InputError" | "StateError"} name
   * @param {string} message
   */
  constructor(name, message) {
    const line = message.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, " ");
    super(line.length <= LONGEST ? line : `${line.slice(0, LONGEST)}...`);
    this.name = name;
  }
}
