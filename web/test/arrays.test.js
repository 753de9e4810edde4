import { test } from "node:test";
import assert from "node:assert/strict";

import { toArray } from "../site/lstm-edge/arrays.js";

test("a whole number that a dtype can't hold is refused and never another", () => {
  const wrong = /** @type {[any, string][]} */ ([
    [[4294967299], "int32"], [[4294967299n], "int32"], [BigInt64Array.of(4294967299n), "int32"], [Float64Array.of(300), "uint8"],
    [[2n ** 63n], "int64"], [[2 ** 64], "int64"], [BigInt64Array.of(-1n), "uint64"], [[9007199254740993n], "int32"], [[2.5], "int64"],
  ]);
  for (const [value, dtype] of wrong) {
    assert.throws(() => toArray("tokens", value, dtype), { name: "InputError" }, `${value} as ${dtype}`);
  }
  assert.deepEqual(toArray("tokens", [2 ** 31 - 1, -5n], "int32"), Int32Array.of(2 ** 31 - 1, -5));
  assert.deepEqual(toArray("tokens", Int32Array.of(3), "int64"), BigInt64Array.of(3n));
});
