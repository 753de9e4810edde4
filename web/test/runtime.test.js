/** The package in Node and in Chromium: every case in every place. */

import assert from "node:assert/strict";
import { readFile, rm } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import { pathToFileURL } from "node:url";

import { load } from "../site/lstm-edge/index.js";
import { browserPath, launch, serve, WEB } from "./browser.js";
import { cases } from "./cases.js";
import { hasCommand, makeFiles, skipWithout } from "./made.js";

/** @import { Browser, Page } from "playwright-core" */

const files = hasCommand ? makeFiles() : "";
after(() => rm(files, { recursive: true, force: true }));

const skip = skipWithout("lstm-edge", hasCommand);

describe("in Node", { skip }, () => {
  for (const [name, run] of Object.entries(cases)) {
    test(name, () => run({ load, options: {}, bytes: async (file) => new Uint8Array(await readFile(files + file)), url: files }));
  }

  test("a file: URL and a Blob are read as well", async () => {
    assert.deepEqual((await load(pathToFileURL(`${files}lstm.onnx`))).labels, ["rest", "walk", "run", "fall"]);
    assert.equal((await load(new Blob([await readFile(`${files}lstm.onnx`)]))).bytes, 7148);
  });
});

const PLACES = [
  { name: "wasm, one thread", isolated: false, threads: 1, runtime: "ort.wasm.bundle.min.mjs", device: "cpu", flags: [] },
  { name: "wasm, two threads", isolated: true, threads: 2, runtime: "ort.wasm.bundle.min.mjs", device: "cpu", flags: [] },
  {
    name: "WebGPU", isolated: false, threads: 1, runtime: "ort.webgpu.bundle.min.mjs", device: "webgpu",
    flags: ["--enable-unsafe-webgpu", "--enable-features=Vulkan", "--use-webgpu-adapter=swiftshader", "--use-vulkan=swiftshader"],
  },
];

for (const { name: place, isolated, threads, runtime, device, flags } of PLACES) {
  describe(`in Chromium: ${place}`, { skip: skip || skipWithout("chromium", browserPath) }, () => {
    /** @type {Browser} */ let browser;
    /** @type {Page} */ let page;
    /** @type {Awaited<ReturnType<typeof serve>>} */ let server;
    before(async () => {
      server = await serve({ "": `${WEB}test/`, "web/": WEB, "files/": files }, { isolated });
      browser = await launch(flags);
      page = await browser.newPage();
      await page.goto(`${server.url}empty.html`);
    });
    after(async () => {
      await browser.close();
      await server.close();
    });

    for (const name of Object.keys(cases)) {
      test(name, async (context) => {
        const gpu = device !== "webgpu" || (await page.evaluate("navigator.gpu?.requestAdapter().then(Boolean)"));
        const without = skipWithout("webgpu", gpu);
        if (without) return context.skip(without);
        await page.evaluate(
          `(async () => {
            const [{ load }, { cases }, ort] = await Promise.all(
              ["/web/site/lstm-edge/index.js", "/web/test/cases.js", "/web/node_modules/onnxruntime-web/dist/${runtime}"].map((path) => import(path)));
            const url = location.origin + "/files/";
            const bytes = async (name) => new Uint8Array(await (await fetch(url + name)).arrayBuffer());
            await cases[${JSON.stringify(name)}]({ load, options: { ort, device: "${device}", threads: ${threads} }, bytes, url });
          })()`,
        );
      });
    }

    test("threads are used where they were asked for", async () => {
      assert.equal(await page.evaluate("crossOriginIsolated"), isolated);
      assert.equal(page.workers().length, threads - 1);
    });
  });
}
