"""An MQTT gateway: devices publish samples to a broker, and each sample is answered with its class.

    pip install "lstm-edge[cpu]" paho-mqtt
    python mqtt_gateway.py har.onnx --broker localhost --state gateway.npz

A device publishes {"n": 41, "x": [0.1, 0.2, ...]} to lstm-edge/DEVICE/sample with QoS 1. Its numbers rise,
over a restart of the device too, and should count up by one: only then can a sample that arrives early wait
for those before it. The gateway publishes {"n": 41, "label": ..., "p": ...} to lstm-edge/DEVICE/answer with
QoS 1, or {"error": ...} for an invalid message. If the network needs later samples, or several for a result,
"of" is the number of the sample that the result is of, and an answer without it has no new result.

Each device has a state of its own. A tick takes one sample of each device that has one, in one call;
samples that came faster follow in order in the same tick. What is acknowledged to the broker is in the
saved state, and what is not is sent again: a sample is answered at least once and advances its device's
state exactly once, whatever is killed. docs/gateway.md says how, and how to set up the broker.
"""

import argparse
import heapq
import json
import math
import os
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt

from lstm_edge_runtime import LstmEdgeError, Model, State, load
from lstm_edge_runtime.errors import InputError, StateError
from lstm_edge_runtime.files import check_target, replacing
from lstm_edge_runtime.hold import NO_LABEL, Hold
from lstm_edge_runtime.prediction import softmax
from lstm_edge_runtime.reading import read_arrays

ROUNDS = 64
"""Maximum number of samples per device and tick."""
REMEMBERED = 256
"""Number of answers kept per device, for redelivered samples."""
STOP_SECONDS = 5
"""Seconds to wait at a stop for the broker to confirm answers."""
NO_ANSWER = {"label": None, "p": None}
"""Label and probability in answers before a device's first confirmed label."""
SAVED = ("identity", "devices", "last", "answers")
"""Keys of a state file in addition to the states."""
Message = tuple[int, int]
"""Connection number, and message id within that connection."""


@dataclass
class Sample:
    """A sample not yet included in its device's state."""

    x: np.ndarray
    """``(I,)``."""
    came: float
    """Time of arrival, on the monotonic clock."""
    messages: list[Message]
    """Messages to acknowledge once it is saved; several if it was redelivered."""


@dataclass
class Device:
    """One source of samples."""

    source: int
    """Its id in the batch."""
    hold: Hold
    """Debounces the label."""
    answers: deque[tuple[int, str]]
    """The newest ones, with the numbers of their samples."""
    last: int = -1
    """The number of the newest sample in its state."""
    counts_by_one: bool = False
    """Whether numbers are consecutive: only then does a missing number mean a missing sample."""
    advanced: float = 0
    """When that was, on the monotonic clock."""
    waiting: dict[int, Sample] = field(default_factory=dict)
    numbers: list[int] = field(default_factory=list)
    """Of ``waiting``, as a heap."""

    def has_gap(self) -> bool:
        """Return whether samples are missing before the first waiting one."""
        return self.counts_by_one and self.numbers[0] != self.last + 1

    def is_ready(self, latest: float) -> bool:
        """Return whether the first waiting sample is next, or the gap is unchanged since ``latest``."""
        if not self.numbers:
            return False
        return not self.has_gap() or max(self.waiting[self.numbers[0]].came, self.advanced) <= latest


@dataclass
class Snapshot:
    """States to save, and messages to acknowledge once they are saved."""

    arrays: dict[str, np.ndarray]
    taken: list[Message]
    unconfirmed: set[int]
    """Answers not yet confirmed by the broker."""


def parse(payload: bytes, width: int) -> tuple[int, np.ndarray]:
    """Return a message's number and its sample ``(width,)``.

    Raises:
        InputError: it is not such a message.
    """
    expected = f'expected {{"n": a whole number from 0, "x": {width} finite numbers}}'
    try:
        document = json.loads(payload)
        number, sample = document["n"], np.array(document["x"], np.float32)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise InputError(f"got {payload[:40].decode(errors='replace')!r}, {expected}") from error
    if type(number) is not int or not 0 <= number < 2**63:
        raise InputError(f"got n = {str(number)[:40]}, {expected}")
    if sample.shape != (width,) or not np.isfinite(sample).all():
        raise InputError(f"got x of shape {sample.shape} or not finite, {expected}")
    return number, sample


