"""An MQTT gateway: devices publish samples to a broker, and each sample is answered
with its class.

    python mqtt_gateway.py har.onnx --broker localhost --state gateway.npz

A device publishes {"n": 41, "x": [0.1, 0.2, ...]} to lstm-edge/DEVICE/sample with QoS
1, with numbers that increase. The gateway publishes {"n": 41, "label": ..., "p": ...}
to lstm-edge/DEVICE/answer, {"n": 41, "y": [...]} for a file without labels, or
{"error": ...}. Results are null until a network's delay is over.

Each device has its own state. A sample is acknowledged after its answer is confirmed
and the states that include it are saved; the broker redelivers all others.
docs/deploy.md has the guarantees.
"""

import argparse
import json
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

from lstm_edge_runtime import LstmEdgeError, Model, State, load
from lstm_edge_runtime.errors import InputError, StateError
from lstm_edge_runtime.files import check_target, replacing
from lstm_edge_runtime.results import softmax

NO_FRAME = {"label": None, "p": None}
CONFIRM_SECONDS = (
    5  # maximum time to wait for the confirmation of answers before a save is postponed
)


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
        inputs = model.inputs
        interface = model.manifest
        if (
            len(inputs) != 1
            or not isinstance(inputs[0].axes[-1], int)
            or interface.unit > 1
        ):
            raise InputError(
                "expected a file with one input of a fixed number of features, and a"
                " unit of 1"
            )
        version = mqtt.CallbackAPIVersion.VERSION2
        name = f"{options.prefix}-gateway"
        self.client = mqtt.Client(
            version, client_id=name, clean_session=False, manual_ack=True
        )
        self.model = model
        self.options = options
        self.batch = model.streams(options.devices, reset_every=interface.reset_every)
        self.task = interface.task
        self.width = inputs[0].axes[-1]
        self.output = self.task.output if self.task else model.outputs[0].name
        self.devices: dict[str, Device] = {}
        self.connection = 0
        self.inbox = deque[Any]()
        self.confirmed = deque[int]()
        self.taken = list[tuple[int, int]]()
        self.unconfirmed = set[int]()
        if options.state.exists():
            self._restore(dict(np.load(options.state)))

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
            name: device for name, device in self.devices.items() if device.waiting
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
        try:
            document = json.loads(payload)
            number = document["n"]
            sample = np.array(document["x"], np.float32)
            valid = (
                type(number) is int
                and 0 <= number < 2**63
                and sample.shape == (self.width,)
            )
            if valid and np.isfinite(sample).all():
                return number, sample
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            pass
        got = payload[:40].decode(errors="replace")
        raise InputError(
            f'got {got!r}, expected {{"n": 0 or more, "x": {self.width} finite'
            " numbers}"
        )

    def _step(self, ready: dict[str, Device]) -> None:
        """Process the first waiting sample of each device in one call, and answer
        it.
        """
        numbers, samples = zip(
            *(device.waiting.popleft() for device in ready.values()), strict=True
        )
        result = self.batch.step(
            np.stack(samples), [device.source for device in ready.values()]
        )
        rows = result[self.output] if isinstance(result, dict) else result
        for name, number, row in zip(ready, numbers, rows, strict=True):
            self._publish(name, {"n": number, **self._describe(np.atleast_2d(row)[-1])})

    def _describe(self, values: np.ndarray) -> dict[str, Any]:
        complete = not np.isnan(values).any()
        if self.task is None or not self.task.labels:
            return {"y": values.tolist() if complete else None}
        p = softmax(values[None])[0]
        best = int(values.argmax())
        return (
            {"label": self.task.labels[best], "p": round(float(p[best]), 6)}
            if complete
            else NO_FRAME
        )

    def _publish(self, name: str, answer: dict[str, Any]) -> None:
        info = self.client.publish(
            f"{self.options.prefix}/{name}/answer", json.dumps(answer), qos=1
        )
        self.unconfirmed.add(info.mid)

    def _arrays(self) -> dict[str, np.ndarray]:
        states = [self.batch.state(device.source) for device in self.devices.values()]
        return {
            "identity": np.array(self.model.identity),
            "devices": np.array(list(self.devices)),
            "last": np.array([device.last for device in self.devices.values()]),
            "age": np.array([state.age for state in states]),
        } | {
            f"state/{name}": np.stack([state[name] for state in states])
            for name in (states or [{}])[0]
        }

    def _restore(self, saved: dict[str, np.ndarray]) -> None:
        if str(saved["identity"]) != self.model.identity:
            raise StateError(
                f"{self.options.state} contains another model's states; move it, or use"
                " --state"
            )
        keys = [key for key in saved if key.startswith("state/")]
        for row, name in enumerate(saved["devices"]):
            source = self.batch.add()
            arrays = {key.removeprefix("state/"): saved[key][row] for key in keys}
            self.batch.restore(
                source, State(arrays, self.model.identity, int(saved["age"][row]))
            )
            self.devices[str(name)] = Device(source, int(saved["last"][row]))


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
