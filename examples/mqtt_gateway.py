"""An MQTT gateway: devices publish samples to a broker, and each sample is answered
with its class.

    python mqtt_gateway.py har.onnx --broker localhost --state gateway.npz

A device publishes {"n": 41, "x": [0.1, 0.2, ...]} to lstm-edge/DEVICE/sample with QoS
1, with numbers that increase. The gateway publishes {"n": 41, "label": ..., "p": ...}
to lstm-edge/DEVICE/answer, {"n": 41, "y": [...]} for a file without labels, or
{"error": ...}. Results are null for samples that complete no frame: in a network's
delay, and within its unit.

Each device has its own state. A sample is acknowledged after its answer is confirmed
and the states that include it are saved; the broker redelivers all others.
docs/deploy.md has the guarantees.
"""

import argparse
import io
import json
import operator
import os
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt

from lstm_edge_runtime import LstmEdgeError, Model, load
from lstm_edge_runtime.errors import FileFormatError, InputError, StateError
from lstm_edge_runtime.files import (
    check_target,
    malformed_as,
    read_arrays,
    replacing,
)
from lstm_edge_runtime.results import main_name
from lstm_edge_runtime.state import state_of_bytes

NO_FRAME: dict[str, Any] = {"label": None, "p": None}
CONFIRM_SECONDS = 5
"""Maximum time to wait for the confirmation of answers before a save is postponed."""
_SAVED = ("identity", "devices", "last", "sizes", "states")
"""Arrays in the file of the states: ``states`` are bytes, ``sizes`` those per
device."""


@dataclass
class Device:
    """A source of samples: its id in the batch, its newest number, and samples that
    wait for a call.
    """

    source: int
    last: int = -1
    waiting: deque[tuple[int, np.ndarray]] = field(default_factory=deque)


