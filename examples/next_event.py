"""Prediction of the next event in a machine's log: tokens, an embedding and an LSTM."""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from to_device import to_device
from torch import nn

from lstm_edge_exporters import ExportConfig
from lstm_edge_exporters.quantization import Samples
from lstm_edge_exporters.render import Axis, Plot, Series, draw_png
from lstm_edge_runtime.manifest import Task

EVENTS = ("start", "fill", "heat", "stir", "drain", "rinse", "stop")
RECIPES = ((0, 1, 2, 3, 3, 4, 6), (0, 1, 3, 2, 3, 4, 5, 6), (0, 5, 4, 1, 2, 2, 4, 6))


def log(rng: np.random.Generator, length: int) -> np.ndarray:
    """Return events of a vat that cooks one recipe after the other, each twice, with a rare stray rinse."""
    events: list[int] = []
    while len(events) < length:
        recipe = RECIPES[rng.integers(len(RECIPES))]
        for event in (*recipe, *recipe):
            events += [5] * (rng.random() < 0.02) + [event]
    return np.array(events[:length])


class NextEvent(nn.Module):
    """An embedding, an LSTM and a logit for each possible next event, at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.events = nn.Embedding(len(EVENTS), 8)
        self.lstm = nn.LSTM(8, 32, batch_first=True)
        self.head = nn.Linear(32, len(EVENTS))

    def forward(self, event: torch.Tensor) -> torch.Tensor:
        """Return the logits of the next event at each step."""
        return self.head(self.lstm(self.events(event))[0])


def main(folder: Path, steps: int = 500) -> None:
    """Train, export, validate, quantize, stream and plot; write all files to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    logs = torch.from_numpy(np.stack([log(rng, 80) for _ in range(120)]))
    net = NextEvent()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(steps):
        rows = logs[torch.randint(0, 100, (16,))]
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).backward()
        optimizer.step()
    net.eval()
    now, after = logs[100:, :-1], logs[100:, 1:]
    right = (net(now).argmax(dim=2) == after).float().mean()
    print(f"train: the next event is predicted in {right:.1%} of the cases, in 20 logs it never saw")
    pairs = np.zeros((len(EVENTS), len(EVENTS)), int)
    np.add.at(pairs, (logs[:100, :-1], logs[:100, 1:]), 1)
    for name, guess in (
        ("most frequent event", pairs.sum(axis=0).argmax()),
        ("bigram", pairs.argmax(axis=1)[now]),
    ):
        print(f"baseline: {name} {np.mean(guess == after.numpy()):.1%}")

    task = Task("classification", "logits", EVENTS)
    config = ExportConfig(inputs={"event": ("N", "L")}, outputs=("logits",), task=task)
    samples = Samples({"event": logs[100:].numpy()})
    model = to_device(net, logs[:3, :5], config, samples, folder)

    events = log(np.random.default_rng(3), 60)
    stream, predicted, surprise = model.stream(), [], []
    for now, after in pairwise(events):
        logits = stream.step(now)
        predicted.append(int(logits.argmax()))
        surprise.append(float(np.log(np.exp(logits - logits.max()).sum()) - (logits[after] - logits.max())))
    right, most = np.mean(np.array(predicted) == events[1:]), int(np.argmax(surprise))
    surprising = EVENTS[events[most + 1]]
    print(f"stream: {len(predicted)} events, {right:.0%} predicted right; most surprising: {surprising}")

    time = list(range(1, len(events)))
    happened = Series("happened", time, events[1:].tolist(), "marks", "blue")
    before = Series("predicted one event before", time, predicted, "points", "orange")
    surprises = Series("", time, surprise)
    plots = [
        Plot("events", "The log of a vat", (happened, before), Axis("event"), Axis(rows=EVENTS)),
        Plot("surprise", "Surprise: -log of the probability", (surprises,), Axis("event")),
    ]
    (folder / "next_event.png").write_bytes(draw_png(plots, stacked=True))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples-out/next_event"))
