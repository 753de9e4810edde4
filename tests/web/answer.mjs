// Take the steps and chunks that standard input lists, as JSON, and print the result of each, and the state at the end.
import { readFileSync } from "node:fs";

import { load } from "../../web/site/lstm-edge/index.js";

const numbers = (array) => Array.from(array ?? [], Number);

function named(model, result) {
  if (result === null) return {};
  return ArrayBuffer.isView(result)
    ? { [model.outputs[0].name]: result }
    : result;
}

const answers = [];
for (const { file, options, state, calls } of JSON.parse(
  readFileSync(0, "utf8"),
)) {
  const model = await load(file);
  const stream = model.stream(options);
  if (state) stream.restore(new Uint8Array(Buffer.from(state, "base64")));
  const results = [];
  for (const { kind, x } of calls) {
    const result = named(model, stream[kind](x));
    results.push(
      Object.fromEntries(
        Object.entries(result).map(([name, array]) => [name, numbers(array)]),
      ),
    );
  }
  const after = stream.state
    ? Buffer.from(stream.state).toString("base64")
    : null;
  answers.push({ results, state: after });
}
console.log(JSON.stringify(answers));
