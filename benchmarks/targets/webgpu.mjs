// Where the nodes of files run under WebGPU, and what one step and a hundred take there and on WebAssembly.
//
//   (cd web && npm ci) && node benchmarks/targets/webgpu.mjs FILE.onnx...
//
// Chromium is headless and its adapter SwiftShader, a GPU in software: the times say nothing of a real GPU, but for
// the number of kernels that a call starts.
import { basename, dirname, resolve } from "node:path";

import { launch, serve, WEB } from "../../web/test/browser.js";

const FLAGS = ["--enable-unsafe-webgpu", "--enable-features=Vulkan", "--use-webgpu-adapter=swiftshader", "--use-vulkan=swiftshader"];

/**
 * Open a file twice, once for its log, and time calls of 1 and of 100 steps. It runs in a page.
 *
 * @param {{url: string, provider: string}} job
 */
async function measure({ url, provider }) {
  const ort = await import(`/web/node_modules/onnxruntime-web/dist/ort.${provider}.bundle.min.mjs`);
  const bytes = new Uint8Array(await (await fetch(url)).arrayBuffer());
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "verbose";
  const logged = await ort.InferenceSession.create(bytes, { executionProviders: [provider], logSeverityLevel: 0 });
  await logged.release();
  ort.env.logLevel = "error";
  const session = await ort.InferenceSession.create(bytes, { executionProviders: [provider], logSeverityLevel: 3 });
  const medians = { 1: 0, 100: 0 };
  for (const { steps, calls } of [{ steps: /** @type {1} */ (1), calls: 200 }, { steps: /** @type {100} */ (100), calls: 20 }]) {
    const feeds = Object.fromEntries(session.inputMetadata.map((/** @type {any} */ { name, shape }) => {
      const dims = shape.map((/** @type {any} */ size) => typeof size === "number" ? size : size === "N" ? 1 : steps);
      return [name, new ort.Tensor("float32", new Float32Array(dims.reduce((/** @type {number} */ a, /** @type {number} */ b) => a * b, 1)).fill(0.1), dims)];
    }));
    const times = [];
    for (let call = 0; call < calls; call += 1) {
      const started = performance.now();
      await session.run(feeds);
      times.push(performance.now() - started);
    }
    medians[steps] = times.sort((a, b) => a - b)[calls >> 1] ?? NaN;
  }
  return medians;
}

for (const file of process.argv.slice(2).map((each) => resolve(each))) {
  const server = await serve({ "": `${WEB}test/`, "web/": WEB, "files/": `${dirname(file)}/` }, { isolated: true });
  const browser = await launch(FLAGS);
  try {
    for (const provider of ["webgpu", "wasm"]) {
      const page = await browser.newPage();
      const placed = new Set();
      page.on("console", (message) => {
        for (const [, where, count] of message.text().matchAll(/placed on \[(\w+)ExecutionProvider\]\. Number of nodes: (\d+)/g)) placed.add(`${where} ${count}`);
      });
      await page.goto(`${server.url}empty.html`);
      const medians = await page.evaluate(measure, { url: `/files/${basename(file)}`, provider });
      console.log(basename(file), provider, `1 step ${medians[1].toFixed(2)} ms, 100 steps ${medians[100].toFixed(1)} ms;`, "nodes:", [...placed].join(", "));
    }
    console.log("Chromium", browser.version());
  } finally {
    await browser.close();
    await server.close();
  }
}
