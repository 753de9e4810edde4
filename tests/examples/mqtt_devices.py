"""Simulated devices: real MQTT connections, all in one thread, each sending its samples
by QoS 1."""

import contextlib
import json
import selectors
import time

import numpy as np
import paho.mqtt.client as mqtt

__all__ = ["Devices"]


class Devices:
    """Sends ``samples (devices, L, I)`` and keeps every answer."""

    def __init__(self, port: int, samples: np.ndarray, *, rate: float) -> None:
        """Connect one client per device; ``rate`` is in samples a second."""
        self.samples = samples
        self.interval = 1 / rate
        self._port = port
        self.answers: list[dict[int, list[str]]] = [{} for _ in samples]
        self.errors: list[str] = []
        self._sent = [0] * len(samples)
        self._due = [
            time.monotonic() + index / len(samples) * self.interval
            for index in range(len(samples))
        ]
        self._again = [0.0] * len(samples)
        self._selector = selectors.DefaultSelector()
        self._clients = [self._client(device) for device in range(len(samples))]

    @property
    def answered(self) -> int:
        """Number of samples that have at least one answer."""
        return sum(map(len, self.answers))

    def run(self, until: int, timeout: float) -> None:
        """Send and receive until so many samples are answered."""
        deadline = time.monotonic() + timeout
        while self.answered < until:
            assert time.monotonic() < deadline, (
                f"{self.answered} of {until} answered; {self.errors[:3]}"
            )
            now = time.monotonic()
            for device, client in enumerate(self._clients):
                self._keep_up(device, client, now)
            for key, _ in self._selector.select(0.01):
                key.data.loop_read()

    def close(self) -> None:
        """Leave the broker."""
        for client in self._clients:
            client.disconnect()
            client.loop_write()

    def _client(self, device: int) -> mqtt.Client:
        client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=f"device-{device}",
            clean_session=False,
        )
        client.on_connect = lambda *_: client.subscribe(
            f"lstm-edge/d{device}/answer", qos=1
        )
        client.on_message = lambda _client, _data, message: self._answered(
            device, message.payload.decode()
        )
        client.on_socket_open = lambda _client, _data, sock: self._selector.register(
            sock, selectors.EVENT_READ, client
        )
        client.on_socket_close = lambda _client, _data, sock: self._selector.unregister(
            sock
        )
        return client

    def _answered(self, device: int, text: str) -> None:
        document = json.loads(text)
        if "error" in document:
            self.errors.append(text)
        else:
            self.answers[device].setdefault(document["n"], []).append(text)

    def _keep_up(self, device: int, client: mqtt.Client, now: float) -> None:
        if client.socket() is None:
            if now >= self._again[device]:
                self._again[device] = now + 0.3
                with contextlib.suppress(OSError):
                    client.connect("127.0.0.1", self._port)
            return
        number = self._sent[device]
        if (
            number < len(self.samples[device])
            and now >= self._due[device]
            and client.is_connected()
        ):
            document = {"n": number, "x": self.samples[device][number].tolist()}
            client.publish(f"lstm-edge/d{device}/sample", json.dumps(document), qos=1)
            self._sent[device] += 1
            self._due[device] += self.interval
        if client.want_write():
            client.loop_write()
        client.loop_misc()
