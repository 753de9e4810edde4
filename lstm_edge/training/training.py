"""A training: epochs, the best of them, and the state to resume from."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lstm_edge_exporters.weights import read_tensors, write_tensors
from lstm_edge_runtime.errors import FileFormatError, InputError
from lstm_edge_runtime.files import malformed_as
from lstm_edge_runtime.manifest import Trained

from ..checkpoint import Run
from ..data.config import DataConfig
from ..data.series import SETS, Data, are_joined, windows_of
from ..data.split import Split
from ..pruning import density_after, prune
from ..run_files import RESUME, check_run_folder
from .batches import (
    STREAM_WINDOWS,
    Batch,
    chunk_batches,
    shuffled_segments,
    stream_batches,
    window_batches,
)
from .config import UPDATES, TrainConfig
from .epoch import evaluate, train_epoch
from .network import loss_of, new_network
from .scoring import advice, score_set

_LEAST_UPDATES = 20
"""Minimum number of optimizer steps per epoch; small sets are passed over repeatedly."""
_STREAMS = 0.5
"""Fraction of the rows of a batch that carry their states."""
_RESTART = 0.1
"""Probability of a reset of a row that carries its states."""
_PICKS = 16
"""Number of steps of each chunk at which the loss is computed."""
_PATIENCE = 0.3
"""Fraction of the epochs after which training stops without improvement."""
_WEIGHT_DECAY = 0.05


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch."""

    number: int
    """Number of the epoch, from 1."""
    loss: float
    """Training loss: cross entropy, or squared error relative to the variance."""
    streams: float | None
    """Validation loss with states carried; None for a bidirectional network."""
    windows: float | None
    """Validation loss of windows from reset; None if the loss of streams is too high
    for the best epoch."""
    score: float
    """Accuracy on the validation set as a device runs it, or RMSE relative to the
    standard deviation."""
    best: int
    """Number of the epoch with the lowest validation loss so far."""


