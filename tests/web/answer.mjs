// Takes the steps and chunks that standard input lists, as JSON, and prints what came of each.
import { readFileSync } from "node:fs";

import { load } from "../../web/site/lstm-edge/index.js";

const numbers = (array) => Array.from(array ?? [], Number);
const answers = [];
for (const { file, calls } of JSON.parse(readFileSync(0, "utf8"))) {
  const model = await load(file), stream = model.stream();
  for (const { kind, x } of calls) {
    const result = stream[kind](x), named = result === null || ArrayBuffer.isView(result) ? { [model.outputs[0].name]: result } : result;
    answers.push(Object.fromEntries(Object.entries(named).map(([name, array]) => [name, numbers(array)])));
  }
}
console.log(JSON.stringify(answers));
