/** Time steps of programs in Node, alternately, for sparse.py: node sparse.mjs TURN ROUNDS PROGRAM.lep ... */

import { readFile } from "node:fs/promises";
import { compileLibrary } from "../../web/site/lstm-edge/index.js";
import { Library } from "../../web/site/lstm-edge/library.js";

/** Return a function that runs a step of a program. @param {string} path */
async function stepOf(path) {
  const bytes = await readFile(path);
  const { functions } = await Library.open(await compileLibrary());
  const address = functions.malloc(bytes.length);
  new Uint8Array(functions.memory.buffer, address, bytes.length).set(bytes);
  const stream = functions.lstm_edge_stream_new(functions.lstm_edge_load(address, bytes.length));
  return () => functions.lstm_edge_step(stream);
}

const [turn, rounds, ...paths] = process.argv.slice(2);
const steps = await Promise.all(paths.map(stepOf));
const best = steps.map(() => Infinity);
for (let round = 0; round < Number(rounds); round += 1) {
  for (const [index, step] of steps.entries()) {
    step();
    const started = performance.now();
    for (let count = 0; count < Number(turn); count += 1) step();
    const took = ((performance.now() - started) * 1000) / Number(turn);
    best[index] = Math.min(best[index] ?? Infinity, took);
  }
}
console.log(JSON.stringify(best));