class Gateway:
    """Answers samples of many devices; the client's thread only fills ``inbox`` and ``confirmed``."""

    def __init__(
        self,
        model: Model,
        client: mqtt.Client,
        prefix: str,
        path: Path,
        capacity: int,
        wait: float,
        hold: int = 1,
        reset_every: Any = None,
    ) -> None:
        """Restore the saved states, if any; a sample waits up to ``wait`` seconds for earlier ones.

        Raises:
            InputError: ``reset_every`` is not what ``Model.streams`` takes.
            StateError: they are another model's, or more than ``capacity``.
        """
        self.model, self.client, self.prefix, self.path = model, client, prefix, path
        self.wait, self.hold = wait, hold
        every = model.interface.longest_run if reset_every is None else reset_every
        self.batch = model.streams(capacity, reset_every=every)
        self.task = model.manifest and model.manifest.task
        self.output = self.task.output if self.task else model.outputs[0].name
        self.width = model.inputs[0].axes[-1]
        manifest = model.interface
        behind = manifest.delays.get(self.output, 0) * manifest.unit
        self.back = behind // manifest.frames_a_unit.get(self.output, 1)
        self.devices: dict[str, Device] = {}
        self.inbox: deque[tuple[Message, str, bytes]] = deque()
        self.confirmed: deque[int] = deque()
        self.connection = 0
        self.connected_since = math.inf
        self.counts = dict.fromkeys(("samples", "repeated", "missing", "gaps", "bad", "ticks"), 0)
        self._taken: list[Message] = []
        self._unconfirmed: set[int] = set()
        self._snapshot: Snapshot | None = None
        if path.exists():
            self._restore(read_arrays(path, "is not a saved gateway", "name another --state", SAVED))

    def tick(self) -> None:
        """Process arrived samples: one per device in each call, until none is waiting."""
        while self.inbox:
            self._receive(*self.inbox.popleft())
        latest = time.monotonic() - self.wait
        if self.connected_since > latest:  # missing samples could not arrive
            latest = -math.inf
        for _ in range(ROUNDS):
            ready = [(name, device) for name, device in self.devices.items() if device.is_ready(latest)]
            if not ready:
                break
            self._step(ready)
        self._save_confirmed()

    def stop(self, seconds: float) -> int:
        """Save the current states, and acknowledge the samples in them; waiting samples are redelivered.

        Returns:
            How many messages are in states that could not be saved: the broker did not confirm their answers
            within ``seconds``.
        """
        deadline = time.monotonic() + seconds
        while (self._snapshot or self._taken) and time.monotonic() < deadline:
            self.take_snapshot()
            self._save_confirmed()
            time.sleep(0.01)
        return len(self._taken) + (len(self._snapshot.taken) if self._snapshot else 0)

    def _save_confirmed(self) -> None:
        while self.confirmed:
            confirmed = self.confirmed.popleft()
            self._unconfirmed.discard(confirmed)
            if self._snapshot:
                self._snapshot.unconfirmed.discard(confirmed)
        if self._snapshot and not self._snapshot.unconfirmed:
            self._save(self._snapshot)
            self._snapshot = None

    def take_snapshot(self) -> None:
        """Copy the current states; ``tick`` saves them when all answers up to here are confirmed."""
        if self._snapshot is None and self._taken:
            self._snapshot = Snapshot(self._states(), self._taken, set(self._unconfirmed))
            self._taken = []

    def _receive(self, message: Message, name: str, payload: bytes) -> None:
        try:
            number, sample = parse(payload, self.width)
            device = self._device(name)
        except (InputError, StateError) as error:
            self.counts["bad"] += 1
            self._publish(name, json.dumps({"error": str(error)}))
            self._taken.append(message)
            return
        if number > device.last and number not in device.waiting:
            device.waiting[number] = Sample(sample, time.monotonic(), [message])
            heapq.heappush(device.numbers, number)
            return
        self.counts["repeated"] += 1
        if number > device.last:  # already waiting
            device.waiting[number].messages.append(message)
            return
        answer = next((text for known, text in device.answers if known == number), None)
        if answer is None:
            self.counts["missing"] += 1
            answer = json.dumps({"n": number, "error": f"it came after sample {device.last}"})
        self._publish(name, answer)
        self._taken.append(message)

    def _device(self, name: str) -> Device:
        if name not in self.devices:
            answers: deque[tuple[int, str]] = deque(maxlen=max(REMEMBERED, self.back))
            self.devices[name] = Device(self.batch.add(), Hold(self.hold), answers)
        return self.devices[name]

    def _step(self, ready: list[tuple[str, Device]]) -> None:
        """Process the oldest sample of each device in one call, and answer it."""
        for name, device in ready:
            if device.has_gap():
                self._report_gap(name, device)
        samples = [device.waiting[device.numbers[0]].x for _, device in ready]
        result = self.batch.step(np.stack(samples), [device.source for _, device in ready])
        rows = result[self.output] if isinstance(result, dict) else result
        values = np.stack([np.atleast_2d(row)[-1] for row in rows])  # of one output per layer, the top one's
        self.counts["ticks"] += 1
        self.counts["samples"] += len(ready)
        for (name, device), row, body in zip(ready, values, self._describe(values, ready), strict=True):
            number = heapq.heappop(device.numbers)
            answer = json.dumps({"n": number, **self._of(device, number, row), **body})
            device.counts_by_one |= number == device.last + 1
            device.last, device.advanced = number, time.monotonic()
            device.answers.append((number, answer))
            self._publish(name, answer)
            self._taken += device.waiting.pop(number).messages

    def _of(self, device: Device, number: int, row: np.ndarray) -> dict[str, int]:
        """Return which sample a frame is of; nothing without one, or if each result is of its own sample."""
        late = self.model.interface.stream is not None and len(device.answers) >= self.back
        if not late or np.isnan(row).any():
            return {}
        return {"of": device.answers[-self.back][0] if self.back else number}

    def _report_gap(self, name: str, device: Device) -> None:
        self.counts["gaps"] += 1
        first, last = device.last + 1, device.numbers[0] - 1
        print(
            f"device {json.dumps(name)}: samples {first} to {last} did not come within {self.wait:g} s",
            file=sys.stderr,
            flush=True,
        )

    def _describe(self, values: np.ndarray, ready: list[tuple[str, Device]]) -> list[dict[str, Any]]:
        if not self.task or self.task.kind != "classification":
            return [{"y": None if np.isnan(row).any() else row.tolist()} for row in values]
        names, answers = self.task.labels or list(map(str, range(values.shape[1]))), []
        for row, (_, device) in zip(softmax(values).tolist(), ready, strict=True):
            if not np.isnan(row).any():  # else the stream is behind, and has no frame yet
                device.hold.take(row.index(max(row)))
            label = device.hold.label
            p = None if np.isnan(row[label]) else round(row[label], 6)
            answers.append({"label": names[label], "p": p} if label >= 0 else NO_ANSWER)
        return answers

    def _publish(self, name: str, text: str) -> None:
        info = self.client.publish(f"{self.prefix}/{name}/answer", text, qos=1)
        self._unconfirmed.add(info.mid)

    def _states(self) -> dict[str, np.ndarray]:
        names = list(self.devices)
        states = [self.batch.state(device.source) for device in self.devices.values()]
        answers = json.dumps([list(device.answers) for device in self.devices.values()])
        return {
            "identity": np.array(self.model.identity),
            "devices": np.array(names, dtype=np.str_),
            "last": np.array([device.last for device in self.devices.values()], np.int64),
            "answers": np.frombuffer(answers.encode(), np.uint8),
            "age": np.array([state.age for state in states], np.int64),
            "hold": np.array([device.hold.saved for device in self.devices.values()], np.int64),
            "rest": np.concatenate(
                [
                    np.zeros(0, np.float32),
                    *(array.ravel() for state in states for array in state.rest.values()),
                ]
            ),
        } | {
            f"state/{spec.input}": np.stack([state[spec.input] for state in states])
            for spec in self.model.interface.streaming.states
            if states
        }

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        if str(arrays["identity"]) != self.model.identity:
            raise StateError(f"{self.path} contains another model's states; use another --state, or move it")
        answers = json.loads(arrays["answers"].tobytes())
        count = len(arrays["devices"])  # older files have neither ages nor labels
        ages, holds = arrays.get("age", [0] * count), arrays.get("hold", [NO_LABEL] * count)
        specs = self.model.interface.streaming.states
        rests, first = arrays.get("rest", np.zeros(0, np.float32)), 0
        for place, (name, last) in enumerate(zip(arrays["devices"], arrays["last"], strict=True)):
            device = self._device(str(name))
            state = {spec.input: arrays[f"state/{spec.input}"][place] for spec in specs}
            age = int(ages[place])
            count = age % self.model.interface.unit  # samples that don't fill a unit
            rest = {self.model.inputs[0].name: self._samples(rests[first:], count)} if count else {}
            first += count * self.width
            self.batch.restore(device.source, State(state, self.model.identity, age, rest))
            device.hold.restore(*map(int, holds[place]))
            device.last = int(last)
            device.answers.extend((int(number), text) for number, text in answers[place])
            numbers = [number for number, _ in device.answers]
            device.counts_by_one = any(after == before + 1 for before, after in pairwise(numbers))

    def _samples(self, values: np.ndarray, count: int) -> np.ndarray:
        """Return the first ``count`` samples in the axes of the input."""
        sizes = {self.model.interface.batch: 1, self.model.interface.sequence: count}
        shape = [sizes.get(axis, axis) for axis in self.model.inputs[0].axes]
        return values[: count * self.width].reshape(shape)

    def _save(self, snapshot: Snapshot) -> None:
        with replacing(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, **snapshot.arrays)
        for connection, mid in snapshot.taken:
            if connection == self.connection:  # the broker redelivers those of an earlier connection
                self.client.ack(mid, 1)


