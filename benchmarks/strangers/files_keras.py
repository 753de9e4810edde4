"""Write the ONNX file that tf2onnx makes of each of 30 Keras networks; ``files.py``
runs this.

    python -m benchmarks.strangers.files_keras FOLDER

It needs TensorFlow, so it runs in the environment of ``files.txt``.
"""

import os
import sys
from pathlib import Path

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

import keras
import tensorflow as tf
import tf2onnx
from keras import layers as k


def _networks():
    def stack(*layers, shape=(None, 5), batch=None):
        return keras.Sequential([keras.Input(shape, batch_size=batch), *layers])

    def whole(layer, size=6, **options):
        return layer(size, return_sequences=True, **options)

    def two_inputs():
        first = keras.Input((None, 5), name="a")
        second = keras.Input((None, 3), name="b")
        return keras.Model(
            [first, second], whole(k.LSTM)(k.Concatenate()([first, second]))
        )

    def with_state():
        x = keras.Input((None, 5), name="x")
        return keras.Model(x, k.GRU(6, return_sequences=True, return_state=True)(x))

    return {
        "lstm": stack(whole(k.LSTM)),
        "lstm_last": stack(k.LSTM(6), k.Dense(3)),
        "lstm_lstm": stack(whole(k.LSTM), whole(k.LSTM, 4)),
        "lstm_relu": stack(whole(k.LSTM, activation="relu")),
        "lstm_elu": stack(whole(k.LSTM, activation="elu")),
        "lstm_masked": stack(k.Masking(), whole(k.LSTM)),
        "lstm_unrolled": stack(k.LSTM(6, unroll=True), shape=(5, 5)),
        "lstm_fixed": stack(whole(k.LSTM), shape=(20, 5), batch=1),
        "embedding_lstm": stack(k.Embedding(30, 5), whole(k.LSTM), shape=(None,)),
        "gru": stack(whole(k.GRU)),
        "gru_last": stack(k.GRU(6), k.Dense(3)),
        "gru_gru": stack(whole(k.GRU), whole(k.GRU, 4)),
        "gru_reset_before": stack(whole(k.GRU, reset_after=False)),
        "gru_hard": stack(whole(k.GRU, recurrent_activation="hard_sigmoid")),
        "gru_masked": stack(k.Masking(), whole(k.GRU)),
        "gru_fixed": stack(whole(k.GRU), shape=(20, 5)),
        "gru_fixed_batch": stack(whole(k.GRU), shape=(20, 5), batch=1),
        "gru_states": with_state(),
        "gru_time_distributed": stack(whole(k.GRU), k.TimeDistributed(k.Dense(2))),
        "embedding_gru": stack(
            k.Embedding(30, 5, mask_zero=True), whole(k.GRU), shape=(None,)
        ),
        "layernorm_gru": stack(k.LayerNormalization(), whole(k.GRU), k.Dense(3)),
        "conv_gru": stack(k.Conv1D(4, 3, padding="causal"), whole(k.GRU)),
        "simple_rnn": stack(whole(k.SimpleRNN)),
        "simple_rnn_last": stack(k.SimpleRNN(6, activation="relu"), k.Dense(2)),
        "cells": stack(k.RNN([k.LSTMCell(6), k.GRUCell(4)], return_sequences=True)),
        "convlstm1d": stack(
            whole(k.ConvLSTM1D, 4, kernel_size=3, padding="same"), shape=(None, 8, 2)
        ),
        "convlstm2d": stack(
            whole(k.ConvLSTM2D, 4, kernel_size=3, padding="same"), shape=(None, 8, 8, 1)
        ),
        "two_inputs": two_inputs(),
        "backwards_bilstm": stack(k.Bidirectional(whole(k.LSTM))),
        "backwards_bigru": stack(k.Bidirectional(whole(k.GRU))),
        "backwards_gru": stack(whole(k.GRU, go_backwards=True)),
    }


def main(folder: Path) -> None:
    """Write the files."""
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    for name, network in _networks().items():
        signature = [
            tf.TensorSpec(x.shape, x.dtype, name=x.name) for x in network.inputs
        ]

        def call(*inputs, network=network):
            return network(list(inputs) if len(inputs) > 1 else inputs[0])

        function = tf.function(call, input_signature=signature)
        tf2onnx.convert.from_function(
            function, signature, opset=17, output_path=str(folder / f"{name}.onnx")
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
