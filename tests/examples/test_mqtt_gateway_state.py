"""The MQTT gateway without a broker: messages, dtypes, and files of states."""

import json
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_runtime import LstmEdgeError, load

pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")
from examples.mqtt_gateway import Gateway

DATA = Path(__file__).parents[1] / "runtime" / "data"
MODEL = DATA / "lstm.onnx"


class Offline(Gateway):
    """A gateway whose answers are kept, and whose samples come from the test."""

    def __init__(self, model, state):
        self.answers = []
        options = Namespace(prefix="p", devices=8, state=state)
        super().__init__(model, options)

    def send(self, name, payload):
        topic = f"p/{name}/sample"
        message = SimpleNamespace(topic=topic, mid=1, payload=payload.encode())
        self.inbox.append((0, message))
        self.tick()
        return self.answers[-1]

    def _publish(self, name, answer):
        self.answers.append(answer)


class Tokens(nn.Module):
    """Two integer features per step, each with an embedding of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Embedding(5, 4)
        self.second = nn.Embedding(5, 4)
        self.gru = nn.GRU(8, 3, batch_first=True)

    def forward(self, x):
        pair = [self.first(x[..., 0]), self.second(x[..., 1])]
        return self.gru(torch.cat(pair, dim=-1))[0][:, -1]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokens.onnx"
    x = torch.tensor([[[1, 2], [3, 4], [0, 1]], [[2, 2], [4, 0], [1, 1]]])
    export(Tokens().eval(), x, ExportConfig(inputs={"x": ("N", "L", 2)})).save(path)
    return load(path)


def test_an_index_outside_its_table_is_answered_beside_the_other_devices(
    tokens, tmp_path
):
    gateway = Offline(tokens, tmp_path / "s.npz")
    gateway.send("a", '{"n": 0, "x": [3, 1]}')
    for name, x in (("a", [4, 4]), ("b", [99, 0]), ("c", [1, 1])):
        payload = json.dumps({"n": 1, "x": x}).encode()
        topic = f"p/{name}/sample"
        gateway.inbox.append((0, SimpleNamespace(topic=topic, mid=1, payload=payload)))
    gateway.tick()
    *_, first, refused, last = gateway.answers
    assert "error" in refused
    stream = tokens.stream()
    stream.step(np.array([3, 1]))
    np.testing.assert_allclose(first["y"], stream.step(np.array([4, 4])), rtol=1e-5)
    fresh = tokens.stream().step(np.array([1, 1]))
    np.testing.assert_allclose(last["y"], fresh, rtol=1e-5)
    assert gateway.send("b", '{"n": 2, "x": [0, 0]}')["n"] == 2


def test_integer_features_are_taken_exactly_or_refused(tokens, tmp_path):
    gateway = Offline(tokens, tmp_path / "s.npz")
    expected = tokens.stream().step(np.array([3, 1]))
    answer = gateway.send("a", '{"n": 0, "x": [3, 1.0]}')
    np.testing.assert_allclose(answer["y"], expected, rtol=1e-6)
    for x in ("[1.7, 1]", '["1", 1]', "[true, 1]", "[NaN, 1]", "[1e30, 1]", "[1]", "7"):
        answer = gateway.send("a", f'{{"n": 1, "x": {x}}}')
        assert "expected" in answer["error"], x
        assert "2 whole numbers" in answer["error"]
    assert gateway.devices["a"].last == 0


@pytest.mark.parametrize("name", ["lstm", "strided", "late"])
def test_a_state_is_continued_at_any_sample(tmp_path, name):
    model = load(DATA / f"{name}.onnx")
    samples = np.random.default_rng(3).normal(size=(12, 3)).round(3).tolist()

    def answer(gateway, numbers):
        return [
            gateway.send("a", json.dumps({"n": number, "x": samples[number]}))
            for number in numbers
        ]

    answers = answer(Offline(model, tmp_path / "none.npz"), range(12))
    stream = model.stream()
    results = [stream.step(np.array(sample, np.float32)) for sample in samples]
    has_frame = [len(model.frames(result)) > 0 for result in results]
    assert [answer["label"] is not None for answer in answers] == has_frame
    for split in range(1, 12):
        first = Offline(model, tmp_path / "none.npz")
        answer(first, range(split))
        path = tmp_path / f"{split}.npz"
        np.savez(path, **first._arrays())
        second = Offline(model, path)
        assert answer(second, range(split, 12)) == answers[split:]


def test_a_damaged_state_is_one_error(tmp_path):
    model = load(MODEL)
    path = tmp_path / "s.npz"
    gateway = Offline(model, path)
    for name in "abc":
        gateway.send(name, '{"n": 4, "x": [1, 2, 3]}')
    arrays = gateway._arrays()
    odd = (
        np.array([1.5, 2, 3]),
        np.array([-7, 1, 2]),
        np.array(["x", "x", "x"]),
        np.array(3),
        np.zeros((3, 1, 1), np.float32),
        np.zeros(3, np.uint8),
        np.array([2**63 - 1] * 3),
        None,
    )
    edits = [(name, value) for name in arrays for value in odd]
    refused = 0
    for name, value in edits:
        edited = {key: array for key, array in arrays.items() if key != name}
        if value is not None:
            edited[name] = value
        np.savez(path, **edited)
        refused += _is_refused(model, path)
    assert refused >= len(edits) - len(odd)  # any unused names and numbers will do
    np.savez(path, **arrays)
    content = path.read_bytes()
    rng = np.random.default_rng(5)
    for _ in range(150):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), 3):
            damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged[: rng.integers(len(content) // 2, len(content) + 1)])
        _is_refused(model, path)


def _is_refused(model, path):
    """Open a gateway; True if its state is refused with one line."""
    try:
        Offline(model, path)
    except LstmEdgeError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return True
    return False