def connect(options: argparse.Namespace) -> mqtt.Client:
    """Return a client with a persistent session, not yet connected."""
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2, client_id=options.name, clean_session=False, manual_ack=True
    )
    client.max_inflight_messages_set(10_000)
    client.reconnect_delay_set(1, 30)
    if user := os.environ.get("MQTT_USERNAME"):
        client.username_pw_set(user, os.environ.get("MQTT_PASSWORD"))
    if options.ca:
        client.tls_set(str(options.ca))
    return client


def attach(gateway: Gateway) -> None:
    """Let the client's thread pass on arriving messages."""
    client, prefix = gateway.client, gateway.prefix

    def connected(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            print(f"the broker refused the connection: {reason}", file=sys.stderr, flush=True)
            return
        gateway.connected_since = time.monotonic()
        client.subscribe(f"{prefix}/+/sample", qos=1)
        print("connected", flush=True)

    def disconnected(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        gateway.connection += 1
        gateway.connected_since = math.inf
        print(f"disconnected: {reason}", file=sys.stderr, flush=True)

    def arrived(_client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        device = message.topic.removeprefix(f"{prefix}/").removesuffix("/sample")
        gateway.inbox.append(((gateway.connection, message.mid), device, message.payload))

    client.on_connect, client.on_disconnect, client.on_message = connected, disconnected, arrived
    client.on_publish = lambda _client, _data, mid, _reason, _properties: gateway.confirmed.append(mid)


def serve(gateway: Gateway, options: argparse.Namespace, stop: Event) -> bool:
    """Run ticks until ``stop`` is set, then save; return whether the states are saved."""
    host, _, port = options.broker.partition(":")
    gateway.client.connect_async(host, options.port or int(port or (8883 if options.ca else 1883)))
    gateway.client.loop_start()
    save, report = time.monotonic() + options.save, time.monotonic() + 10
    due = time.monotonic()
    while not stop.is_set():
        gateway.tick()
        now = time.monotonic()
        if now >= save:
            gateway.take_snapshot()
            save = now + options.save
        if now >= report:
            print(json.dumps({"devices": len(gateway.devices), **gateway.counts}), flush=True)
            report = now + 10
        due = max(due + options.tick / 1000, now)
        stop.wait(due - now)
    unsaved = gateway.stop(STOP_SECONDS)
    gateway.client.disconnect()
    gateway.client.loop_stop()
    if unsaved:
        print(
            f"error: {unsaved} messages are not in {options.state}: the broker did not confirm their answers "
            f"within {STOP_SECONDS} s; it keeps them for the next start",
            file=sys.stderr,
        )
    return not unsaved


def main() -> int:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--broker", default="localhost", help="host, or host:port  [default: localhost]")
    parser.add_argument("--port", type=int, help="of the broker  [default: 1883, with --ca 8883]")
    parser.add_argument("--ca", type=Path, help="use TLS, and trust this certificate authority (PEM)")
    parser.add_argument("--prefix", default="lstm-edge", help="topic prefix  [default: lstm-edge]")
    parser.add_argument("--name", default="lstm-edge-gateway", help="client id of the persistent session")
    parser.add_argument("--state", type=Path, default=Path("gateway.npz"), help="file for the states")
    parser.add_argument(
        "--devices", type=int, default=1000, help="maximum number of devices  [default: 1000]"
    )
    parser.add_argument("--tick", type=float, default=10, help="milliseconds between ticks  [default: 10]")
    parser.add_argument(
        "--wait",
        type=float,
        default=5,
        help="seconds to wait for missing earlier samples; 0 if not numbered by one  [default: 5]",
    )
    parser.add_argument("--save", type=float, default=1, help="seconds between saves  [default: 1]")
    parser.add_argument(
        "--hold",
        type=int,
        default=1,
        help="number of samples for which a device's new label must stay the same  [default: 1]",
    )
    parser.add_argument(
        "--reset-every",
        type=lambda text: text if text == "never" else int(text),
        metavar="N|never",
        help="number of samples after which a device's state is reset  [default: as in training]",
    )
    options = parser.parse_args()
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        check_target(options.state)
        model = load(options.model, device="cpu")
        if len(model.inputs) != 1 or not isinstance(model.inputs[0].axes[-1], int):
            raise InputError("expected a file with one input of a fixed number of features")
        gateway = Gateway(
            model,
            connect(options),
            options.prefix,
            options.state,
            options.devices,
            options.wait,
            options.hold,
            options.reset_every,
        )
        if options.reset_every is None and gateway.batch.reset_every:
            print(
                f"note: states are reset every {gateway.batch.reset_every} steps, as far as training windows "
                "or the network's positions go; --reset-every never carries states on",
                file=sys.stderr,
            )
        attach(gateway)
        saved = serve(gateway, options, stop)
    except LstmEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if saved else 1


if __name__ == "__main__":
    sys.exit(main())
