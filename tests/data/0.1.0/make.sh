#!/usr/bin/env bash
# How the files beside this script were written, by lstm-edge 0.1.0 as it stood at commit f1aea7a:
#   git archive --prefix=v010/ f1aea7a | tar x -C /tmp && tests/data/0.1.0/make.sh /tmp/v010
# They stand for what people have on their devices, so they are never written again.
set -euo pipefail
cd "$(dirname "$0")"
export PYTHONPATH="$1:$1/exporters:$1/runtime" ORT_DISABLE_TELEMETRY=1 OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
edge() { python -c 'from lstm_edge.cli import main; main()' "$@"; }

edge --version | grep -F 0.1.0
python - "$work/data.npz" <<'END'
import sys, numpy as np
rng = np.random.default_rng(1)
y = np.arange(48) % 3
x = rng.normal(0, 0.3, (48, 20, 3)) + np.sin(np.arange(20)[:, None] * (1 + y)[:, None, None] / 3)
np.savez(sys.argv[1], x=x.astype(np.float32), y=np.array(["rest", "walk", "run"])[y],
         features=["ax", "ay", "az"], sampling_rate=50.0)
END
edge train "$work/data.npz" -o run --hidden-size 16 --epochs 12 --seed 1
cp "$work/data.npz" data.npz
edge export run -o model.onnx --lengths
edge quantize model.onnx -o int8.onnx --force
edge quantize model.onnx -o fp16.onnx --precision fp16 --force
edge convert model.onnx -o model.ort
edge validate model.onnx --against run --quick --save-test-data golden
python -c 'import numpy as np
for sample in np.load("data.npz")["x"][0]: print(*sample, sep=",")' > "$work/samples.csv"
head -12 "$work/samples.csv" | edge stream model.onnx --state stream.state.npz > /dev/null
edge stream model.onnx < "$work/samples.csv" > stream.csv
python - <<'END'
import numpy as np
from lstm_edge_runtime import load
load("model.onnx").run(np.load("data.npz")["x"][:2])[1].save("batch.state.npz")
END
edge predict model.onnx data.npz -o predictions.csv
edge tune model.onnx --seconds 3 -o profile.json
edge bench model.onnx --seconds 2 --streams 1,4 --json > baseline.json
