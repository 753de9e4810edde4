"""A gateway: many sources over TCP, one onnxruntime call for all of them, one result line per sample.

    python examples/gateway.py har.onnx --port 7070
    echo 0.1,0.2,0.3,0,0,0 | nc localhost 7070

Each connection is a source with a state of its own. Whatever has arrived since the last call is taken in one
tick, at most one sample a source, so that the cost grows with the calls and not with the sources. The queue
between the sockets and the model is bounded: a source that sends faster than the model computes is held back
by TCP, and memory stays flat.

A line is "label,logit". Of a file whose results come later, or once for several samples, it is
"label,logit,number", with the number of the sample, from 1, that a new result is of; both are empty without
one.
"""

import argparse
import asyncio
import contextlib
import sys
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lstm_edge_runtime import Model, load
from lstm_edge_runtime.hold import Hold


class Waiting(NamedTuple):
    """A sample waiting for its tick."""

    source: int
    hold: Hold
    number: int
    """Of the sample in its connection, from 1."""
    sample: np.ndarray
    writer: asyncio.StreamWriter
    answered: asyncio.Future[None]


class Gateway:
    """Serves sources of one model; every tick processes one waiting sample of each."""

    def __init__(
        self, model: Model, capacity: int, waiting: int, hold: int = 1, reset_every: Any = None
    ) -> None:
        """Accept at most ``capacity`` sources and ``waiting`` queued samples.

        A label counts once it has been the same for ``hold`` samples of its source; ``reset_every`` is as
        ``Model.streams`` takes it, None as the file was trained.
        """
        every = model.interface.longest_run if reset_every is None else reset_every
        self.batch = model.streams(capacity, reset_every=every)
        self.capacity, self.hold = capacity, hold
        self.ticks = 0
        self._features = model.inputs[0].axes[-1]
        task = model.manifest and model.manifest.task
        self._labels = task.labels if task else ()
        manifest = model.interface
        self._output, self._late = task.output if task else model.outputs[0].name, manifest.stream is not None
        behind = manifest.delays.get(self._output, 0) * manifest.unit
        self._back = behind // manifest.frames_a_unit.get(self._output, 1)
        self._queue: asyncio.Queue[Waiting] = asyncio.Queue(waiting)
        self._connected = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one source's lines until it disconnects; its waiting samples are still answered."""
        if self._connected == self.capacity:
            writer.write(b"error: the gateway is full; try again later\n")
            with contextlib.suppress(ConnectionError):
                writer.write_eof()
                await reader.read(
                    1 << 16
                )  # unread data would reset the connection before the message arrives
            writer.close()
            return
        self._connected += 1
        source, hold = self.batch.add(), Hold(self.hold)
        last = asyncio.get_running_loop().create_future()
        last.set_result(None)
        number = 0
        try:
            async for line in reader:
                sample = self._parse(line)
                if sample is None:
                    writer.write(f"error: expected {self._features} numbers\n".encode())
                    continue
                last, number = asyncio.get_running_loop().create_future(), number + 1
                await self._queue.put(
                    Waiting(source, hold, number, sample, writer, last)
                )  # waits if the queue is full
                await writer.drain()  # and if the source does not read its results
            await last  # a source's samples are answered in order
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        except (ConnectionError, ValueError):
            await last
        except asyncio.CancelledError:
            pass  # the gateway stops
        finally:
            self.batch.remove(source)
            self._connected -= 1
            writer.close()

    def _line(self, label: int, logits: np.ndarray, number: int) -> str:
        frame = not np.isnan(logits).any()  # else the stream is behind, or this sample completes none
        of = f",{number - self._back if frame else ''}" if self._late else ""
        if label < 0:  # no label is confirmed yet
            return f",{of}\n"
        logit = f"{logits[label]:.6g}" if frame else ""
        return f"{self._labels[label] if self._labels else label},{logit}{of}\n"

    def _parse(self, line: bytes) -> np.ndarray | None:
        try:
            sample = np.array(line.decode().split(","), np.float32)
        except ValueError:
            return None
        return sample if sample.shape == (self._features,) and np.isfinite(sample).all() else None

    async def compute(self) -> None:
        """Run ticks until canceled: one call for all waiting samples, one per source."""
        later: deque[Waiting] = deque()
        while True:
            tick: dict[int, Waiting] = {}
            arrived, later = later, deque()
            if not arrived:
                arrived.append(await self._queue.get())
            while not self._queue.empty() and len(arrived) < self._queue.maxsize:
                arrived.append(self._queue.get_nowait())
            for each in arrived:  # in order: a second sample of a source waits
                if each.source in tick:
                    later.append(each)
                else:
                    tick[each.source] = each
            results = self.batch.step(np.stack([each.sample for each in tick.values()]), list(tick))
            self.ticks += 1
            outputs = results[self._output] if isinstance(results, dict) else results
            for each, rows in zip(tick.values(), outputs, strict=True):
                if not each.writer.is_closing():
                    logits = np.atleast_2d(rows)[-1]  # of one output per layer, the top one's
                    if not np.isnan(logits).any():  # else the stream is behind, and has no frame yet
                        each.hold.take(int(logits.argmax()))
                    each.writer.write(self._line(each.hold.label, logits, each.number).encode())
                if not each.answered.done():  # canceled when the gateway stops
                    each.answered.set_result(None)
            await asyncio.sleep(0)  # let the sockets run between ticks


async def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7070, help="port; 0 for any free port")
    parser.add_argument("--sources", type=int, default=1000, help="maximum number of sources")
    parser.add_argument("--waiting", type=int, default=2000, help="maximum number of queued samples")
    parser.add_argument(
        "--hold", type=int, default=1, help="samples for which a new label must stay the same"
    )
    parser.add_argument(
        "--reset-every",
        type=lambda text: text if text == "never" else int(text),
        metavar="N|never",
        help="number of samples after which a source's state is reset  [default: as in training]",
    )
    options = parser.parse_args()
    model = load(options.model, device="cpu")
    gateway = Gateway(model, options.sources, options.waiting, options.hold, options.reset_every)
    if options.reset_every is None and gateway.batch.reset_every:
        print(
            f"note: states are reset every {gateway.batch.reset_every} steps, as far as training windows "
            "or the network's positions go; --reset-every never carries states on",
            file=sys.stderr,
        )
    server = await asyncio.start_server(gateway.serve, options.host, options.port)
    print(f"listening on port {server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await gateway.compute()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
