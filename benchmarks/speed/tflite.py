"""Make ``S.tflite`` to ``XL.tflite`` for ``stream.py --litert DIR``: one LSTM step each, random weights.

    python -m benchmarks.speed.tflite DIR        # needs tensorflow; a venv of its own is best

Input ``x (1, 1, I)`` and one state tensor ``(2*layers, 1, H)``, the hidden states above the cell states.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks.common import CLASSES, SIZES


def convert(size: str) -> bytes:
    """Return ``size``'s step as a TFLite file."""
    features, hidden, layers = SIZES[size]
    rng = np.random.default_rng(0)
    bound = hidden**-0.5

    def uniform(*shape: int) -> tf.Tensor:
        return tf.constant(rng.uniform(-bound, bound, shape).astype(np.float32))

    widths = [features] + [hidden] * (layers - 1)
    weights = [(uniform(width + hidden, 4 * hidden), uniform(4 * hidden)) for width in widths]
    head = uniform(hidden, CLASSES)

    @tf.function(
        input_signature=[
            tf.TensorSpec((1, 1, features), name="x"),
            tf.TensorSpec((2 * layers, 1, hidden), name="state"),
        ]
    )
    def step(x: tf.Tensor, state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        y, hs, cs = x[0], [], []
        for layer, (weight, bias) in enumerate(weights):
            gates = tf.matmul(tf.concat([y, state[layer]], 1), weight) + bias
            i, f, g, o = tf.split(gates, 4, axis=1)
            c = tf.sigmoid(f) * state[layers + layer] + tf.sigmoid(i) * tf.tanh(g)
            y = tf.sigmoid(o) * tf.tanh(c)
            hs.append(y)
            cs.append(c)
        return tf.matmul(y, head), tf.stack(hs + cs)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([step.get_concrete_function()])
    return bytes(converter.convert())


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in SIZES:
        (folder / f"{name}.tflite").write_bytes(convert(name))
