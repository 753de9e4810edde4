/**
 * The cause of an error: the name of the Python runtime's error for the same cause.
 *
 * @typedef {"InputError" | "FileFormatError" | "ManifestError" | "ContractError" | "StateError"
 *   | "NotFoundError" | "ProviderError" | "MissingDependencyError"} Cause
 */

/** The error that this package raises on purpose; `name` is its cause, `message` one line. */
export class LstmEdgeError extends Error {
  /**
   * @param {Cause} name
   * @param {string} message the value, the expected one, and advice
   * @param {ErrorOptions} [options]
   */
  constructor(name, message, options) {
    super(message, options);
    this.name = name;
  }
}

/** @param {unknown} error @internal */
export const firstLine = (error) => String(error instanceof Error ? error.message : error).split("\n", 1)[0];
