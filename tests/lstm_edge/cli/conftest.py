"""Small files made with onnx, so that the verbs are tried on every kind of contract
without a training."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lstm_edge_runtime import load
from lstm_edge_runtime.manifest import (
    KEY,
    Golden,
    Manifest,
    Signal,
    StateSpec,
    Task,
    TensorSpec,
    Trained,
)
from lstm_edge_runtime.ort import sealed

FEATURES = ("ax", "ay", "az")
LABELS = ("rest", "walk", "run, fast")
CARRIED = Trained(True, 6, 0.5)


@dataclass(frozen=True)
class Made:
    """A file and what it was made of."""

    path: Path
    features: int
    hidden: int
    classes: int


def _golden(path: Path, hidden: int) -> Golden:
    x = np.random.default_rng(5).normal(size=(2, 6, 3)).astype(np.float32)
    inputs = {
        "x": x,
        **{name: np.zeros((1, 2, hidden), np.float32) for name in ("h_0", "c_0")},
    }
    with load(path) as model:
        outputs, state = model.run(x)
    recorded = {**outputs, "h_n": state["h_0"], "c_n": state["c_0"]}
    limits = {name: np.full([1] * array.ndim, 3e-6) for name, array in recorded.items()}
    return Golden(inputs, recorded, limits=limits)


@pytest.fixture(scope="session")
def make(tmp_path_factory):
    """Make an LSTM with a dense layer; ``manifest=False`` gives a file as others make
    them.

    ``waste`` adds pairs of nodes that undo each other: the same results, later.
    """

    def build(
        name="m",
        *,
        hidden=8,
        task="classification",
        manifest=True,
        seed=0,
        golden=True,
        rate=50.0,
        features=3,
        feature_names=FEATURES,
        length="L",
        waste=0,
        trained=CARRIED,
    ) -> Made:
        rng = np.random.default_rng(seed)
        shapes = {
            "W": (1, 4 * hidden, features),
            "R": (1, 4 * hidden, hidden),
            "B": (1, 8 * hidden),
            "K": (hidden, 3),
        }
        scale = 2 * np.sqrt(
            np.float32(hidden / 8)
        )  # wider networks are as tame as this one
        stored = [
            numpy_helper.from_array(
                rng.normal(size=shape).astype(np.float32) / scale, key
            )
            for key, shape in shapes.items()
        ]
        undone = " ".join(f"z{index + 1} = Neg(z{index})" for index in range(2 * waste))
        h, c, h_n, c_n = (
            f"float[1, N, {hidden}] {key}" for key in ("h_0", "c_0", "h_n", "c_n")
        )
        model = onnx.parser.parse_model(f"""
            <ir_version: 8, opset_import: ["" : 17]>
            g (float[N, {length}, {features}] x, {h}, {c}) => (float[N, 3] logits, {h_n}, {c_n}) {{
                xt = Transpose <perm = [1, 0, 2]> (x)
                steps, h_n, c_n = LSTM <hidden_size = {hidden}> (xt, W, R, B, , h_0, c_0)
                axis = Constant <value_ints = [0]> ()
                h = Squeeze (h_n, axis)
                z0 = MatMul (h, K)
                {undone}
                logits = Identity (z{2 * waste})
            }}""")
        model.graph.initializer.extend(stored)
        path = tmp_path_factory.mktemp("files") / f"{name}.onnx"
        carried = trained is not None and trained.carry
        reset_every = None if carried else (trained or Signal(window=6)).window
        if manifest:
            contract = Manifest(
                inputs=(TensorSpec("x", "float32", ("N", length, features)),),
                outputs=(TensorSpec("logits", "float32", ("N", 3)),),
                states=tuple(
                    StateSpec(f"{x}_0", f"{x}_n", "float32", (1, "N", hidden))
                    for x in "hc"
                ),
                task=(
                    Task(task, "logits", labels=LABELS)
                    if task == "classification"
                    else Task(task, "logits", units=("m", "m/s", "kg"))
                ),
                signal=Signal(feature_names, rate, 6),
                trained=trained,
                reset_every=reset_every,
                provenance={
                    "opset": 17,
                    "checkpoint_sha256": "ab" * 32,
                    "versions": {"torch": "2.13"},
                },
                equivalence={
                    "cases": 12,
                    "max_abs": 1e-7,
                    "max_rel": 2e-7,
                    "ratio": 0.25,
                },
            )
            model.metadata_props.add(key=KEY, value=contract.to_json())
            if golden:
                path.write_bytes(sealed(model.SerializeToString()))
                model.metadata_props[0].value = contract._replace(
                    golden=_golden(path, hidden)
                ).to_json()
        content = model.SerializeToString()
        path.write_bytes(sealed(content) if manifest else content)
        return Made(path, features, hidden, 3)

    return build


@pytest.fixture(scope="session")
def har(make):
    """A classification of three activities from three features at 50 Hz."""
    return make("har")


@pytest.fixture
def stream(invoke, tmp_path):
    """Run ``lstm-edge stream`` on a content in this process; gives the exit code and
    both outputs."""

    def run(content, *arguments):
        (tmp_path / "samples").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
        with (
            (tmp_path / "samples").open("rb") as source,
            (tmp_path / "results").open("wb") as sink,
        ):
            before = os.dup(0), os.dup(1)
            try:
                os.dup2(source.fileno(), 0)
                os.dup2(sink.fileno(), 1)
                code, _, err = invoke("stream", *arguments)
            finally:
                for number, descriptor in enumerate(before):
                    os.dup2(descriptor, number)
                    os.close(descriptor)
        return code, (tmp_path / "results").read_text(), err

    return run
