"""The MQTT gateway beside a real broker: whatever is killed, every sample is answered and counts once."""

import getpass
import json
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lstm_edge.results import MainFrames
from lstm_edge_runtime import load
from lstm_edge_runtime.hold import Hold
from lstm_edge_runtime.prediction import interpret, softmax

pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")
import paho.mqtt.client as mqtt
from mqtt_devices import Devices

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "tests" / "runtime" / "data" / "lstm.onnx"


class Process:
    """A program that is started, killed and started again."""

    def __init__(self, command, log, ready=None):
        self._command, self._log, self._ready = [str(word) for word in command], log, ready
        self.start()

    def start(self):
        seen = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 30
        while self._ready not in self._log.read_bytes()[seen:]:
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)

    def stop(self, number):
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def broker(tmp_path, find_program):
    """A mosquitto that keeps its sessions over a restart, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path / "broker"
    folder.mkdir()
    config = tmp_path / "mosquitto.conf"
    config.write_text(
        f"user {getpass.getuser()}\nlistener {port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
        f"persistence_location {folder}/\nmax_inflight_messages 0\nmax_queued_messages 0\n"
    )
    process = Process([find_program("mosquitto"), "-c", config, "-v"], tmp_path / "broker.log", b"running")
    yield process, port
    process.process.kill()
    process.process.wait()


@pytest.fixture
def gateway(request, broker, tmp_path):
    more = getattr(request, "param", ())
    command = [sys.executable, ROOT / "examples" / "mqtt_gateway.py", MODEL, "--save", "0.3", "--wait", "60"]
    options = ["--broker", "127.0.0.1", "--port", str(broker[1]), "--state", tmp_path / "gateway.npz"]
    process = Process([*command, *options, *more], tmp_path / "gateway.log", b"connected")
    yield process
    process.process.kill()
    process.process.wait()


class Device:
    """One device whose client runs in a thread of its own, as most do."""

    def __init__(self, port, samples):
        self.samples, self.answers, self.errors, self._order = samples, {}, [], []
        self._came = threading.Condition()
        self._client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id="device-d0", clean_session=False
        )
        self._client.max_queued_messages_set(0)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_message = lambda _client, _data, message: self._take(json.loads(message.payload))
        subscribed = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe("lstm-edge/d0/answer", qos=1)
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert subscribed.wait(10)

    def _take(self, document):
        with self._came:
            if "error" in document:
                self.errors.append(document)
            elif document["n"] not in self.answers:
                self._order.append(document["n"])
                self.answers[document["n"]] = document
            self._came.notify_all()

    def send(self, number):
        document = {"n": number, "x": self.samples[number].tolist()}
        return self._client.publish("lstm-edge/d0/sample", json.dumps(document), qos=1)

    def wait(self, answers, timeout=60):
        with self._came:
            come = self._came.wait_for(lambda: len(self.answers) >= answers, timeout)
        assert come, f"{len(self.answers)} of {answers} answered; {self.errors[:3]}"

    def check(self, numbers, every="never", steps=1):
        """Hold the answers to those of a stream that takes the samples in order, without errors."""
        model = load(MODEL, device="cpu")
        stream, hold, expected = model.stream(reset_every=every), Hold(steps), {}
        for number in numbers:
            row = softmax(np.atleast_2d(stream.step(self.samples[number]))[-1]).tolist()
            hold.take(row.index(max(row)))
            said = (model.manifest.task.labels[hold.label], round(row[hold.label], 6))
            label, p = said if hold.label >= 0 else (None, None)
            expected[number] = {"n": number, "label": label, "p": p}
        assert self.errors == []
        assert self._order == list(numbers)
        assert self.answers == expected

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def device(broker):
    samples = np.random.default_rng(5).normal(size=(3000, 3)).astype(np.float32)
    device = Device(broker[1], samples)
    yield device
    device.close()


def test_samples_that_arrive_early_wait_for_those_before_them(broker, gateway, device):
    for number in (0, 1, 4, 4, 2, 6, 3, 5, 5, 7):
        device.send(number)
    device.wait(8)
    device.check(range(8))


@pytest.mark.parametrize("gateway", [("--hold", "3", "--reset-every", "7")], indirect=True)
def test_windows_and_held_labels_go_on_where_they_stood_after_a_kill(broker, gateway, device):
    for first in range(0, 120, 30):
        for number in range(first, first + 30):
            device.send(number)
        device.wait(first + 30)
        time.sleep(0.4)  # a save
        gateway.stop(signal.SIGKILL)
        gateway.start()
    assert {answer["label"] for answer in device.answers.values()} > {None}
    device.check(range(120), 7, 3)


def test_what_is_held_for_a_gap_survives_a_kill_of_the_gateway(broker, gateway, device):
    for number in (0, 1, 3, 4):
        device.send(number)
    device.wait(2)
    time.sleep(0.6)  # a save, which must not acknowledge what is held
    gateway.stop(signal.SIGKILL)
    gateway.start()
    device.send(2)
    device.wait(5)
    device.check(range(5))


@pytest.mark.parametrize("gateway", [("--wait", "2")], indirect=True)
def test_a_gap_that_remains_is_reported_and_passed_over(broker, gateway, device, tmp_path):
    for number in (0, 1, 5, 6):
        device.send(number)
    device.wait(4)
    device.check((0, 1, 5, 6))
    assert 'device "d0": samples 2 to 4 did not come within 2 s' in (tmp_path / "gateway.log").read_text()


def test_numbers_that_do_not_count_by_one_are_not_waited_for(broker, gateway, device):
    for number in range(7, 3000, 30):
        device.send(number)
    device.wait(100, timeout=40)
    device.check(range(7, 3000, 30))


def test_a_broker_that_restarts_while_a_device_publishes_loses_no_sample(broker, gateway, device):
    def publish():
        for number in range(3000):
            device.send(number)
            time.sleep(0.001)

    publisher = threading.Thread(target=publish)
    publisher.start()
    device.wait(300)
    broker[0].stop(signal.SIGTERM)
    broker[0].start()
    publisher.join()
    device.wait(3000)
    device.check(range(3000))


def test_sigterm_while_devices_publish_saves_what_was_answered(broker, gateway, device, tmp_path):
    going = threading.Event()
    going.set()

    def publish():
        for number in range(3000):
            if going.is_set():
                device.send(number)
                time.sleep(0.001)

    publisher = threading.Thread(target=publish)
    publisher.start()
    device.wait(200)
    begun = time.monotonic()
    assert gateway.stop(signal.SIGTERM) == 0
    assert time.monotonic() - begun < 4
    saved = np.load(tmp_path / "gateway.npz")
    going.clear()
    publisher.join()
    assert saved["last"].tolist() == [max(device.answers)]


def test_sigterm_without_confirmed_answers_says_what_is_not_saved(broker, gateway, device, tmp_path):
    for number in range(10):
        device.send(number)
    device.wait(10)
    time.sleep(1)  # they are saved
    gateway.process.send_signal(signal.SIGSTOP)
    for number in range(10, 20):
        device.send(number).wait_for_publish(10)  # the broker has passed it on
    broker[0].process.send_signal(signal.SIGSTOP)
    gateway.process.send_signal(signal.SIGCONT)
    time.sleep(0.3)
    assert gateway.stop(signal.SIGTERM) == 1
    broker[0].process.send_signal(signal.SIGCONT)
    line = (tmp_path / "gateway.log").read_text().splitlines()[-1]
    assert line.startswith("error: 10 messages are not in")
    gateway.start()
    device.wait(20)
    device.check(range(20))


def test_five_hundred_devices_are_answered_once_and_alike_whatever_is_killed(broker, gateway, tmp_path):
    rng = np.random.default_rng(11)
    samples = rng.normal(size=(500, 16, 3)).astype(np.float32)
    total = samples.shape[0] * samples.shape[1]
    devices = Devices(broker[1], samples, rate=4)
    devices.run(until=total // 4, timeout=60)
    gateway.stop(signal.SIGKILL)
    gateway.start()
    devices.run(until=total // 2, timeout=60)
    broker[0].stop(signal.SIGTERM)
    broker[0].start()
    devices.run(until=3 * total // 4, timeout=60)
    gateway.stop(signal.SIGKILL)
    gateway.start()
    devices.run(until=total, timeout=60)
    assert gateway.stop(signal.SIGTERM) == 0

    assert devices.errors == []
    repeats = [texts for answers in devices.answers for texts in answers.values() if len(texts) > 1]
    assert [texts for texts in repeats if len(set(texts)) > 1] == []
    assert repeats, "nothing was sent again: the kills came when nothing was on its way"
    saved = np.load(tmp_path / "gateway.npz")
    place = {str(name): row for row, name in enumerate(saved["devices"])}
    model = load(MODEL, device="cpu")
    for device, answers in enumerate(devices.answers):
        stream, rows, states = model.stream(), [], []
        for sample in samples[device]:
            rows.append(np.atleast_2d(stream.step(sample))[-1])
            states.append(stream.state)
        found = interpret(np.stack(rows), model.manifest.task)
        expected = {
            n: {"n": n, "label": label, "p": round(p, 6)}
            for n, (label, p) in enumerate(
                zip(found.labels, found.probabilities.max(axis=-1).tolist(), strict=True)
            )
        }
        assert {n: json.loads(texts[0]) for n, texts in answers.items()} == expected
        row = place[f"d{device}"]  # what the broker had not sent again by the end is not in it
        for name, array in states[saved["last"][row]].items():
            np.testing.assert_array_equal(saved[f"state/{name}"][row], array)
    devices.close()


def test_a_bad_message_is_answered_with_its_reason_and_harms_no_other(broker, gateway):
    devices = Devices(broker[1], np.ones((1, 3, 3), np.float32), rate=50)
    devices.run(until=1, timeout=30)
    client = devices._clients[0]
    for payload in (
        "no json",
        '{"n": 1}',
        '{"n": -1, "x": [1,2,3]}',
        '{"n": 7, "x": [1, NaN, 2]}',
        "[" * 9000,
    ):
        client.publish("lstm-edge/d0/sample", payload, qos=1)
    devices.run(until=3, timeout=30)
    deadline = time.monotonic() + 20
    while len(devices.errors) < 5 and time.monotonic() < deadline:
        devices.run(until=0, timeout=1)
        for key, _ in devices._selector.select(0.05):
            key.data.loop_read()
        client.loop_write()
    assert len(devices.errors) == 5
    assert any("got 'no json', expected" in text for text in devices.errors)
    assert all("3 finite numbers" in text for text in devices.errors)
    assert gateway.stop(signal.SIGTERM) == 0
    devices.close()


def test_the_states_of_another_model_are_refused_in_one_line(broker, gateway, tmp_path):
    devices = Devices(broker[1], np.ones((1, 2, 3), np.float32), rate=50)
    devices.run(until=2, timeout=30)
    devices.close()
    gateway.stop(signal.SIGTERM)
    other = ROOT / "tests" / "runtime" / "data" / "motions-int8.onnx"
    ran = subprocess.run(
        [sys.executable, ROOT / "examples" / "mqtt_gateway.py", other, "--state", tmp_path / "gateway.npz"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, len(ran.stderr.splitlines())) == (2, 1)
    assert "another model's states" in ran.stderr


def test_systemd_accepts_the_unit(tmp_path, find_program):
    unit = (ROOT / "examples" / "mqtt-gateway.service").read_text()
    there = tmp_path / "mqtt-gateway.service"
    there.write_text(unit.replace("/opt/lstm-edge/bin/python", sys.executable))
    ran = subprocess.run(
        [find_program("systemd-analyze"), "verify", there], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


class Client:
    """As much of a client as the gateway uses; every answer is confirmed at once."""

    def __init__(self):
        self.answers, self.mid = [], 0

    def publish(self, topic, text, qos):
        self.mid += 1
        self.answers.append(json.loads(text))
        return self

    def ack(self, mid, qos):
        pass


@pytest.mark.parametrize("name", ["late", "strided"])
def test_a_late_answer_says_which_sample_it_is_of_and_a_restart_goes_on_within_a_unit(name, tmp_path):
    module = runpy.run_path(str(ROOT / "examples" / "mqtt_gateway.py"))
    model, x = load(MODEL.parent / f"{name}.onnx"), np.random.default_rng(3).normal(size=(30, 3))
    numbers, client = [3 * number for number in range(30)], Client()  # which do not count by one
    for start, end in ((0, 7), (7, 9), (9, 30)):
        gateway = module["Gateway"](model, client, "lstm-edge", tmp_path / "state.npz", 4, 0.0)
        gateway.connected_since = 0.0
        for number, sample in zip(numbers[start:end], x[start:end], strict=True):
            payload = json.dumps({"n": number, "x": sample.tolist()}).encode()
            gateway.inbox.append(((0, number), "d0", payload))
            gateway.tick()
        gateway.confirmed.extend(range(1, client.mid + 1))
        assert gateway.stop(1.0) == 0
    stream, frames = model.stream(), MainFrames(model)
    for place, (number, answer) in enumerate(zip(numbers, client.answers, strict=True)):
        found = list(frames.of(stream.step(x[place].astype(np.float32)), place + 1))
        assert answer["n"] == number
        assert ("of" in answer) == bool(found)
        for _, step, logits in found:
            assert answer["of"] == numbers[step - 1]
            assert answer["p"] == pytest.approx(float(softmax(logits).max()), abs=1e-5)
