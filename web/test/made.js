/** Files that lstm-edge makes for the tests, by its command line. */

import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { DATA, WEB } from "./browser.js";

const NEAR = join(WEB, "../.venv/bin/lstm-edge");

/** The command that makes files; the LSTM_EDGE variable names another. */
export const COMMAND = process.env.LSTM_EDGE ?? (existsSync(NEAR) ? NEAR : "lstm-edge");

/** @param {string[]} words */
export const lstmEdge = (...words) => execFileSync(COMMAND, words, { cwd: WEB, encoding: "utf8" });

/** Whether the command is here. */
export const hasCommand = spawnSync(COMMAND, ["--version"]).status === 0;

/** Make the folder of test files: those of the runtime's tests, and fp16 ones. */
export function makeFiles() {
  const folder = mkdtempSync(join(tmpdir(), "lstm-edge-web-"));
  cpSync(DATA, folder, { recursive: true });
  const quantize = (/** @type {string} */ name, /** @type {string[]} */ ...options) =>
    spawnSync(COMMAND, ["quantize", join(DATA, "lstm.onnx"), "-o", join(folder, name), "--precision", "fp16", "--force", ...options], { encoding: "utf8" });
  quantize("stored.onnx");
  quantize("half.onnx", "--for", "gpu", "--no-keep-io");
  return `${folder}/`;
}

/**
 * Return why tests are skipped where a program is not here; where LSTM_EDGE_REQUIRE names it, that is an error.
 *
 * @param {string} program
 * @param {unknown} found
 */
export function skipWithout(program, found) {
  if (found) return false;
  if (process.env.LSTM_EDGE_REQUIRE?.split(/\s+/).includes(program)) throw new Error(`no ${program}, which LSTM_EDGE_REQUIRE names`);
  return `no ${program}`;
}