class Training:
    """A network in training; all randomness of an epoch follows from the seed and its
    number.
    """

    def __init__(self, split: Split, options: DataConfig, config: TrainConfig) -> None:
        """Prepare the network, its loss and its optimizer; a seed gives the same
        network.
        """
        self.split = split
        self.options = options
        self.config = config
        train = split.data.of("train")
        samples = len(windows_of(train, options.window, options.stride))
        self.updates = max(_LEAST_UPDATES, math.ceil(samples / config.batch_size))
        self.epochs = config.epochs or math.ceil(UPDATES / self.updates)
        self.patience = config.patience or math.ceil(_PATIENCE * self.epochs)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.net = new_network(
                split.data, train, options=options, config=config
            ).to(config.device)
        self.loss = loss_of(self.net, split.data, train=train, config=config)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(),
            lr=config.learning_rate,
            weight_decay=_WEIGHT_DECAY,
            foreach=True,
        )
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.resume_tensors: dict[str, Tensor] = {}
        """All tensors that the next epoch follows from, as they were after the last
        whole epoch."""

    @property
    def stopped(self) -> str:
        """Why there is no next epoch: ``epochs`` or ``patience``; empty while there is
        one.
        """
        if self.history and len(self.history) - self.history[-1].best >= self.patience:
            return "patience"
        return "epochs" if len(self.history) >= self.epochs else ""

    def run_epoch(self) -> Epoch:
        """Train for one epoch and validate; raises InputError for a loss that is not
        finite.
        """
        config = self.config
        number = len(self.history) + 1
        rows = self.config.batch_size
        streams = torch.arange(rows) >= round(rows * (1 - _STREAMS))
        keep = streams * (1 - _RESTART) if config.carries else torch.zeros(rows)
        if self.history:
            self._prune(number - 1)  # the masks of a training that is resumed
        with torch.random.fork_rng():
            torch.manual_seed(config.seed * 1_000_003 + number)
            batches = islice(self._batches(number), self.updates)
            loss = train_epoch(
                self.net,
                batches,
                self.optimizer,
                loss=self.loss,
                carry=keep,
                max_steps=_PICKS,
            )
            self._prune(number)
            epoch = self._validated(number, loss)
        net = self.net.state_dict()
        moments = self.optimizer.state_dict()["state"]
        if epoch.best == number:
            self.best = _copy("", net)
        self.resume_tensors = _copy("net/", net) | {
            f"best/{name}": tensor for name, tensor in self.best.items()
        }
        for key, tensors in moments.items():
            self.resume_tensors |= _copy(f"adamw/{key}/", tensors)
        self.history.append(epoch)
        return epoch

    def _prune(self, number: int) -> None:
        """Prune the network as scheduled after an epoch."""
        config = self.config
        if config.is_pruned:
            prune(
                self.net,
                config.density,
                epoch=number,
                epochs=self.epochs,
                block=config.block,
            )

    def _has_final_density(self, number: int) -> bool:
        """True if the network has its final density after an epoch."""
        density = self.config.density
        return density_after(density, number, self.epochs) == density

    def _batches(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, in an order that follows from the seed and its
        number.
        """
        options = self.options
        config = self.config
        series = self.split.data.of("train")
        window = options.window
        segment = window
        if not config.carries and options.stride:
            series = windows_of(series, window, options.stride)
            segment = None  # a window is a series of its own
        random = np.random.default_rng((config.seed, number))
        order = shuffled_segments(series, segment, size=STREAM_WINDOWS, rng=random)
        joined = are_joined(self.split.data.series, window)
        return chunk_batches(
            order,
            config.batch_size,
            chunk=window,
            window=window,
            joined=joined,
            drop_last=True,
        )

    def _validated(self, number: int, loss: float) -> Epoch:
        """Return the epoch with its validation losses; raises InputError for a loss
        that is not finite.
        """
        series = self.split.data.of("validation")
        options = self.options
        carries = self.config.carries
        eligible = [
            epoch for epoch in self.history if self._has_final_density(epoch.number)
        ]
        lowest = min(map(self._criterion, eligible), default=math.inf)
        torch.manual_seed(0)  # the same steps in every epoch
        streams = windows = None
        score = 0.0
        if not self.config.bidirectional:
            batches = stream_batches(series, options.window)
            result = evaluate(
                self.net, batches, loss=self.loss, carry=1.0, max_steps=_PICKS
            )
            streams = result.loss
            score = result.accuracy
        if not carries or streams is None or streams < lowest:
            batches = window_batches(series, options.window, options.stride)
            result = evaluate(
                self.net, batches, loss=self.loss, carry=0.0, max_steps=_PICKS
            )
            windows = result.loss
            score = score if carries else result.accuracy
        if not math.isfinite(sum(value or 0.0 for value in (loss, streams, windows))):
            advice = f"give a lower --learning-rate than {self.config.learning_rate}"
            raise InputError(f"the loss is {loss} in epoch {number}; {advice}")
        if not self.split.data.classes:
            score = math.sqrt((streams if carries else windows) or 0.0)
        epoch = Epoch(
            number=number,
            loss=loss,
            streams=streams,
            windows=windows,
            score=score,
            best=number,
        )
        if self._criterion(epoch) < lowest:
            return epoch
        return replace(epoch, best=self.history[-1].best)

    def _criterion(self, epoch: Epoch) -> float:
        """Return the validation loss that selects the best epoch: of windows, or of the
        worse of both.
        """
        if epoch.windows is None:
            return math.inf
        if self.config.carries:
            return max(epoch.windows, epoch.streams or 0.0)
        return epoch.windows

    def save(self, folder: Path) -> None:
        """Write all that the next epoch follows from, as it was after the last whole
        epoch.
        """
        facts = {
            "data": asdict(self.options),
            "train": asdict(self.config),
            "series": _hash(self.split.data),
        }
        write_tensors(
            folder / RESUME,
            self.resume_tensors,
            facts | {"history": [*map(asdict, self.history)]},
        )

    def resume(self, folder: Path) -> None:
        """Go on from what ``save`` wrote; raises InputError for other data or
        options.
        """
        saved = read_state(folder)
        tensors = saved.tensors
        facts = saved.facts
        config = replace(
            saved.config, epochs=self.config.epochs, patience=self.config.patience
        )
        is_same_data = facts.get("series") == _hash(self.split.data)
        is_same_config = (saved.data_config, config) == (self.options, self.config)
        if not (is_same_data and is_same_config):
            text = (
                "was trained on other data or with other options; only --epochs and"
                " --patience may change"
            )
            raise InputError(f"{folder} {text}; train into another folder")
        with malformed_as(
            FileFormatError, f"{folder} has no state of a training", "use --overwrite"
        ):
            # both, so that both are checked
            self.net.load_state_dict(_without_prefix(tensors, "best/"))
            self.net.load_state_dict(_without_prefix(tensors, "net/"))
            state = self.optimizer.state_dict()
            indices = state["param_groups"][0]["params"]
            state["state"] = {
                index: _without_prefix(tensors, f"adamw/{index}/") for index in indices
            }
            self.optimizer.load_state_dict(state)
            self.history = [Epoch(**epoch) for epoch in facts["history"]]
            self.best = _without_prefix(tensors, "best/")
            self.resume_tensors = tensors

    def finish(self, stopped: str, file: str) -> Run:
        """Return the best epoch with its scores; its summary is the content of
        ``metrics.json``.
        """
        data = self.split.data
        options = self.options
        config = self.config
        assert data.task is not None
        self.net.load_state_dict(self.best)
        scores = {}
        for name in SETS[1:]:
            scores[name] = score_set(
                self.net, data, name, loss=self.loss, options=options, config=config
            )
        summary = self._summary(stopped, file, scores)
        window = options.window
        lengths = {len(record) for record in data.of("train")}
        if window is None and len(lengths) == 1:
            (window,) = lengths
        reset = 1 - _STREAMS if config.carries else 1.0
        return Run(
            self.net.to("cpu").eval(),
            task=data.task._replace(units=options.units),
            signal=data.signal._replace(window=options.window),
            trained=Trained(carry=config.carries, window=window, reset=reset),
            summary=summary,
        )

    def _summary(
        self, stopped: str, file: str, scores: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the content of ``metrics.json``."""
        data = self.split.data
        assert data.task is not None
        sizes = {name: len(data.of(name)) for name in SETS}
        remarks = advice(data, self.options, config=self.config, sets=scores)
        return {
            "task": data.task.kind,
            "parameters": sum(tensor.numel() for tensor in self.net.parameters()),
            "epochs": len(self.history),
            "best_epoch": self.history[-1].best,
            "stopped": stopped,
            "split": {"description": self.split.description, **sizes},
            "data": self._describe_data(file),
            "notes": [*data.notes, *self.split.notes, *remarks],
            **scores,
            "history": [asdict(epoch) for epoch in self.history],
            "config": asdict(self.config),
            "cross_validation": None,
        }

    def _describe_data(self, file: str) -> dict[str, Any]:
        """Return sizes and names of the data for ``metrics.json``."""
        data = self.split.data
        lengths = [*map(len, data.series)]
        return {
            "file": file,
            "series": len(lengths),
            "steps": {
                "total": sum(lengths),
                "shortest": min(lengths),
                "longest": max(lengths),
            },
            "features": list(data.signal.features) or data.series[0].x.shape[1],
            "classes": list(data.classes),
            "sampling_rate": data.signal.sampling_rate,
            "window": self.options.window,
        }


@dataclass(frozen=True)
class SavedTraining:
    """The state of a training in a run folder."""

    data_config: DataConfig
    """How the data were windowed and split."""
    config: TrainConfig
    """Options of the training."""
    tensors: dict[str, Tensor]
    """All tensors that the next epoch follows from."""
    facts: dict[str, Any]
    """History of the epochs, and a hash of the series."""


def read_state(folder: Path) -> SavedTraining:
    """Return the state of the training in a run folder; raises NotFoundError,
    FileFormatError.
    """
    check_run_folder(folder, resume=True)
    checkpoint = read_tensors(folder / RESUME)
    facts = checkpoint.facts
    with malformed_as(
        FileFormatError, f"{folder} has no state of a training", "use --overwrite"
    ):
        data: dict[str, Any] = facts["data"]
        lists = {
            name: tuple(value)
            for name, value in data.items()
            if isinstance(value, list)
        }
        return SavedTraining(
            data_config=DataConfig(**data | lists),
            config=TrainConfig(**facts["train"]),
            tensors=checkpoint.tensors,
            facts=facts,
        )


def _without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors under a prefix, by their names without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _copy(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of the tensors on the CPU, with a prefix in front of their names."""
    return {
        f"{prefix}{name}": tensor.detach().cpu().clone()
        for name, tensor in tensors.items()
    }


def _hash(data: Data) -> str:
    """Return a hash of all that training sees, so that the same data in another file
    format resumes too.
    """
    digest = hashlib.sha256(repr(data.task).encode())
    for record in data.series:
        facts = f"{record.split} {record.x.shape} {record.y.shape}"
        digest.update(facts.encode() + record.x.tobytes() + record.y.tobytes())
    return digest.hexdigest()
