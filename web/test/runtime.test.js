/** The package in Node and in Chromium: every case in both. */

import assert from "node:assert/strict";
import { readFile, rm } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import { pathToFileURL } from "node:url";

import { compileLibrary, load } from "../site/lstm-edge/index.js";
import { browserPath, launch, serve, WEB } from "./browser.js";
import { cases } from "./cases.js";
import { hasCommand, makePrograms, skipWithout } from "./made.js";

/** @import { Browser, Page } from "playwright-core" */

const files = hasCommand ? makePrograms() : "";
after(() => rm(files, { recursive: true, force: true }));

const skip = skipWithout("lstm-edge", hasCommand);

describe("in Node", { skip }, () => {
  for (const [name, run] of Object.entries(cases)) {
    test(name, () =>
      run({ load, bytes: async (file) => new Uint8Array(await readFile(files + file)), url: files }),
    );
  }

  test("a file: URL and a Blob are read as well", async () => {
    assert.deepEqual((await load(pathToFileURL(`${files}lstm.lep`))).labels, ["rest", "walk", "run", "fall"]);
    assert.equal((await load(new Blob([await readFile(`${files}lstm.lep`)]))).inputs.length, 1);
  });

  test("the AudioWorklet example gives every frame, whatever a block completes", async () => {
    /** @type {any} */ let Processor;
    /** @type {string[]} */ const messages = [];
    const port = { postMessage: (/** @type {string} */ message) => messages.push(message) };
    Object.assign(globalThis, {
      AudioWorkletProcessor: class {
        port = port;
      },
      registerProcessor: (/** @type {string} */ _, /** @type {any} */ registered) => (Processor = registered),
    });
    await import("../examples/audio-worklet/processor.js");
    const library = await compileLibrary();
    for (const [name, late] of /** @type {const} */ ([
      ["sound", 0],
      ["sound-in-units", 99],
    ])) {
      const program = await readFile(`${files}${name}.lep`);
      const processor = new Processor({ processorOptions: { library, program } });
      while (!messages.length) await new Promise((resolve) => setTimeout(resolve, 5));
      assert.equal(messages.pop(), "ready");
      for (let start = 0; start < 40 * 128; start += 128) {
        const samples = Float32Array.from({ length: 128 }, (_, index) => start + index + 1);
        const block = new Float32Array(128);
        processor.process([[samples]], [[block]]);
        block.forEach((value, index) => assert.equal(value, 2 * Math.max(0, start + index + 1 - late)));
      }
    }
    new Processor({ processorOptions: { library, program: await readFile(`${files}wide.lep`) } });
    while (!messages.length) await new Promise((resolve) => setTimeout(resolve, 5));
    assert.match(messages[0] ?? "", /one number for each sample/);
  });
});

describe("in Chromium", { skip: skip || skipWithout("chromium", browserPath) }, () => {
  /** @type {Browser} */ let browser;
  /** @type {Page} */ let page;
  /** @type {Awaited<ReturnType<typeof serve>>} */ let server;
  before(async () => {
    server = await serve({ "": `${WEB}test/`, "web/": WEB, "files/": files });
    browser = await launch();
    page = await browser.newPage();
    await page.goto(`${server.url}empty.html`);
  });
  after(async () => {
    await browser.close();
    await server.close();
  });

  for (const name of Object.keys(cases)) {
    test(name, async () => {
      await page.evaluate(
        `(async () => {
          const [{ load }, { cases }] = await Promise.all(["/web/site/lstm-edge/index.js", "/web/test/cases.js"].map((path) => import(path)));
          const url = location.origin + "/files/", bytes = async (name) => new Uint8Array(await (await fetch(url + name)).arrayBuffer());
          await cases[${JSON.stringify(name)}]({ load, bytes, url });
        })()`,
      );
    });
  }

  test("the AudioWorklet example runs a network in the audio thread", async () => {
    const sound = await page.evaluate(`(async () => {
      const { networkNode } = await import("/web/examples/audio-worklet/node.js");
      const context = new OfflineAudioContext(1, 1280, 8000);
      const node = await networkNode(context, "/files/sound.lep");
      const buffer = context.createBuffer(1, 1280, 8000);
      buffer.getChannelData(0).fill(0.25);
      const source = new AudioBufferSourceNode(context, { buffer });
      source.connect(node).connect(context.destination);
      source.start();
      return Array.from((await context.startRendering()).getChannelData(0));
    })()`);
    assert.ok(
      /** @type {number[]} */ (sound).slice(-128).every((value) => value === 0.5),
      String(sound).slice(0, 200),
    );
  });
});
