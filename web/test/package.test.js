/** The package as npm makes it: its size, and its types in somebody else's strict project. */

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, symlinkSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";

import { DATA, WEB } from "./browser.js";

const LIMIT = 20_500;
const MODULES = join(WEB, "node_modules");

describe("the package", () => {
  const folder = mkdtempSync(join(tmpdir(), "lstm-edge-package-"));
  /** @type {{filename: string, size: number, files: {path: string}[]}} */ let packed;
  before(() => {
    const [made] = JSON.parse(execFileSync("npm", ["pack", "--json", "--pack-destination", folder], { cwd: WEB, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }));
    packed = made;
    mkdirSync(join(folder, "node_modules", "lstm-edge"), { recursive: true });
    execFileSync("tar", ["-xzf", join(folder, packed.filename), "-C", join(folder, "node_modules", "lstm-edge"), "--strip-components=1"]);
    for (const name of ["onnxruntime-node", "onnxruntime-web", "onnxruntime-common", "@types"]) symlinkSync(join(MODULES, name), join(folder, "node_modules", name));
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
    const tsc = [join(MODULES, "typescript/bin/tsc"), "--strict", "--exactOptionalPropertyTypes", "--noUncheckedIndexedAccess", "--noEmit",
      "--module", "nodenext", "--target", "es2022", "--lib", "es2022,dom", "--types", "node", name];
    return spawnSync(process.execPath, tsc, { cwd: folder, encoding: "utf8" });
  };

  test("its types hold in a strict TypeScript project", () => {
    const { status, stdout } = strict("use.ts", `
      import * as node from "onnxruntime-node";
      import * as web from "onnxruntime-web";
      import { load, LstmEdgeError, type Model, type SelfTest, type State, type Stream } from "lstm-edge";
      const model: Model = await load("har.onnx", { ort: web, threads: 2 });
      await load(new URL("har.onnx", import.meta.url), { ort: node, device: "cpu" });
      const stream: Stream = model.stream();
      const logits = await stream.step(Float32Array.of(1, 2, 3));
      await stream.process({ x: [1, 2, 3] });
      const state: State = await stream.state();
      await stream.restore(state);
      await stream.reset();
      const { ok, worst }: SelfTest = await model.selftest();
      const { outputs } = await model.run(new Float32Array(6), { batch: 2, lengths: [1, 1], state });
      const labels: readonly string[] = model.labels, units: readonly string[] = model.units, rate: number | null = model.samplingRate;
      try { await model.close(); } catch (error) { if (error instanceof LstmEdgeError && error.name === "InputError") console.log(error.message); }
      console.log(logits, ok, worst.ratio, outputs, labels, units, rate, model.manifest.task?.labels);
    `);
    assert.equal(stdout, "");
    assert.equal(status, 0);
  });

  test("its types refuse what the runtime would refuse", () => {
    for (const wrong of ['await load(3)', 'await load("x", { device: "tpu" })', '(await load("x")).stream().step("abc")', '(await load("x")).labels = []']) {
      const { stdout } = strict("wrong.ts", `import { load } from "lstm-edge";\n${wrong};\nexport {};`);
      assert.match(stdout, /^wrong\.ts\(2,\d+\): error/, wrong);
    }
  });

  test("it runs from where npm puts it, with the onnxruntime that is installed", () => {
    writeFileSync(join(folder, "run.js"), `import { load } from "lstm-edge";
      const model = await load(${JSON.stringify(join(DATA, "lstm.onnx"))});
      console.log((await model.selftest()).ok, process.env.ORT_DISABLE_TELEMETRY);`);
    const { ORT_DISABLE_TELEMETRY: _, ...env } = process.env;
    assert.equal(execFileSync(process.execPath, ["run.js"], { cwd: folder, encoding: "utf8", env }), "true 1\n");
  });

  test("without an onnxruntime it says what to install", async () => {
    await rm(join(folder, "node_modules", "onnxruntime-node"));
    const { stderr } = spawnSync(process.execPath, ["run.js"], { cwd: folder, encoding: "utf8" });
    assert.match(stderr, /MissingDependencyError\]?: onnxruntime-node is not here: npm install onnxruntime-node, or give load\(\) its module as 'ort'/);
  });
});
