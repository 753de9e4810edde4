/** The package as npm makes it: its size, and its types in somebody else's strict project. */

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, symlinkSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";

import { WEB } from "./browser.js";
import { hasCommand, makePrograms, skipWithout } from "./made.js";

const LIMIT = 100_000;
const MODULES = join(WEB, "node_modules");

describe("the package", () => {
  const folder = mkdtempSync(join(tmpdir(), "lstm-edge-package-"));
  /** @type {{filename: string, size: number, files: {path: string}[]}} */ let packed;
  before(() => {
    const [made] = JSON.parse(
      execFileSync("npm", ["pack", "--json", "--pack-destination", folder], {
        cwd: WEB,
        encoding: "utf8",
        stdio: ["ignore", "pipe", "ignore"],
      }),
    );
    packed = made;
    mkdirSync(join(folder, "node_modules", "lstm-edge"), { recursive: true });
    execFileSync("tar", [
      "-xzf",
      join(folder, packed.filename),
      "-C",
      join(folder, "node_modules", "lstm-edge"),
      "--strip-components=1",
    ]);
    symlinkSync(join(MODULES, "@types"), join(folder, "node_modules", "@types"));
    writeFileSync(join(folder, "package.json"), '{"type": "module"}');
  });
  after(() => rm(folder, { recursive: true }));

  test(`npm's package is below ${LIMIT} bytes, and holds the runtime and its types only`, () => {
    assert.ok(packed.size < LIMIT, `${packed.size} bytes`);
    const folders = new Set(packed.files.map(({ path }) => path.split("/").slice(0, -1).join("/")));
    assert.deepEqual([...folders].sort(), ["", "dist"]);
  });

  const strict = (/** @type {string} */ name, /** @type {string} */ source) => {
    writeFileSync(join(folder, name), source);
    const tsc = [
      join(MODULES, "typescript/bin/tsc"),
      "--strict",
      "--exactOptionalPropertyTypes",
      "--noUncheckedIndexedAccess",
      "--noEmit",
      "--module",
      "nodenext",
      "--target",
      "es2022",
      "--lib",
      "es2022,dom",
      "--types",
      "node",
      name,
    ];
    return spawnSync(process.execPath, tsc, { cwd: folder, encoding: "utf8" });
  };

  test("its types hold in a strict TypeScript project", () => {
    const { status, stdout } = strict(
      "use.ts",
      `
      import { load, LstmEdgeError, type Model, type Port, type Result, type State, type Stream, type SlidingStream } from "lstm-edge";
      const model: Model = await load(new URL("har.lep", import.meta.url));
      const stream: Stream = model.stream(), logits: Result = stream.step(Float32Array.of(1, 2, 3));
      stream.process({ x: [1, 2, 3] });
      const state: State = stream.state;
      stream.restore(state);
      stream.reset();
      const { ok, worst } = model.selftest();
      const labels: readonly string[] = model.labels, rate: number | null = model.samplingRate, ports: readonly Port[] = model.inputs;
      try { stream.close(); } catch (error) { if (error instanceof LstmEdgeError && error.name === "InputError") console.log(error.message); }
      console.log(logits, ok, worst.toFixed(), labels, rate, ports, model.manifest.task?.labels, model.interpret([1]).label);
      const sliding: SlidingStream = model.stream({ window: 3 }), never: Stream = model.stream({ resetEvery: "never" });
      sliding.step([1]);
      never.close();
      model.close();
    `,
    );
    assert.equal(stdout, "");
    assert.equal(status, 0);
  });

  test("its types refuse what the runtime would refuse", () => {
    for (const wrong of [
      "await load(3)",
      '(await load("x")).stream().step(3)',
      '(await load("x")).stream().step("abc")',
      '(await load("x")).labels = []',
    ]) {
      const { stdout } = strict("wrong.ts", `import { load } from "lstm-edge";\n${wrong};\nexport {};`);
      assert.match(stdout, /^wrong\.ts\(2,\d+\): error/, wrong);
    }
  });

  test("it runs from where npm puts it", { skip: skipWithout("lstm-edge", hasCommand) }, async () => {
    const programs = makePrograms();
    writeFileSync(
      join(folder, "run.js"),
      `import { load } from "lstm-edge";
      const model = await load(${JSON.stringify(`${programs}lstm.lep`)});
      console.log(model.selftest().ok);`,
    );
    assert.equal(execFileSync(process.execPath, ["run.js"], { cwd: folder, encoding: "utf8" }), "true\n");
    await rm(programs, { recursive: true });
  });
});
