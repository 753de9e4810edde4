/** A static server on the loopback, and Debian's Chromium: what the tests and the benchmark share. */

import { execFileSync } from "node:child_process";
import { createReadStream, existsSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

export const WEB = fileURLToPath(new URL("../", import.meta.url));
export const DATA = fileURLToPath(new URL("../../tests/runtime/data/", import.meta.url));

const TYPES = /** @type {Record<string, string>} */ ({
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".css": "text/css",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
});

/**
 * Serve folders by the first part of their paths.
 *
 * @param {Record<string, string>} roots for example `{"": "/tmp/site/", "data/": "/tmp/data/"}`
 * @param {{isolated?: boolean}} [options] whether to send the headers that threads need
 */
export async function serve(roots, { isolated = false } = {}) {
  const server = createServer((request, response) => {
    const path = normalize(
      decodeURIComponent(new URL(request.url ?? "/", "http://localhost").pathname),
    ).slice(1);
    const prefix = Object.keys(roots)
      .sort((left, right) => right.length - left.length)
      .find((root) => path.startsWith(root));
    let file = prefix === undefined ? "" : join(roots[prefix] ?? "", path.slice(prefix.length));
    if (existsSync(file) && statSync(file).isDirectory()) file = join(file, "index.html");
    if (!existsSync(file)) return void response.writeHead(404).end();
    response.writeHead(200, {
      "Content-Type": TYPES[extname(file)] ?? "application/octet-stream",
      ...(isolated && {
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
      }),
    });
    createReadStream(file).pipe(response);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  return {
    url: `http://127.0.0.1:${port}/`,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(resolve);
      }),
  };
}

const NAMES = ["chromium", "chromium-browser", "google-chrome"];

/** The path of a browser, or undefined where there is none. */
export const browserPath = NAMES.map((name) => {
  try {
    return execFileSync("which", [name], { encoding: "utf8" }).trim();
  } catch {
    return undefined;
  }
}).find(Boolean);

/** @param {string[]} [flags] */
export const launch = (flags = []) =>
  chromium.launch({
    executablePath: /** @type {string} */ (browserPath),
    args: [
      "--no-sandbox",
      "--disable-quic",
      "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
      ...flags,
    ],
  });
