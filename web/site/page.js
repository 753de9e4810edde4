/** Elements of the page, and their texts. Names from a model only become text, never HTML. */

/** @param {string} id */
export function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/** Return the value of a select or a field. @param {string} id */
export function chosen(id) {
  return /** @type {HTMLSelectElement | HTMLInputElement} */ (byId(id)).value;
}

/** Show a message. @param {string} id @param {string} text @param {boolean} isBad */
export function say(id, text, isBad = false) {
  const target = byId(id);
  target.textContent = text;
  target.className = isBad ? "bad" : "";
}

/** @param {string} name @param {string} text */
export function element(name, text) {
  return Object.assign(document.createElement(name), { textContent: text });
}

/** @param {unknown} error */
export function messageOf(error) {
  return error instanceof Error ? error.message : String(error);
}

/** Return a number with so many digits, without an exponent up to 1e21. @param {number} value @param {number} digits */
export function rounded(value, digits) {
  return String(Number(value.toPrecision(digits)));
}

/** @param {number} value */
export function milliseconds(value) {
  return `${value < 10 ? value.toPrecision(2) : value.toFixed(0)} ms`;
}

/** Stops the work that runs. @type {AbortController | undefined} */
let running;

/** Stop the work that a button started. */
export function stopRunning() {
  running?.abort();
}

/**
 * Run work that a button starts and stops.
 *
 * @param {string} id
 * @param {string} idle the button's text
 * @param {string} output the id of the element for messages
 * @param {(signal: AbortSignal) => Promise<void>} work
 */
export function onButton(id, idle, output, work) {
  const button = byId(id);
  button.textContent = idle;
  button.onclick = async () => {
    stopRunning();
    if (button.textContent !== idle) return;
    const stop = new AbortController();
    running = stop;
    button.textContent = "Stop";
    try {
      await work(stop.signal);
    } catch (error) {
      say(output, messageOf(error), true);
    } finally {
      stop.abort();
      button.textContent = idle;
    }
  };
}
