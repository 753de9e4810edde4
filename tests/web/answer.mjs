// Makes the calls that standard input lists, as JSON, and prints what came of each.
import { readFileSync } from "node:fs";

import { load } from "../../web/site/lstm-edge/index.js";

const numbers = (arrays) =>
  Object.fromEntries(Object.entries(arrays).map(([name, value]) => [name, Array.from(value.data ?? value, Number)]));

const answers = [];
for (const { file, calls } of JSON.parse(readFileSync(0, "utf8"))) {
  const model = await load(file), stream = model.stream();
  for (const { kind, x, ...options } of calls) {
    if (kind === "run") {
      const { outputs, state } = await model.run(x, options);
      answers.push({ outputs: numbers(outputs), state: numbers(state.arrays) });
    } else {
      const result = await stream[kind](x), state = await stream.state();
      answers.push({ outputs: numbers(ArrayBuffer.isView(result) ? { only: result } : result ?? {}), state: numbers(state.arrays) });
    }
  }
  const { comparisons } = model.manifest.golden ? await model.selftest() : { comparisons: [] };
  answers.push(comparisons.map(({ how, name, limit }) => [how, name, limit]));
}
console.log(JSON.stringify(answers));
