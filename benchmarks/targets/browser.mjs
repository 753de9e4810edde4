// Measures files in Node or in Chromium; benchmarks/targets/browser.py calls it and takes turns between the places.
//
//   node benchmarks/targets/browser.mjs PLACE FOLDER STEPS SIZE=FEATURES...
//
// PLACE is node, or one or two: threads in Chromium.
import { launch, serve, WEB } from "../../web/test/browser.js";

const [place = "", folder = "", steps = "", ...sizes] = process.argv.slice(2);
const threads = place === "two" ? 2 : 1;

/**
 * Load a file, take a first step, and time steps one by one. It runs in a page as well: it uses nothing from outside.
 *
 * @param {{index: string, ort: string, url: string, width: number, steps: number, threads: number}} job
 */
async function measure({ index, ort, url, width, steps, threads }) {
  let started = performance.now();
  const lap = () => {
    const took = performance.now() - started;
    started = performance.now();
    return took;
  };
  const [{ load }, runtime] = await Promise.all([import(index), import(ort)]);
  const model = await load(url, { ort: runtime, threads }), loaded = lap(), stream = model.stream();
  const sample = new Float32Array(width).fill(0.1);
  lap();
  await stream.step(sample);
  const first = lap();
  for (let warm = 0; warm < steps / 4; warm += 1) await stream.step(sample);
  const times = [];
  for (let step = 0; step < steps; step += 1) {
    lap();
    await stream.step(sample);
    times.push(lap());
  }
  await model.close();
  return { loaded, first, times };
}

/** @type {Record<string, unknown>} */
const found = { node: process.version };
const jobs = sizes.map((each) => each.split("=")).map(([size = "", width]) => ({ size, width: Number(width), steps: Number(steps), threads }));
if (place === "node") {
  for (const job of jobs) {
    found[job.size] = await measure({ ...job, index: "../../web/site/lstm-edge/index.js", ort: "../../web/node_modules/onnxruntime-node/dist/index.js", url: `${folder}/${job.size}.onnx` });
  }
} else {
  // isolated in both cases: a page's clock is coarser where it is not
  const server = await serve({ "": `${WEB}test/`, "web/": WEB, "files/": `${folder}/` }, { isolated: true });
  const browser = await launch();
  try {
    for (const job of jobs) {
      const context = await browser.newContext(), page = await context.newPage();
      await page.goto(`${server.url}empty.html`);
      found[job.size] = await page.evaluate(measure, {
        ...job, index: "/web/site/lstm-edge/index.js", ort: "/web/node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs",
        url: `/files/${job.size}.onnx`,
      });
      await context.close();
    }
    found.chromium = browser.version();
  } finally {
    await browser.close();
    await server.close();
  }
}
console.log(JSON.stringify(found));
