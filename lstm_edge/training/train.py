"""Train an LSTM1 on a data file into a run folder."""

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lstm_edge_exporters.export.floats import one_thread
from lstm_edge_runtime.errors import FileFormatError, InputError
from lstm_edge_runtime.files import malformed_as, write_bytes
from lstm_edge_runtime.manifest import Trained

from ..checkpoint import Run, read_tensors, save, write_tensors
from ..data.config import DataConfig
from ..data.read import read_data
from ..data.series import SETS, Data, Series, are_joined, windows_of
from ..data.split import Split, fold_series, split_series
from ..lstm1 import LSTM1, fit_scale
from ..run_files import METRICS, RESUME, check_run_folder, locked, remove_reports
from .batches import (
    STREAM_WINDOWS,
    Batch,
    chunk_batches,
    shuffled_segments,
    stream_batches,
    window_batches,
)
from .config import UPDATES, TrainConfig
from .epoch import Loss, evaluate, train_epoch
from .scoring import advice, score_set

# steps of the optimizer in an epoch; small training sets are passed over several times
_LEAST_UPDATES = 20
# share of the lanes that carry their states, and how often these are reset too
_STREAMS = 0.5
_RESTART = 0.1
_PICKS = 16  # steps of each chunk at which the head is evaluated while training
_SMOOTHING = 0.05
"""Share of each target that is spread over all classes. Without it the loss of a few
confident mistakes picks too early an epoch: accuracy is 0.03 to 0.04 lower on nine data
sets."""
_SAVE_EVERY = 5.0  # seconds of training that a killed process may lose
_PATIENCE = 0.3  # fraction of the epochs after which training stops without improvement
_WEIGHT_DECAY = 0.05
_SMALL = 64  # hidden size up to which one thread is the fastest


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch. ``best`` is the one with the lowest validation loss so far.

    ``loss`` in training is cross entropy, or squared error relative to the variance.
    ``streams`` and ``windows`` are the validation losses: None for streams of a
    bidirectional network, and for windows from reset if the loss of streams is too high
    for the best epoch. ``score`` is the accuracy of what a device runs on the
    validation set, or RMSE relative to the standard deviation.
    """

    number: int
    loss: float
    streams: float | None
    windows: float | None
    score: float
    best: int


class Training:
    """A network in training; all randomness of an epoch follows from the seed and its
    number.
    """

    def __init__(self, split: Split, options: DataConfig, config: TrainConfig) -> None:
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
            self.net = _network(split.data, train, options, config).to(config.device)
        self.loss = _loss_of(self.net, split.data, train, config)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(),
            lr=config.learning_rate,
            weight_decay=_WEIGHT_DECAY,
            foreach=True,
        )
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.kept: dict[str, Tensor] = {}
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
            epoch = self._validated(number, loss)
        net = self.net.state_dict()
        moments = self.optimizer.state_dict()["state"]
        if epoch.best == number:
            self.best = _copy("", net)
        self.kept = _copy("net/", net) | {
            f"best/{name}": tensor for name, tensor in self.best.items()
        }
        for key, tensors in moments.items():
            self.kept |= _copy(f"adamw/{key}/", tensors)
        self.history.append(epoch)
        return epoch

    def _batches(self, number: int) -> Iterator[Batch]:
        options = self.options
        config = self.config
        series = self.split.data.of("train")
        window = stretch = options.window
        if not config.carries and options.stride:
            series = windows_of(series, window, options.stride)
            stretch = None
        order = shuffled_segments(
            series,
            stretch,
            STREAM_WINDOWS,
            np.random.default_rng((config.seed, number)),
        )
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
        series = self.split.data.of("validation")
        options = self.options
        carries = self.config.carries
        lowest = min(map(self._criterion, self.history), default=math.inf)
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
        epoch = Epoch(number, loss, streams, windows, score, number)
        return (
            epoch
            if self._criterion(epoch) < lowest
            else replace(epoch, best=self.history[-1].best)
        )

    def _criterion(self, epoch: Epoch) -> float:
        """Return the validation loss that selects the best epoch: of windows, or of the
        worse of both.
        """
        if epoch.windows is None:
            return math.inf
        return (
            max(epoch.windows, epoch.streams or 0.0)
            if self.config.carries
            else epoch.windows
        )

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
            self.kept,
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
            self.net.load_state_dict(
                _part(tensors, "best/")
            )  # so that both are checked
            self.net.load_state_dict(_part(tensors, "net/"))
            state = self.optimizer.state_dict()
            indices = state["param_groups"][0]["params"]
            state["state"] = {
                index: _part(tensors, f"adamw/{index}/") for index in indices
            }
            self.optimizer.load_state_dict(state)
            self.history = [Epoch(**epoch) for epoch in facts["history"]]
            self.best = _part(tensors, "best/")
            self.kept = tensors

    def finish(self, stopped: str, file: str) -> Run:
        """Return the best epoch with its scores; its summary is the content of
        ``metrics.json``.
        """
        data = self.split.data
        options = self.options
        config = self.config
        assert data.task is not None
        self.net.load_state_dict(self.best)
        scores = {
            name: score_set(
                self.net, data, name, loss=self.loss, options=options, config=config
            )
            for name in SETS[1:]
        }
        lengths = [*map(len, data.series)]
        trained = {*map(len, data.of("train"))}
        summary = {
            "task": data.task.kind,
            "parameters": sum(tensor.numel() for tensor in self.net.parameters()),
            "epochs": len(self.history),
            "best_epoch": self.history[-1].best,
            "stopped": stopped,
            "split": {
                "description": self.split.description,
                **{name: len(data.of(name)) for name in SETS},
            },
            "data": {
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
                "window": options.window,
            },
            "notes": [
                *data.notes,
                *self.split.notes,
                *advice(data, options, config, scores),
            ],
            **scores,
            "history": [asdict(epoch) for epoch in self.history],
            "config": asdict(config),
            "cross_validation": None,
        }
        window = options.window or (min(trained) if len(trained) == 1 else None)
        return Run(
            self.net.to("cpu").eval(),
            data.task._replace(units=options.units),
            data.signal._replace(window=options.window),
            Trained(config.carries, window, 1 - _STREAMS if config.carries else 1.0),
            summary,
        )


def train(
    data: str | Path,
    folder: str | Path,
    *,
    data_config: DataConfig | None = None,
    config: TrainConfig | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_epoch: Callable[[Epoch, int], None] = lambda _epoch, _epochs: None,
) -> Run:
    """Train an LSTM1 on a data file and keep the best epoch in a run folder.

    ``y`` or a label column makes it a classification; float ``y``, targets or a
    forecast a regression. Ctrl-C (KeyboardInterrupt) ends training early and keeps the
    best epoch so far. Up to a hidden size of 64, PyTorch is held to one thread
    meanwhile, which is faster there and repeatable.

    Args:
        data: a file or folder, as for ``lstm-edge train``.
        folder: the run folder to create.
        data_config: how to read and split the data.
        config: how to train.
        resume: True to go on from where the training in the folder stopped, with the
            same data and options (``epochs`` and ``patience`` may change); on the CPU
            with the same result, bit for bit.
        overwrite: True to replace a run in the folder.
        on_epoch: called after every epoch, also of each fold, with it and the number of
            epochs.

    Returns:
        The run as saved; see ``Training.finish`` for its summary.

    Raises:
        NotFoundError: no such data, or nothing to resume.
        FileFormatError: the data file can't be read, or the state to resume from is
            damaged.
        InputError: data or options that can't be trained with, or a folder that is in
            use or has a run.
        KeyboardInterrupt: Ctrl-C before the first epoch was done.
    """
    folder = Path(folder)
    data_config = data_config or DataConfig()
    config = config or TrainConfig()
    check_run_folder(folder, resume=resume, overwrite=overwrite)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "PyTorch finds no CUDA device; train on cpu, or install a CUDA build of"
            " torch"
        )
    split, folds = read_split(Path(data), data_config, config.seed)
    threads = one_thread() if config.hidden_size <= _SMALL else contextlib.nullcontext()
    with locked(folder), threads:
        training = Training(split, data_config, config)
        if resume:
            training.resume(folder)
        stopped = _run(training, folder, on_epoch)
        finished = training.finish(stopped, Path(data).name)
        remove_reports(folder)
        run = save(finished, folder)
        if folds and run.summary["stopped"] != "interrupted":
            with contextlib.suppress(KeyboardInterrupt):
                run.summary["cross_validation"] = _cross_validate(
                    folds, data_config, config, on_epoch
                )
        write_bytes(
            folder / METRICS,
            f"{json.dumps(run.summary, indent=1, allow_nan=False)}\n".encode(),
        )
    return run


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors under a prefix, by their names without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


@dataclass(frozen=True)
class SavedTraining:
    """The state of a training in a run folder."""

    data_config: DataConfig
    config: TrainConfig
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


def read_split(path: Path, options: DataConfig, seed: int) -> tuple[Split, list[Split]]:
    """Read the data, and split them; with folds, also once for each fold; raises as
    ``read_data``.
    """
    others = {"validation": options.validation_data, "test": options.test_data}
    data = read_data(
        path, options, sets={name: Path(file) for name, file in others.items() if file}
    )
    targets = data.task.labels if data.task else ()
    if options.units and (data.classes or len(options.units) != len(targets)):
        raise InputError(
            f"{path}: expected one unit for each value to predict"
            f" ({', '.join(targets)})"
        )
    split = split_series(data, options, seed)
    folds = fold_series(data, options, seed)
    for record in split.data.series:
        if len(record) < (options.window or 1):
            raise InputError(
                f"{record.name!r} has {len(record)} steps, fewer than --window"
                f" {options.window}"
            )
        if data.classes and options.window is None and not are_joined([record], 1):
            raise InputError(
                f"series {record.name!r} has more than one class; give the --window of"
                " a sample"
            )
    return split, folds


def _run(
    training: Training, folder: Path | None, on_epoch: Callable[[Epoch, int], None]
) -> str:
    """Run all epochs, save the state to a folder, and return why training stopped."""
    saved = time.monotonic()
    stopped = "interrupted"
    try:
        while not training.stopped:
            on_epoch(training.run_epoch(), training.epochs)
            if folder and time.monotonic() - saved > _SAVE_EVERY:
                training.save(folder)
                saved = time.monotonic()
        stopped = training.stopped
    except KeyboardInterrupt:
        if not (folder and training.history):
            raise KeyboardInterrupt(
                "before the first epoch was done; nothing was written"
            ) from None
    if folder:
        training.save(folder)
    return stopped


def _cross_validate(
    splits: list[Split],
    options: DataConfig,
    config: TrainConfig,
    on_epoch: Callable[[Epoch, int], None],
) -> dict[str, Any]:
    """Train a network for each fold; return the mean and deviation of the test
    scores.
    """
    scores: dict[str, list[float]] = {}
    for split in splits:
        training = Training(split, options, config)
        test = training.finish(_run(training, None, on_epoch), "").summary["test"]
        shown = test[test["shown"]]
        rmse = {
            f"rmse of {target}": value
            for target, value in shown.get("rmse", {}).items()
        }
        for name, value in (rmse or {"accuracy": shown["accuracy"]}).items():
            scores.setdefault(name, []).append(value)
    return {
        name: {"mean": mean(folds), "std": stdev(folds), "folds": folds}
        for name, folds in scores.items()
    }


def _network(
    data: Data, train: list[Series], options: DataConfig, config: TrainConfig
) -> LSTM1:
    assert data.task is not None
    labels = data.task.labels
    lengths = [options.window or len(record) for record in train]
    added = (
        [data.signal.features.index(name) for name in labels]
        if options.forecast_difference
        else ()
    )
    sizes = (
        len(labels),
        train[0].x.shape[1],
        config.hidden_size,
        config.num_layers,
        max(lengths),
    )
    kinds: Any = {"dropout": config.dropout, "bidirectional": config.bidirectional}
    net = LSTM1(*sizes, readout="last", added=added, **kinds)
    _initialize(net, float(np.mean(lengths)))
    x, y = (
        torch.from_numpy(np.concatenate([getattr(record, name) for record in train]))
        for name in "xy"
    )
    if data.classes:
        return net.set_scales(fit_scale(x))
    return net.set_scales(fit_scale(x), fit_scale(y - net.now(x) if added else y))


@torch.no_grad()
def _initialize(net: LSTM1, steps: float) -> None:
    """Draw the initial parameters of the LSTM, with gates for memories of 1 to
    ``steps`` steps.

    This is chrono initialization (Tallec and Ollivier, "Can recurrent neural networks
    warp time?", ICLR 2018, equation 16). Recurrent weights are orthogonal, gate by gate
    (Saxe et al., 2014).
    """
    size = net.lstm.hidden_size
    for name, parameter in net.lstm.named_parameters():
        if name.startswith("weight_hh"):
            for gate in parameter.chunk(4):
                nn.init.orthogonal_(gate)
        elif name.startswith("bias"):
            parameter.zero_()
        if name.startswith("bias_ih"):
            memory = torch.log(torch.empty(size).uniform_(1, max(2.0, steps - 1)))
            parameter[:size] = -memory
            parameter[size : 2 * size] = memory


def _loss_of(net: LSTM1, data: Data, train: list[Series], config: TrainConfig) -> Loss:
    """Return the loss of each step: cross entropy of classes, or squared error relative
    to the variance.
    """
    if net.y_std is not None:
        std = net.y_std
        return lambda outputs, y: (((outputs - y) / std) ** 2).mean(dim=-1)
    weight = None
    if config.class_weight == "balanced":
        counts = np.bincount(
            np.concatenate([record.y for record in train]), minlength=len(data.classes)
        )
        weight = (
            torch.tensor(counts.sum() / (len(counts) * np.maximum(counts, 1)))
            .float()
            .to(config.device)
        )
    entropy = partial(
        cross_entropy, weight=weight, reduction="none", label_smoothing=_SMOOTHING
    )
    return lambda outputs, y: entropy(outputs.flatten(0, 1), y.flatten()).reshape(
        y.shape
    )


def _copy(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
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