class Gateway:
    """Answers the samples of many devices; the client's thread only fills ``inbox`` and
    ``confirmed``.
    """

    def __init__(self, model: Model, options: argparse.Namespace) -> None:
        manifest = model.manifest
        inputs = model.inputs
        self.output = main_name(manifest)
        has_features = len(inputs) == 1 and isinstance(inputs[0].axes[-1], int)
        if not has_features or not _has_one_float_frame(model, self.output):
            raise InputError(
                "expected a file with one input of a fixed number of features, and an"
                " output of floats with at most one frame per sample"
            )
        version = mqtt.CallbackAPIVersion.VERSION2
        name = f"{options.prefix}-gateway"
        self.client = mqtt.Client(
            version, client_id=name, clean_session=False, manual_ack=True
        )
        self.model = model
        self.options = options
        self.batch = model.streams(
            options.devices, reset_every=manifest.reset_every or "never"
        )
        self.task = manifest.task
        self.width = inputs[0].axes[-1]
        self.dtype = np.dtype(inputs[0].dtype)
        self.devices: dict[str, Device] = {}
        self.connection = 0
        self.inbox = deque[Any]()
        self.confirmed = deque[int]()
        self.taken = list[tuple[int, int]]()
        self.unconfirmed = set[int]()
        if options.state.exists():
            self._restore(options.state)

    def connect(self) -> None:
        """Connect the client in a thread of its own, which passes on what arrives."""

        def connected(
            _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any
        ) -> None:
            self.connection += 1
            self.client.subscribe(f"{self.options.prefix}/+/sample", qos=1)
            print(
                f"the broker refused: {reason}" if reason.is_failure else "connected",
                flush=True,
            )

        self.client.on_connect = connected
        self.client.on_message = lambda _client, _data, it: self.inbox.append(
            (self.connection, it)
        )
        self.client.on_publish = lambda _client, _data, mid, *_: self.confirmed.append(
            mid
        )
        self.client.max_inflight_messages_set(10_000)
        if user := os.environ.get("MQTT_USERNAME"):
            self.client.username_pw_set(user, os.environ.get("MQTT_PASSWORD"))
        if self.options.ca:
            self.client.tls_set(str(self.options.ca))
        self.client.connect_async(self.options.broker, self.options.port)
        self.client.loop_start()

    def tick(self) -> None:
        """Process all samples that have arrived."""
        while self.inbox:
            connection, message = self.inbox.popleft()
            self.taken.append((connection, message.mid))
            name = message.topic.removeprefix(f"{self.options.prefix}/").removesuffix(
                "/sample"
            )
            try:
                number, sample = self._parse(message.payload)
                if name not in self.devices:
                    self.devices[name] = Device(self.batch.add())
            except (InputError, StateError) as error:
                self._publish(name, {"error": str(error)})
                continue
            if (
                number > self.devices[name].last
            ):  # else it was redelivered and has its answer
                self.devices[name].last = number
                self.devices[name].waiting.append((number, sample))
        while ready := {
            name: device.waiting.popleft()
            for name, device in self.devices.items()
            if device.waiting
        }:
            self._step(ready)

    def save(self) -> bool:
        """Save the states and acknowledge their samples, once the broker has confirmed
        all answers.
        """
        deadline = time.monotonic() + CONFIRM_SECONDS
        while self.unconfirmed and time.monotonic() < deadline:
            time.sleep(0.001)
            while self.confirmed:
                self.unconfirmed.discard(self.confirmed.popleft())
        if self.taken and not self.unconfirmed:
            with (
                replacing(self.options.state) as temporary,
                temporary.open("wb") as file,
            ):
                np.savez(file, **self._arrays())
            for connection, mid in self.taken:
                if (
                    connection == self.connection
                ):  # the broker redelivers those of an earlier connection
                    self.client.ack(mid, 1)
            self.taken = []
        return not self.unconfirmed

    def _parse(self, payload: bytes) -> tuple[int, np.ndarray]:
        """Return the number and the sample ``(I,)`` of a message; raises InputError."""
        try:
            document = json.loads(payload)
            number = document["n"]
            sample = self._to_sample(document["x"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            number = sample = None
        if sample is None or type(number) is not int or not 0 <= number < 2**63:
            got = payload[:40].decode(errors="replace")
            kind = "whole" if self.dtype.kind in "iu" else "finite"
            raise InputError(
                f'got {got!r}, expected {{"n": 0 or more, "x": {self.width} {kind}'
                " numbers}"
            )
        return number, sample

    def _to_sample(self, values: Any) -> np.ndarray | None:
        """Return a list of numbers as a sample of the model's dtype; None if they don't
        fit it.
        """
        if not all(type(value) in (int, float) for value in values):
            return None
        if self.dtype.kind in "iu":
            limits = np.iinfo(self.dtype)
            fits = all(
                limits.min <= value <= limits.max and value == int(value)
                for value in values
            )
            numbers = [int(value) for value in values] if fits else []
            sample = np.array(numbers, self.dtype)
        else:
            with np.errstate(over="ignore"):
                sample = np.array(values, np.float64).astype(self.dtype)
        is_valid = sample.shape == (self.width,) and np.isfinite(sample).all()
        return sample if is_valid else None

    def _step(self, ready: dict[str, tuple[int, np.ndarray]]) -> None:
        """Process a sample of each device in one call, and answer it. A sample that the
        network refuses, such as an index outside its table, gets an error.
        """
        samples = np.stack([sample for _, sample in ready.values()])
        try:
            sources = [self.devices[name].source for name in ready]
            result = self.batch.step(samples, sources)
        except LstmEdgeError as error:  # no state has changed
            if len(ready) > 1:
                for name, numbered in ready.items():
                    self._step({name: numbered})
                return
            ((name, (number, _)),) = ready.items()
            self._publish(name, {"n": number, "error": str(error)})
            return
        rows = result[self.output] if isinstance(result, dict) else result
        for (name, (number, _)), row in zip(ready.items(), rows, strict=True):
            self._publish(name, {"n": number, **self._describe(row)})

    def _describe(self, result: np.ndarray) -> dict[str, Any]:
        """Return the answer for a device's row of a result; NaN stands for no frame."""
        has_frame = np.isfinite(result).all()
        if self.task is None or not self.task.labels:
            frame = self.model.frames(result)[-1]
            return {"y": frame.tolist() if has_frame else None}
        if not has_frame:
            return NO_FRAME
        answer = self.model.interpret(result)
        return {"label": answer.label, "p": round(answer.probability, 6)}

    def _publish(self, name: str, answer: dict[str, Any]) -> None:
        info = self.client.publish(
            f"{self.options.prefix}/{name}/answer", json.dumps(answer), qos=1
        )
        self.unconfirmed.add(info.mid)

    def _arrays(self) -> dict[str, np.ndarray]:
        states = [
            self.batch.state(device.source).to_bytes()
            for device in self.devices.values()
        ]
        return {
            "identity": np.array(self.model.identity),
            "devices": np.array(list(self.devices)),
            "last": np.array([device.last for device in self.devices.values()]),
            "sizes": np.array([len(state) for state in states]),
            "states": np.frombuffer(b"".join(states), np.uint8),
        }

    def _restore(self, path: Path) -> None:
        """Continue the devices of an earlier process; raises FileFormatError for a
        damaged file, StateError for another model's.
        """
        advice = "move it, or use --state"
        what = f"{path} is not a state of this gateway"
        saved = read_arrays(path, "is not a state of this gateway", advice, _SAVED)
        if str(saved["identity"]) != self.model.identity:
            raise StateError(f"{path} contains another model's states; {advice}")
        with malformed_as(FileFormatError, what, advice):
            sizes = [operator.index(size) for size in saved["sizes"]]
            content = io.BytesIO(saved["states"].astype(np.uint8).tobytes())
            devices = zip(saved["devices"], saved["last"], sizes, strict=True)
            for name, last, size in devices:
                if str(name) in self.devices or last < -1 or size < 0:
                    raise ValueError(f"device {name} with {last} and {size} bytes")
                source = self.batch.add()
                self.batch.restore(source, state_of_bytes(content.read(size))[0])
                self.devices[str(name)] = Device(source, operator.index(last))
            if content.read():
                raise ValueError("there are more states than devices")


def _has_one_float_frame(model: Model, output: str) -> bool:
    """Return True if the main output is floats, of at most one frame per sample."""
    dtypes = {spec.name: np.dtype(spec.dtype) for spec in model.outputs}
    frames = model.manifest.frames_per_unit.get(output, 1)
    return dtypes[output].kind == "f" and frames == 1


def main() -> None:
    """Serve until SIGTERM or Ctrl-C: a tick every 10 ms, a save every second."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--broker", default="localhost")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument(
        "--ca", type=Path, help="use TLS, and trust this certificate authority (PEM)"
    )
    parser.add_argument(
        "--prefix", default="lstm-edge", help="first part of the topics"
    )
    parser.add_argument(
        "--state", type=Path, default=Path("gateway.npz"), help="file for the states"
    )
    parser.add_argument(
        "--devices", type=int, default=1000, help="maximum number of devices"
    )
    options = parser.parse_args()
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        check_target(options.state)
        gateway = Gateway(load(options.model), options)
        gateway.connect()
        due = time.monotonic() + 1
        while not stop.wait(0.01):
            gateway.tick()
            if time.monotonic() >= due:
                gateway.save()
                due = time.monotonic() + 1
        if not gateway.save():
            raise StateError(
                "the broker did not confirm all answers; it redelivers their samples"
            )
        gateway.client.disconnect()
    except LstmEdgeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
