/** The page that `lstm-edge convert --to web` makes, as people use it. */

import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";

import { browserPath, DATA, launch, serve, WEB } from "./browser.js";
import { hasCommand, lstmEdge, makePrograms, skipWithout } from "./made.js";

/** @import { Browser, BrowserContext, Page } from "playwright-core" */

const AXE = readFileSync(join(WEB, "node_modules/axe-core/axe.min.js"), "utf8");
const skip = skipWithout("lstm-edge", hasCommand) || skipWithout("chromium", browserPath);
const SHOTS = process.env.LSTM_EDGE_SCREENSHOTS;

describe("the page", { skip }, () => {
  const folder = mkdtempSync(join(tmpdir(), "lstm-edge-page-")),
    site = join(folder, "site"),
    programs = makePrograms();
  /** @type {Browser} */ let browser;
  /** @type {BrowserContext} */ let context;
  /** @type {Page} */ let page;
  /** @type {Awaited<ReturnType<typeof serve>>} */ let server;
  /** @type {string[]} */ let complaints = [];

  before(async () => {
    lstmEdge("convert", join(DATA, "motions-int8.onnx"), "--to", "web", "-o", site);
    cpSync(programs, site, { recursive: true });
    const wave = Buffer.from(
      Float32Array.from({ length: 36 }, (_, index) => Math.sin(index)).buffer,
    ).toString("base64");
    writeFileSync(
      join(site, "site.js"),
      readFileSync(join(site, "site.js"), "utf8").replace(
        '"recordings": [',
        `"recordings": [{"label": "a wave", "features": ["ax", "ay", "az"], "x": "${wave}"}, `,
      ),
    );
    server = await serve({ "": `${site}/` });
    browser = await launch(["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]);
  });
  after(async () => {
    await browser.close();
    await server.close();
    for (const made of [folder, programs]) await rm(made, { recursive: true });
  });

  async function visit(path = "") {
    context = await browser.newContext();
    page = await context.newPage();
    complaints = [];
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) complaints.push(message.text());
    });
    page.on("pageerror", (error) => complaints.push(error.message));
    await page.goto(server.url + path);
    await settled();
  }
  const settled = () =>
    page.waitForFunction(() => !/Reading/.test(document.getElementById("verdict")?.textContent ?? "Reading"));
  const text = (/** @type {string} */ id) => page.locator(`#${id}`).innerText();
  const result = (/** @type {string} */ id, /** @type {RegExp} */ words) =>
    page.waitForFunction(
      ([name, pattern]) =>
        new RegExp(pattern ?? "").test(document.getElementById(name ?? "")?.textContent ?? ""),
      [id, words.source],
    );
  const added = (/** @type {string} */ name) => result("recording", new RegExp(name.replace(".", "\\.")));
  const firstLine = () => page.locator("#replay-plot polyline >> nth=0").getAttribute("points");
  /** Set the size of the page, and wait until its plot is drawn for it. @param {number} width */
  const resize = async (width) => {
    await page.setViewportSize({ width, height: 900 });
    await page.waitForFunction((wanted) => {
      const plot = document.querySelector("#replay-plot");
      const drawn = `0 0 ${plot?.clientWidth} ${plot?.getAttribute("height")}`;
      return innerWidth === wanted && plot?.getAttribute("viewBox") === drawn;
    }, width);
  };
  const play = async () => {
    await page.selectOption("#speed", "20");
    await page.click("#play");
    await result("replay-result", /A step takes/);
  };
  afterEach(() => context?.close());

  test("it verifies the file when it is loaded, and says what it is", async () => {
    await visit();
    assert.equal(await text("title"), "motions-int8.onnx");
    assert.match(
      await text("verdict"),
      /^Verified on this device in [\d.]+ ms: the largest difference is 0\.\d+ of its limit\.$/,
    );
    const facts = await text("facts");
    for (const fact of [
      /int8/,
      /\b[0-9a-f]{64}\b/,
      /Badminton, Running, Standing, Walking/,
      /acc_x, acc_y/,
      /10 Hz/,
      /h_0 \(32\)/,
    ]) {
      assert.match(facts, fact);
    }
    assert.deepEqual(complaints, []);
  });

  test("it replays a recording: the signal, and under it the decision", async () => {
    await visit();
    await page.selectOption("#recording", { label: "Walking" });
    await play();
    assert.match(
      await text("replay-result"),
      /Recognized as Walking after \d+\.\d s\. A step takes [\d.]+ ms on average; a sample comes every 5\.0 ms/,
    );
    assert.equal(await page.locator("#replay-plot polyline").count(), 6);
    assert.equal((await firstLine())?.split(" ").length, 100);
    const decided = await page.locator("#replay-plot .band text").allTextContents();
    assert.equal(decided.at(-1), "Walking");
    const [signal, band] = await Promise.all(
      ["polyline >> nth=5", ".band"].map((part) => page.locator(`#replay-plot ${part}`).boundingBox()),
    );
    assert.ok(signal && band && band.y >= signal.y + signal.height - 1, "the decision is under the signal");
    assert.match(
      (await page.locator("#replay-plot").getAttribute("aria-label")) ?? "",
      /Recognized as Walking/,
    );
  });

  test("every recording, replayed in the page, ends as the command line says", async () => {
    await visit();
    const names = await page.locator("#recording option").allInnerTexts();
    const golden = "Golden case of the file";
    assert.deepEqual(names.sort(), ["Badminton", golden, "Running", "Standing", "Walking"]);
    for (const name of names.filter((label) => label !== golden)) {
      await page.selectOption("#recording", { label: name });
      await play();
      assert.match(await text("replay-result"), new RegExp(`Recognized as ${name}`));
    }
  });

  test("a stream with a delay or a unit is replayed, and each result is drawn under the samples that it is of", async () => {
    for (const [name, drawn, words] of /** @type {[string, number, RegExp][]} */ ([
      ["late", 10, /a result per sample, 2 samples \(40 ms\) late/],
      ["strided", 8, /results every 4 samples, 4 samples \(80 ms\) late/],
    ])) {
      await visit(`?model=${name}.lep`);
      assert.match(await text("verdict"), /Verified on this device/);
      assert.match(await text("facts"), words);
      await page.selectOption("#recording", { label: "a wave" });
      await play();
      const share = await page.locator("#replay-plot").evaluate((plot) => {
        const ends = [...plot.querySelectorAll(".band rect")].map(
          (rect) => Number(rect.getAttribute("x")) + Number(rect.getAttribute("width")),
        );
        return Math.max(...ends) / plot.clientWidth;
      });
      assert.ok(Math.abs(share - drawn / 12) < 1e-3, `results end at ${share} of the plot`);
      assert.match(await text("replay-result"), /Recognized at the end as (rest|walk|run)\. A step takes/);
    }
    assert.deepEqual(complaints, []);
  });

  test("it works by keyboard alone, and every control has a name and a visible focus", async () => {
    await visit();
    const names = [];
    for (let presses = 0; presses < 20; presses += 1) {
      await page.keyboard.press("Tab");
      const focused = await page.evaluate(() => {
        const at = /** @type {HTMLInputElement} */ (document.activeElement);
        const shown = at.type === "file" ? at.nextElementSibling : at;
        return at === document.body
          ? null
          : { id: at.id, outline: shown && getComputedStyle(shown).outlineStyle };
      });
      if (!focused) break;
      assert.equal(focused.outline, "solid", focused.id);
      names.push(focused.id);
      if (focused.id === "play") {
        await page.keyboard.press("Enter");
        await result("replay-result", /A step takes/);
      }
    }
    assert.deepEqual(names, [
      "recording",
      "speed",
      "play",
      "table",
      "",
      "",
      "",
      "",
      "",
      "",
      "step",
      "restart",
      "acceleration",
      "rotation",
      "start",
      "mode",
      "pick",
    ]);
  });

  test("nothing overflows and axe finds nothing, from 320 px, in light and dark", async () => {
    await visit();
    await play();
    await page.evaluate(AXE);
    for (const colorScheme of /** @type {const} */ (["light", "dark"])) {
      for (const width of [320, 420, 1100]) {
        await resize(width);
        await page.emulateMedia({ colorScheme });
        assert.ok(
          (await page.evaluate(() => document.documentElement.scrollWidth)) <= width,
          `no sideways scrolling at ${width}`,
        );
        const report = /** @type {any} */ (
          await page.evaluate(
            "axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] })",
          )
        );
        assert.deepEqual(
          report.violations.map(
            (/** @type {any} */ violation) =>
              `${violation.id}: ${violation.nodes.map((/** @type {any} */ node) => node.html)}`,
          ),
          [],
        );
        assert.ok(
          report.passes.some((/** @type {any} */ rule) => rule.id === "color-contrast"),
          "contrast was measured",
        );
        if (SHOTS)
          await page.screenshot({
            path: join(SHOTS, `web-page-${width}-${colorScheme}.png`),
            fullPage: true,
          });
      }
    }
  });

  test("it works offline after the first visit", async () => {
    await visit();
    await result("offline", /works offline/);
    await context.setOffline(true);
    await page.goto(`${server.url}?again`);
    await settled();
    assert.match(await text("verdict"), /Verified on this device/);
    await play();
    await assert.rejects(page.evaluate("fetch('nowhere.json')"));
  });

  test("a new version of the site is taken up, and an old one is not kept", async () => {
    await visit();
    await result("offline", /works offline/);
    const file = join(site, "site.js"),
      before = readFileSync(file, "utf8");
    try {
      writeFileSync(file, before.replace(/"version": "\w+"/, '"version": "later"'));
      await page.evaluate("navigator.serviceWorker.ready.then((ready) => ready.update())");
      await page.close();
      page = await context.newPage();
      await page.goto(server.url);
      await page.waitForFunction(async () => (await caches.keys()).join().endsWith(" later"));
    } finally {
      writeFileSync(file, before);
    }
  });

  test("nothing leaves the device: no request but for the site's own files, and the policy refuses others", async () => {
    context = await browser.newContext();
    page = await context.newPage();
    /** @type {string[]} */
    const asked = [];
    context.on("request", (request) => asked.push(`${request.method()} ${new URL(request.url()).origin}`));
    await page.goto(server.url);
    await settled();
    await play();
    assert.deepEqual(
      [...new Set(asked)].filter((request) => !request.endsWith("null")),
      [`GET ${new URL(server.url).origin}`],
    );
    const other = await serve({ "": `${site}/` });
    try {
      assert.equal((await fetch(other.url)).status, 200);
      await assert.rejects(
        page.evaluate((url) => fetch(url, { mode: "no-cors" }), other.url),
        /Failed to fetch/,
      );
    } finally {
      await other.close();
    }
  });

  test("a file is picked or linked", async () => {
    await visit("?model=late.lep");
    assert.equal(await text("title"), "late.lep");
    await page.setInputFiles("#pick", join(site, "motions-int8.lep"));
    await result("title", /motions-int8\.lep/);
    await result("verdict", /Verified on this device/);
    assert.deepEqual(complaints, []);
  });

  test("what can't be opened is one sentence", async () => {
    await visit("?model=index.html");
    assert.match(await text("verdict"), /not a program of lstm-edge.*convert the file again/);
    await page.goto(`${server.url}?model=nowhere.lep`);
    await settled();
    assert.match(await text("verdict"), /nowhere\.lep can't be read: 404/);
    const shown = await page.locator("main section:visible h2").allInnerTexts();
    assert.deepEqual(shown, ["Properties of the file"], "nothing without a file can be played");
    for (const link of ["https://example.org/har.lep", "data:,x", "http://"]) {
      await page.goto(`${server.url}?model=${encodeURIComponent(link)}`);
      await settled();
      assert.match(await text("verdict"), /from its own host/, link);
    }
    await page.goto(`${server.url}?model=wrong.lep`);
    await settled();
    assert.match(
      await text("verdict"),
      /Verification failed on this device: the largest difference is 2\.0 of its limit/,
    );
  });

  test("values with units, and files with several inputs", async () => {
    await visit("?model=unbatched.lep");
    assert.match(await text("verdict"), /no golden case/);
    assert.match(await text("facts"), /Units\s+m, m, m/);
    await page.goto(`${server.url}?model=gru.lep`);
    await settled();
    assert.match(await text("replay-words"), /no recording for this file. Add one, or enter numbers below/);
    assert.ok(await page.locator("#live").isHidden(), "no motion sensor has what this file needs");
    assert.ok(await page.locator("#replay-figure").isHidden());
    assert.deepEqual(complaints, []);
  });

  const drop = (/** @type {string} */ name, /** @type {Buffer | string} */ content) =>
    page.setInputFiles("#table", { name, mimeType: "text/csv", buffer: Buffer.from(content) });

  test("the golden case of any file is there before Play, and is played", async () => {
    for (const name of ["late", "strided", "tokens"]) {
      await visit(`?model=${name}.lep`);
      await page.selectOption("#recording", { label: "Golden case of the file" });
      assert.ok(((await firstLine()) ?? "").split(" ").length > 4, "the signal is drawn before Play");
      await play();
      assert.match(await text("replay-result"), /A step takes/);
    }
    assert.deepEqual(complaints, []);
  });

  test("a table is read by the names of its columns, and a wrong one is one sentence", async () => {
    await visit("?model=lstm.lep");
    await page.evaluate(() => {
      window.requestAnimationFrame = (draw) => window.setTimeout(() => draw(performance.now()), 500);
    });
    await drop("mine.csv", "az,time,ax,ay\n3,0,1,2\n6,1,4,5\n9,2,7,8\n");
    await added("mine.csv");
    await play();
    assert.match(await text("replay-result"), /Recognized at the end as (rest|walk|run|fall)/);
    const byName = await firstLine();
    assert.equal(byName?.split(" ").length, 3, "the signal is drawn when the result is said");
    await drop("bare.csv", "1;2;3\n4;5;6\n7;8;9\n");
    await added("bare.csv");
    assert.equal(await firstLine(), byName);
    for (const [content, words] of /** @type {[string, RegExp][]} */ ([
      ["ax,ay,gz\n1,2,3\n", /bad\.csv: The header has no az; it has ax, ay, gz/],
      ["1,2\n", /Line 1 has 2 columns, expected ax, ay, az/],
      ["ax,ay,az\n1,2,x\n", /Line 2: az is "x", expected a number/],
      ["ax,ay,az\n1,2,0x10\n", /Line 2: az is "0x10", expected a number/],
      ["", /The file has no rows of numbers/],
      [Buffer.from("RIFF0000WAVEdata").toString(), /The WAV file is damaged/],
    ])) {
      await drop("bad.csv", content);
      await result("replay-result", words);
    }
    await drop("<img src=x onerror=alert(1)>.csv", "ax,ay,<b>az</b>\n");
    await result("replay-result", /<img src=x onerror=alert\(1\)>\.csv: The header has no az/);
    assert.equal(await page.locator("main img, main b").count(), 0);
    assert.deepEqual(complaints, []);
  });

  /** A WAV file of 16 bits and one channel. @param {number} rate @param {number[]} samples */
  function wav(rate, samples) {
    const bytes = Buffer.alloc(44 + 2 * samples.length);
    bytes.write("RIFF", 0);
    bytes.write("WAVEfmt ", 8);
    bytes.writeUInt32LE(16, 16);
    bytes.writeUInt16LE(1, 20);
    bytes.writeUInt16LE(1, 22);
    bytes.writeUInt32LE(rate, 24);
    bytes.writeUInt16LE(16, 34);
    bytes.write("data", 36);
    bytes.writeUInt32LE(2 * samples.length, 40);
    samples.forEach((sample, index) => bytes.writeInt16LE(sample, 44 + 2 * index));
    return bytes;
  }

  test("sound is read from -1 to 1 at the file's rate", async () => {
    await visit("?model=sound.lep");
    await drop("loud.wav", wav(8000, [16384, -32768, 0, 8192]));
    await added("loud.wav");
    await play();
    assert.match((await page.locator("#replay-plot").textContent()) ?? "", /sample -1 to 0\.5/);
    assert.match(await text("replay-result"), /The last output is -?\d/);
    await drop("fast.wav", wav(44100, [1, 2]));
    await result(
      "replay-result",
      /fast\.wav: The sound has 44100 samples per second, expected 8000; resample it first/,
    );
    await visit("?model=lstm.lep");
    await drop("mono.wav", wav(8000, [1, 2]));
    await result("replay-result", /The sound has 1 channels, expected ax, ay, az/);
  });

  test("sound has the file's full scale, and a slow signal has no microphone", async () => {
    await visit("?model=sound-int16.lep");
    assert.match(await text("microphone-words"), /Samples from -32768 to 32768\. 8000 samples per second/);
    await drop("loud.wav", wav(8000, [16384, -32768, 0, 8192]));
    await added("loud.wav");
    assert.match((await page.locator("#replay-plot").textContent()) ?? "", /sample -33000 to 16000/);
    await context.grantPermissions(["microphone"]);
    await page.click("#listen");
    await result("microphone-result", /Now: -?\d{3,}/); // a beep of Chromium's fake device, in thousands
    await page.click("#listen");
    await visit("?model=slow.lep");
    assert.ok(await page.locator("#microphone").isHidden());
    assert.deepEqual(complaints, []);
  });

  test("every output is drawn and said, the main one first", async () => {
    await visit("?model=strided.lep");
    await page.selectOption("#recording", { label: "a wave" });
    await play();
    const texts = await page.locator("#replay-plot > text").allTextContents();
    assert.match(texts.join("; "), /^a .*; last -?[\d.e-]+ to -?[\d.e-]+$/);
    assert.match(await text("replay-legend"), /last 0\s+last 1/);
    const second = await page.locator("#replay-plot polyline >> nth=-1").getAttribute("points");
    assert.equal(second?.split(" ").length, 8, "two results of four samples each, before the delay");
    await visit("?model=gru.lep");
    await page.click("#step");
    assert.match(await text("hand-result"), /^Output: (-?[\d.e-]+, ){7}-?[\d.e-]+; output (-?[\d.e-]+, ){7}/);
    assert.deepEqual(complaints, []);
  });

  test("the microphone is heard until it is stopped", async () => {
    await visit("?model=sound.lep");
    await context.grantPermissions(["microphone"]);
    await page.click("#listen");
    await result("microphone-result", /Now: -?\d/);
    await page.waitForFunction(
      () =>
        (document.querySelector("#microphone-plot polyline")?.getAttribute("points")?.split(" ").length ??
          0) > 20,
    );
    await page.click("#listen");
    await result(
      "microphone-result",
      /Stopped\. A step takes .* a sample comes every 0\.1[23]\d* ms|Stopped\. A step takes .*/,
    );
    await visit("?model=lstm.lep");
    assert.ok(await page.locator("#microphone").isHidden());
    assert.deepEqual(complaints, []);
  });

  test("numbers by hand give what the package gives, for several inputs, too", async () => {
    await visit("?model=gru.lep");
    assert.deepEqual(await page.locator("#fields label").allInnerTexts(), ["x_0", "x_1", "x_2", "gain"]);
    for (const [index, value] of ["1", "2", "3", "0.5"].entries()) {
      await page.locator("#fields input").nth(index).fill(value);
    }
    await page.click("#step");
    const first = await text("hand-result");
    assert.match(first, /Output: -?[\d.e-]+, /);
    await page.click("#step");
    assert.notEqual(await text("hand-result"), first, "the state is carried on");
    await page.click("#restart");
    await page.click("#step");
    assert.equal(await text("hand-result"), first);
    await page.locator("#fields input").nth(0).fill("");
    await page.click("#step");
    assert.match(await text("hand-result"), /x_0 is empty; enter a number/);
    await visit("?model=tokens.lep");
    await page.locator("#fields input").nth(0).fill("1.7");
    await page.click("#step");
    assert.match(await text("hand-result"), /is 1\.7 at \[0\], expected a whole number/);
    assert.deepEqual(complaints, []);
  });

  test("the state is reset as in training, never, or at every step of a window", async () => {
    await visit("?model=lstm-window.lep");
    assert.deepEqual([await page.inputValue("#mode"), await page.inputValue("#interval")], ["every", "5"]);
    const outputs = [];
    for (const mode of ["every", "never", "window"]) {
      await page.selectOption("#mode", mode);
      await page.click("#restart");
      const shown = [];
      for (let step = 0; step < 6; step += 1) {
        await page.click("#step");
        shown.push(await text("hand-result"));
      }
      outputs.push(shown);
    }
    const [every, never, window] = outputs;
    assert.equal(every?.[5], every?.[0], "the sixth step is a first one");
    assert.equal(never?.[0], every?.[0]);
    assert.match(window?.[3] ?? "", /No output yet/);
    assert.equal(window?.[4], never?.[4]);
    assert.equal(window?.[5], never?.[4], "the same samples from reset");
    assert.deepEqual(complaints, []);
  });

  test("a plot is drawn again when the page becomes narrow", async () => {
    await visit();
    const before = await page.locator("#replay-plot").getAttribute("viewBox");
    await resize(320);
    assert.notEqual(await page.locator("#replay-plot").getAttribute("viewBox"), before);
  });

  test("a stranger's labels stay text", async () => {
    await visit("?model=hostile.lep");
    await page.selectOption("#recording", { index: 0 });
    await page.selectOption("#speed", "20");
    await page.click("#play");
    await result("replay-result", /A step takes/);
    assert.equal(await page.evaluate("window.pwned"), undefined);
    assert.match(await text("facts"), /<img src=x onerror/);
    assert.equal(await page.locator("main img, main script").count(), 0);
    assert.deepEqual(complaints, []);
  });

  describe("live", () => {
    const shake = () =>
      page.evaluate(() => {
        let turn = 0;
        setInterval(() => {
          const sway = 12 * Math.sin(turn * 1.9);
          turn += 1;
          dispatchEvent(
            new DeviceMotionEvent("devicemotion", {
              acceleration: { x: 4.9 + sway, y: -4.6 + sway, z: -2.2 },
              accelerationIncludingGravity: { x: 5, y: 5, z: 9.8 },
              rotationRate: { alpha: 60, beta: 6, gamma: 3 },
              interval: 16,
            }),
          );
        }, 20);
      });
    beforeEach(() => visit());

    test("motion is classified as it comes, until it is stopped", async () => {
      assert.match(await text("live-words"), /may ask for permission to read motion.*stay in this page/);
      await shake();
      await page.click("#start");
      await result("live-result", /Now: (Badminton|Running|Standing|Walking)/);
      assert.equal(await page.locator("#live-plot polyline").count(), 6);
      await page.click("#start");
      await result("live-result", /Stopped\. A step takes/);
      assert.equal(await text("start"), "Start");
    });

    test("without a sensor it says so", async () => {
      await page.click("#start");
      await result("live-result", /No motion sensor found/);
    });

    test("permission is asked, and a no is respected", async () => {
      await page.evaluate(
        "DeviceMotionEvent.requestPermission = async () => { window.asked = true; return 'denied'; }",
      );
      await page.click("#start");
      await result("live-result", /blocks access to the motion sensor/);
      assert.equal(await page.evaluate("window.asked"), true);
      await page.evaluate("DeviceMotionEvent.requestPermission = async () => 'granted'");
      await shake();
      await page.click("#start");
      await result("live-result", /Now: /);
    });
  });
});
