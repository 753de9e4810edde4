/** Keeps the site's files, so that it works offline after the first visit. */

const worker = /** @type {ServiceWorkerGlobalScope & {SITE: {version: string, files: string[]}}} */ (
  /** @type {unknown} */ (self)
);
worker.importScripts("site.js");

// one origin may have several sites, each in its own folder
const PREFIX = `lstm-edge ${worker.registration.scope} `,
  CACHE = PREFIX + worker.SITE.version;

worker.addEventListener("install", (event) => {
  const requests = worker.SITE.files.map((file) => new Request(file, { cache: "no-cache" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(requests)));
});

worker.addEventListener("activate", (event) => {
  const old = caches
    .keys()
    .then((names) => names.filter((name) => name.startsWith(PREFIX) && name !== CACHE));
  event.waitUntil(
    old
      .then((names) => Promise.all(names.map((name) => caches.delete(name))))
      .then(() => worker.clients.claim()),
  );
});

worker.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET" || !request.url.startsWith(worker.registration.scope)) return;
  event.respondWith(
    caches.match(request, { cacheName: CACHE, ignoreSearch: true }).then((kept) => kept ?? fetch(request)),
  );
});
