/** Damaged programs, manifests and states are read, or refused in one line; FUZZ=6000 for so many. */

import assert from "node:assert/strict";
import { readFile, rm } from "node:fs/promises";
import { after, describe, test } from "node:test";

import { load, LstmEdgeError } from "../site/lstm-edge/index.js";
import { damagedFile, damagedManifest, randomOf } from "./damage.js";
import { hasCommand, makePrograms, skipWithout } from "./made.js";

/** @import { Model } from "../site/lstm-edge/index.js" */

const COUNT = Number(process.env.FUZZ ?? 300);
const FIRST_SEED = process.env.FUZZ ? Date.now() % 1e9 : 0;
/** CPU time, which other programs do not change. */
const MAX_SECONDS = 10;
const NAMES = ["lstm", "strided", "late", "gru", "tokens", "tokens-window"];
const files = hasCommand ? makePrograms() : "";
after(() => rm(files, { recursive: true, force: true }));

/** Run work; a refusal must be an error of the package, in one line. @param {() => unknown} work */
async function attempt(work) {
  try {
    await work();
    return true;
  } catch (error) {
    if (!(error instanceof LstmEdgeError)) throw error;
    assert.match(error.message, /^[^\p{C}\p{Zl}\p{Zp}]{1,500}$/u);
    return false;
  }
}

/** Use a model in every way that reads it further. @param {Model} model */
async function useModel(model) {
  await attempt(() => model.selftest());
  if (model.inputs.some(({ width }) => width > 1e5)) return;
  const samples = (/** @type {number} */ steps) =>
    Object.fromEntries(model.inputs.map(({ name, width }) => [name, new Uint8Array(steps * width)]));
  for (const options of [{ resetEvery: /** @type {const} */ ("never") }, { resetEvery: 3 }, { window: 4 }]) {
    await attempt(async () => {
      const stream = model.stream(/** @type {any} */ (options));
      await attempt(() => model.frames(stream.step(samples(1))));
      await attempt(() => model.interpret(stream.process(samples(31))));
      if ("restore" in stream) await attempt(() => stream.restore(stream.state));
      await attempt(() => stream.step(samples(1)));
      stream.close();
    });
  }
  model.close();
}

describe("damaged files", { skip: skipWithout("lstm-edge", hasCommand) }, () => {
  /** @param {(random: ReturnType<typeof randomOf>, content: Uint8Array) => Promise<boolean>} read */
  async function readMany(read) {
    let refused = 0;
    for (let seed = FIRST_SEED; seed < FIRST_SEED + COUNT; seed += 1) {
      const random = randomOf(seed);
      const name = NAMES[seed % NAMES.length];
      const content = new Uint8Array(await readFile(`${files}${name}.lep`));
      const started = process.cpuUsage();
      try {
        if (!(await read(random, content))) refused += 1;
      } catch (error) {
        throw new Error(`seed ${seed}, ${name}.lep: ${error}`, { cause: error });
      }
      const { user, system } = process.cpuUsage(started);
      assert.ok(user + system < 1e6 * MAX_SECONDS, `seed ${seed} takes too long`);
    }
    return refused;
  }

  test("programs", async () => {
    const refused = await readMany((random, content) =>
      attempt(async () => useModel(await load(damagedFile(random, content, "program")))),
    );
    assert.ok(refused > 0.3 * COUNT, `${refused} refused`);
  });

  test("manifests", async () => {
    const refused = await readMany((random, content) =>
      attempt(async () => useModel(await load(damagedManifest(random, content)))),
    );
    assert.ok(refused > 0.2 * COUNT && refused < COUNT, `${refused} of ${COUNT} refused`);
  });

  test("states", async () => {
    const refused = await readMany(async (random, content) => {
      const model = await load(content);
      const samples = Object.fromEntries(
        model.inputs.map(({ name, width }) => [name, new Uint8Array(6 * width).fill(1)]),
      );
      const stream = model.stream({ resetEvery: "never" });
      stream.process(samples);
      const { state } = stream;
      const isRestored = await attempt(() => stream.restore(damagedFile(random, state, "state")));
      if (!isRestored) assert.deepEqual(stream.state, state);
      await attempt(() => stream.process(samples));
      model.close();
      return isRestored;
    });
    assert.ok(refused > 0.2 * COUNT, `${refused} refused`);
  });
});
