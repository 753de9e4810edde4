"""The MQTT gateway with a real broker: whatever is killed, every sample is answered and
counts once."""

import getpass
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lstm_edge_runtime import load
from lstm_edge_runtime.results import predict
from lstm_edge_runtime.state import state_of_bytes

pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")
from mqtt_devices import Devices

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "tests" / "runtime" / "data" / "lstm.onnx"
GATEWAY = ROOT / "examples" / "mqtt_gateway.py"


class Process:
    """A program that is started, killed and started again."""

    def __init__(self, command, log, ready):
        self._command = [str(word) for word in command]
        self._log = log
        self._ready = ready
        self.start()

    def start(self):
        seen = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + 120
        while self._ready not in self._log.read_bytes()[seen:]:
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)

    def stop(self, number):
        self.process.send_signal(number)
        return self.process.wait(120)


@pytest.fixture
def broker(tmp_path, find_program):
    """A mosquitto that keeps its sessions over a restart, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path / "broker"
    folder.mkdir()
    config = tmp_path / "mosquitto.conf"
    config.write_text(
        f"user {getpass.getuser()}\nlistener {port} 127.0.0.1\nallow_anonymous"
        " true\npersistence true\npersistence_location"
        f" {folder}/\nmax_inflight_messages 0\nmax_queued_messages 0\n"
    )
    process = Process(
        [find_program("mosquitto"), "-c", config, "-v"],
        tmp_path / "broker.log",
        b"running",
    )
    yield process, port
    process.process.kill()
    process.process.wait()


@pytest.fixture
def gateway(broker, tmp_path):
    options = [
        "--broker",
        "127.0.0.1",
        "--port",
        broker[1],
        "--state",
        tmp_path / "gateway.npz",
    ]
    process = Process(
        [sys.executable, GATEWAY, MODEL, *options],
        tmp_path / "gateway.log",
        b"connected",
    )
    yield process
    process.process.kill()
    process.process.wait()


def _expected(model, samples):
    """Return the answers to one device's samples, and the state after each."""
    stream = model.stream()
    rows = []
    states = []
    for sample in samples:
        rows.append(np.atleast_2d(stream.step(sample))[-1])
        states.append(stream.state)
    result = predict(np.stack(rows), model.manifest, model.manifest.task)
    shares = result.probabilities.max(axis=-1).tolist()
    answers = {
        n: {"n": n, "label": label, "p": round(p, 6)}
        for n, (label, p) in enumerate(zip(result.labels, shares, strict=True))
    }
    return answers, states


def test_devices_are_answered_once_and_alike_whatever_is_killed(
    broker, gateway, tmp_path
):
    samples = np.random.default_rng(11).normal(size=(200, 16, 3)).astype(np.float32)
    total = samples.shape[0] * samples.shape[1]
    devices = Devices(broker[1], samples, rate=4)
    devices.run(until=total // 4, timeout=120)
    gateway.stop(signal.SIGKILL)
    gateway.start()
    devices.run(until=total // 2, timeout=120)
    broker[0].stop(signal.SIGTERM)
    broker[0].start()
    devices.run(until=3 * total // 4, timeout=120)
    gateway.stop(signal.SIGKILL)
    gateway.start()
    devices.run(until=total, timeout=120)
    assert gateway.stop(signal.SIGTERM) == 0

    assert devices.errors == []
    repeats = [
        texts
        for answers in devices.answers
        for texts in answers.values()
        if len(texts) > 1
    ]
    assert [texts for texts in repeats if len(set(texts)) > 1] == []
    saved = np.load(tmp_path / "gateway.npz")
    rows = {str(name): row for row, name in enumerate(saved["devices"])}
    model = load(MODEL)
    for device, answers in enumerate(devices.answers):
        expected, states = _expected(model, samples[device])
        assert {n: json.loads(texts[0]) for n, texts in answers.items()} == expected
        row = rows[f"d{device}"]
        end = saved["sizes"][: row + 1].sum()
        content = saved["states"][end - saved["sizes"][row] : end].tobytes()
        state, _ = state_of_bytes(content)
        for name, array in states[saved["last"][row]].items():
            np.testing.assert_array_equal(state[name], array)
    devices.close()


def test_a_bad_message_is_answered_with_its_reason_and_changes_no_state(
    broker, gateway
):
    devices = Devices(broker[1], np.ones((1, 3, 3), np.float32), rate=50)
    devices.run(until=1, timeout=120)
    client = devices._clients[0]
    bad = (
        "no json",
        '{"n": 1}',
        '{"n": -1, "x": [1,2,3]}',
        '{"n": 7, "x": [1, NaN, 2]}',
        "[" * 9000,
    )
    for payload in bad:
        client.publish("lstm-edge/d0/sample", payload, qos=1)
    devices.run(until=3, timeout=120)
    deadline = time.monotonic() + 120
    while len(devices.errors) < len(bad) and time.monotonic() < deadline:
        for key, _ in devices._selector.select(0.05):
            key.data.loop_read()
        client.loop_write()
    assert len(devices.errors) == len(bad)
    assert any("got 'no json', expected" in text for text in devices.errors)
    assert all("3 finite numbers" in text for text in devices.errors)
    answers = {n: json.loads(texts[0]) for n, texts in devices.answers[0].items()}
    assert answers == _expected(load(MODEL), devices.samples[0])[0]
    assert gateway.stop(signal.SIGTERM) == 0
    devices.close()
