/** Programs that the tests open, made by Python. */

import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { WEB } from "./browser.js";

const BIN = join(WEB, "../.venv/bin/");
const [COMMAND, PYTHON] = existsSync(BIN) ? [`${BIN}lstm-edge`, `${BIN}python`] : ["lstm-edge", "python3"];

/** Run the command line. @param {string[]} words */
export const lstmEdge = (...words) => execFileSync(COMMAND, words, { cwd: WEB, encoding: "utf8" });

/** Whether the command is here. */
export const hasCommand = spawnSync(COMMAND, ["--version"]).status === 0;

/** Make the folder of programs. */
export function makePrograms() {
  const folder = mkdtempSync(join(tmpdir(), "lstm-edge-web-"));
  execFileSync(PYTHON, [join(WEB, "../tests/web/programs.py"), folder]);
  return `${folder}/`;
}

/**
 * Return why tests are skipped where a program is not here; where LSTM_EDGE_REQUIRE names it, that is an error.
 *
 * @param {string} program
 * @param {unknown} isThere
 */
export function skipWithout(program, isThere) {
  if (isThere) return false;
  if (process.env.LSTM_EDGE_REQUIRE?.split(/\s+/).includes(program))
    throw new Error(`no ${program}, which LSTM_EDGE_REQUIRE names`);
  return `no ${program}`;
}
