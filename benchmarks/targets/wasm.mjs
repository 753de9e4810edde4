/** Time steps of programs next to onnxruntime-web, alternately: in Node by wasm.py, in Chromium by the page that it opens. */

const WARM_UP = 3, ROUNDS = 7;

/** The microseconds of a step of each, medians over rounds. @param {{load: any, ort: any, name: string, url: string, steps: number}} job */
export async function measure({ load, ort, name, url, steps }) {
  ort.env.wasm.numThreads = 1;
  const bytes = async (/** @type {string} */ file) => {
    if (!url.startsWith("http")) return new Uint8Array(await (await import("node:fs/promises")).readFile(url + file));
    return new Uint8Array(await (await fetch(url + file)).arrayBuffer());
  };
  const session = await ort.InferenceSession.create(await bytes(`${name}.onnx`), { executionProviders: ["wasm"] }), feeds = /** @type {any} */ ({});
  for (const { name: input, shape } of session.inputMetadata) {
    const dims = shape.map((/** @type {any} */ axis) => (typeof axis === "number" ? axis : 1));
    feeds[input] = new ort.Tensor("float32", new Float32Array(dims.reduce((/** @type {number} */ a, /** @type {number} */ b) => a * b, 1)), dims);
  }
  const [float, small] = await Promise.all([`${name}.lep`, `${name}-int8.lep`].map(async (file) => (await load(await bytes(file))).stream()));
  const x = Float32Array.from(feeds.x.data, (_, index) => Math.sin(index));
  feeds.x = new ort.Tensor("float32", x, feeds.x.dims);
  /** @type {number[][]} */ const times = [[], [], []];
  for (let round = 0; round < WARM_UP + ROUNDS; round += 1) {
    const started = performance.now();
    for (let step = 0; step < steps; step += 1) {
      const out = await session.run(feeds);
      [feeds.h_0, feeds.c_0] = [out.h_n, out.c_n];
    }
    times[0]?.push(performance.now() - started);
    for (const [index, stream] of [float, small].entries()) {
      const began = performance.now();
      for (let step = 0; step < steps; step += 1) stream.step(x);
      times[index + 1]?.push(performance.now() - began);
    }
  }
  return times.map((durations) => ((durations.slice(WARM_UP).sort((a, b) => a - b)[ROUNDS >> 1] ?? 0) * 1000) / steps);
}

const STEPS = /** @type {Record<string, number>} */ ({ L: 300, XL: 60 });

/** Measure every size in a folder. @param {any} load @param {any} ort @param {string} url @param {string[]} names */
export async function measureAll(load, ort, url, names) {
  const rows = [];
  for (const name of names) rows.push([name, ...(await measure({ load, ort, name, url, steps: STEPS[name] ?? 2000 }))]);
  return rows;
}

if (typeof process === "object" && process.argv[1]?.endsWith("wasm.mjs")) {
  const [folder = "", ...names] = process.argv.slice(2);
  const paths = ["../../web/site/lstm-edge/index.js", "../../web/node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs"];
  const [{ load }, ort] = await Promise.all(paths.map((path) => import(path)));
  console.log(JSON.stringify({ node: await measureAll(load, ort, folder, names) }));
  const { browserPath, launch, serve } = await import("../../web/test/browser.js"), { fileURLToPath } = await import("node:url");
  if (browserPath) {
    const root = fileURLToPath(new URL("../../", import.meta.url)), server = await serve({ "": `${root}web/test/`, "web/": `${root}web/`, "bench/": `${root}benchmarks/targets/`, "files/": folder });
    const browser = await launch(), page = await browser.newPage();
    await page.goto(`${server.url}empty.html`);
    const rows = await page.evaluate(`(async () => {
      const [{ measureAll }, { load }, ort] = await Promise.all(["/bench/wasm.mjs", "/web/site/lstm-edge/index.js", "/web/node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs"].map((path) => import(path)));
      return measureAll(load, ort, location.origin + "/files/", ${JSON.stringify(names)});
    })()`);
    console.log(JSON.stringify({ chromium: rows }));
    await browser.close();
    await server.close();
  }
}
