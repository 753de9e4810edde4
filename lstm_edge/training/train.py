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
from lstm_edge_runtime.errors import FileFormatError, InputError, first_line
from lstm_edge_runtime.files import malformed_as, write_bytes
from lstm_edge_runtime.manifest import Trained

from ..checkpoint import Run, read_tensors, save, write_tensors
from ..data.config import DataConfig
from ..data.read import read_data
from ..data.series import SETS, Data, Series, are_joined
from ..data.split import Split, fold_series, split_series
from ..lstm1 import LSTM1, fit_scale
from ..run_files import METRICS, RESUME, check_run_folder, locked, remove_run
from .config import TrainConfig
from .epoch import Loss, lanes, run_epoch, shuffled, windows_of
from .metrics import STREAM_WINDOWS, score_set, stream_lanes, window_lanes
from .summary import summarize

_LEAST_UPDATES = 20
"""Steps of the optimizer in an epoch at least; small training sets are passed over several times."""
_STREAMS, _RESTART = 0.5, 0.1
"""Share of the lanes that carry their states, and how often these are reset all the same."""
_PICKS = 16
"""Steps of each chunk at which the head is evaluated while training."""
_SMOOTHING = 0.05
"""Share of each target that is spread over all classes. Without it the loss of a few confident mistakes picks
too early an epoch: accuracy is 0.03 to 0.04 lower on nine data sets."""
_SAVE_EVERY = 5.0
"""Seconds of training that a killed process may lose."""
_SMALL = 64
"""Hidden size up to which one thread is the fastest."""
_MAY_CHANGE = ("epochs", "patience")
"""Options that may change when a training is resumed."""


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch."""

    number: int
    """From 1."""
    loss: float
    """In training: cross entropy, or squared error relative to the variance."""
    streams: float
    """Validation loss of streams; of a bidirectional network that of windows."""
    windows: float | None
    """Validation loss of windows from reset; None if that of streams is too high for the best epoch."""
    score: float
    """Accuracy of what a device runs on the validation set, or RMSE relative to the standard deviation."""
    best: int
    """The epoch with the lowest validation loss so far."""


class Training:
    """A network in training; all randomness of an epoch follows from the seed and its number.

    Args:
        split: the series with their sets.
        options: how they were read.
        config: how to train.
    """

    def __init__(self, split: Split, options: DataConfig, config: TrainConfig) -> None:
        self.split, self.options, self.config = split, options, config
        train = split.data.of("train")
        samples = len(windows_of(train, options.window, options.stride))
        self.updates = max(_LEAST_UPDATES, math.ceil(samples / config.batch_size))
        self.epochs, self.patience = config.limits(self.updates)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.net = _network(split.data, train, options, config).to(config.device)
        self.loss = _loss_of(self.net, split.data, train, config)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.history: list[Epoch] = []
        self.best = _copy(self.net.state_dict())
        self.kept: dict[str, Tensor] = {}
        """All tensors that the next epoch follows from, as they were after the last whole epoch."""

    @property
    def stopped(self) -> str:
        """Why there is no next epoch: ``epochs`` or ``patience``; empty while there is one."""
        if self.history and len(self.history) - self.history[-1].best >= self.patience:
            return "patience"
        return "epochs" if len(self.history) >= self.epochs else ""

    def run_epoch(self) -> Epoch:
        """Train for one epoch and validate; raises InputError for a loss that is not finite."""
        config, number = self.config, len(self.history) + 1
        rows = config.batch_size
        streams = torch.arange(rows) >= round(rows * (1 - _STREAMS))
        keep = streams * (1 - _RESTART) if config.carries else torch.zeros(rows)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed * 1_000_003 + number)
            batches = islice(self._batches(number), self.updates)
            loss, _ = run_epoch(
                self.net, self.loss, batches, keep, self.optimizer, clip=config.clip, picks=_PICKS
            )
            epoch = self._validated(number, loss)
        if epoch.best == number:
            self.best = _copy(self.net.state_dict())
        self.kept = self._tensors()
        self.history.append(epoch)
        return epoch

    def _batches(self, number: int) -> Iterator[Any]:
        """Return the batches of an epoch, without end."""
        window, config = self.options.window, self.config
        series: list[Series] = self.split.data.of("train")
        stretch, joined = window, are_joined(self.split.data.series, window)
        if not config.carries and self.options.stride:
            series, stretch = windows_of(series, window, self.options.stride), None
        order = shuffled(series, stretch, STREAM_WINDOWS, np.random.default_rng((config.seed, number)))
        return lanes(order, config.batch_size, window, window=window, joined=joined, tails=False)

    def _validated(self, number: int, loss: float) -> Epoch:
        series, options, carries = self.split.data.of("validation"), self.options, self.config.carries
        lowest = min(map(self._criterion, self.history), default=math.inf)
        torch.manual_seed(0)  # the same steps in every epoch
        found: dict[str, float] = {}
        scores: list[float] = []
        if not self.config.bidirectional:
            lanes_of = stream_lanes(series, options.window)
            found["streams"], score = run_epoch(self.net, self.loss, lanes_of, 1.0, picks=_PICKS)
            scores = [score]
        if not carries or found["streams"] < lowest:
            lanes_of = window_lanes(series, options.window, options.stride)
            found["windows"], score = run_epoch(self.net, self.loss, lanes_of, 0.0, picks=_PICKS)
            scores.append(score)
        if not all(map(math.isfinite, (loss, *found.values()))):
            raise InputError(
                f"the loss is {loss} in epoch {number}; give a lower --learning-rate than "
                f"{self.config.learning_rate}"
            )
        streams = found.get("streams", found.get("windows", 0.0))
        score = scores[0 if carries else -1]
        if not self.split.data.classes:
            score = math.sqrt(streams if carries else found["windows"])
        one = Epoch(number, loss, streams, found.get("windows"), score, number)
        return one if self._criterion(one) < lowest else replace(one, best=self.history[-1].best)

    def _criterion(self, epoch: Epoch) -> float:
        if not self.config.carries:
            assert epoch.windows is not None
            return epoch.windows
        return max(epoch.streams, epoch.windows) if epoch.windows is not None else math.inf

    def _tensors(self) -> dict[str, Tensor]:
        moments = self.optimizer.state_dict()["state"]
        found = {f"net/{name}": tensor for name, tensor in self.net.state_dict().items()}
        found |= {f"adamw/{key}/{name}": each for key, one in moments.items() for name, each in one.items()}
        return _copy(found) | {f"best/{name}": tensor for name, tensor in self.best.items()}

    def save(self, folder: Path) -> None:
        """Write all that the next epoch follows from, as it was after the last whole epoch."""
        facts = {
            "data": asdict(self.options),
            "train": asdict(self.config),
            "series": _hash(self.split.data),
            "history": [asdict(one) for one in self.history],
        }
        write_tensors(folder / RESUME, self.kept, facts)

    def resume(self, folder: Path) -> None:
        """Go on from what ``save`` wrote.

        Raises:
            NotFoundError, FileFormatError: there is no such file, or it is damaged.
            InputError: it belongs to other data or options.
        """
        path = folder / RESUME
        tensors, facts = read_tensors(path)
        with malformed_as(FileFormatError, f"{path} is not the state of a training", "use --overwrite"):
            before = _configs(facts)
            _check_same(folder, asdict(before[0]), asdict(self.options))
            _check_same(folder, asdict(before[1]), asdict(self.config))
            if facts["series"] != _hash(self.split.data):
                raise InputError(
                    f"{folder} was trained on other data; resume with the same, or use another folder"
                )
            parts: dict[str, dict[str, Tensor]] = {"net": {}, "best": {}, "adamw": {}}
            for name, tensor in tensors.items():
                kind, _, rest = name.partition("/")
                parts[kind][rest] = tensor
            history = [Epoch(**one) for one in facts["history"]]
            if [one.number for one in history] != list(range(1, len(history) + 1)):
                raise ValueError("the epochs are not in order")
            try:
                self._restore(parts)
            except RuntimeError as error:
                raise ValueError(first_line(error)) from error
            self.kept, self.history = tensors, history

    def _restore(self, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.net.load_state_dict(parts["best"])  # so that both are checked before training goes on
        self.net.load_state_dict(parts["net"])
        self.best = dict(parts["best"])
        state = self.optimizer.state_dict()
        for name, tensor in parts["adamw"].items():
            key, _, moment = name.partition("/")
            state["state"].setdefault(int(key), {})[moment] = tensor
        self.optimizer.load_state_dict(state)

    def finish(self, stopped: str) -> Run:
        """Return the best epoch with its scores on the validation and the test set."""
        data, options, config = self.split.data, self.options, self.config
        self.net.load_state_dict(self.best)
        scores = {
            name: score_set(self.net, data, name, self.loss, options, config)
            for name in SETS[1:]
            if data.of(name)
        }
        lengths = {len(one) for one in data.of("train")}
        steps_seen = options.window or (lengths.pop() if len(lengths) == 1 else None)
        task = data.task and data.task._replace(units=options.units)
        reset = 1 - _STREAMS if config.carries else 1.0
        return Run(
            model=self.net.to("cpu").eval(),
            task=task,
            signal=data.signal._replace(window=options.window),
            trained=Trained(config.carries, steps_seen, reset),
            summary=summarize(
                self.split, options, config, [asdict(one) for one in self.history], stopped, scores
            ),
        )


def train(
    data: str | Path,
    folder: str | Path,
    *,
    data_config: DataConfig | None = None,
    config: TrainConfig | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_epoch: Callable[[Epoch, int], None] | None = None,
    on_fold: Callable[[int, int], None] | None = None,
) -> Run:
    """Train an LSTM1 on a data file and keep the best epoch in a run folder.

    ``y`` or a label column makes it a classification; float ``y``, targets or a forecast a regression.
    Ctrl-C (KeyboardInterrupt) ends training early and keeps the best epoch so far. Up to a hidden size of
    64, PyTorch is held to one thread meanwhile, which is faster there and repeatable.

    Args:
        data: see ``read_data``.
        folder: the run folder to create.
        data_config: how to read and split the data.
        config: how to train.
        resume: True to go on from where the training in the folder stopped, with the same data and options
            (``epochs`` and ``patience`` may change); on the CPU the result is that of one training without a
            stop, bit for bit.
        overwrite: True to replace a run in the folder.
        on_epoch: called after every epoch with it and the number of epochs.
        on_fold: called before every fold of a cross-validation with its number, from 1, and their count.

    Returns:
        The run as saved; see ``summarize`` for its summary.

    Raises:
        NotFoundError: no such data, or nothing to resume.
        FileFormatError: the data file can't be read, or the state to resume from is damaged.
        InputError: data or options that can't be trained with; the folder already contains a run; or another
            training is writing to it.
        KeyboardInterrupt: Ctrl-C before the first epoch was done.
    """
    folder, data_config, config = Path(folder), data_config or DataConfig(), config or TrainConfig()
    check_run_folder(folder, resume=resume, overwrite=overwrite)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "device is 'cuda', but PyTorch finds none; train on cpu, or install a CUDA build of torch"
        )
    split, folds = read_split(Path(data), data_config, config.seed)
    threads = one_thread() if config.hidden_size <= _SMALL else contextlib.nullcontext()
    with locked(folder), threads:
        training = Training(split, data_config, config)
        if resume:
            training.resume(folder)
        else:
            remove_run(folder)
        run = training.finish(_run(training, folder, on_epoch))
        run.summary["data"]["file"] = Path(data).name
        run.summary["cross_validation"] = None
        if folds and run.summary["stopped"] != "interrupted":
            run.summary["cross_validation"] = _cross_validate(folds, data_config, config, on_fold)
        run = save(run, folder)
        text = json.dumps(run.summary, indent=1, allow_nan=False) + "\n"
        write_bytes(folder / METRICS, text.encode())
    return run


def read_configs(folder: str | Path) -> tuple[DataConfig, TrainConfig]:
    """Return the options that the training in a run folder has.

    Raises:
        NotFoundError: there is nothing to resume.
        FileFormatError: the state is damaged.
    """
    check_run_folder(Path(folder), resume=True)
    path = Path(folder) / RESUME
    with malformed_as(FileFormatError, f"{path} is not the state of a training", "use --overwrite"):
        return _configs(read_tensors(path)[1])


def read_split(path: Path, options: DataConfig, seed: int) -> tuple[Split, list[Split]]:
    """Read the data, and split them; with folds, also once for each fold.

    Raises:
        NotFoundError, FileFormatError, InputError: as ``read_data`` and ``split_series``; or a series does
            not fit the window, or units are given for another number of values.
    """
    others = {"validation": options.validation_data, "test": options.test_data}
    sets = {name: Path(file) for name, file in others.items() if file}
    data = read_data(path, options, sets=sets)
    assert data.task is not None
    if options.units and (data.classes or len(options.units) != len(data.task.labels)):
        raise InputError(
            f"{path}: units are {', '.join(options.units)}, expected one for each value to predict "
            f"({', '.join(data.task.labels)})"
        )
    try:
        found = split_series(data, options, seed), fold_series(data, options, seed)
        for split in (found[0], *found[1]):
            _check_windows(split.data, options.window)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return found


def _check_windows(data: Data, window: int | None) -> None:
    for one in data.series:
        if len(one) < (window or 1):
            raise InputError(
                f"series {one.name!r} has {len(one)} steps, fewer than the window of {window}; reduce it"
            )
        if window is None and one.y.ndim == 1 and not (one.y == one.y[0]).all():
            raise InputError(
                f"series {one.name!r} has more than one class; use --window to split it into windows"
            )


def _run(training: Training, folder: Path, on_epoch: Callable[[Epoch, int], None] | None) -> str:
    """Run all epochs, and return why training stopped."""
    saved, stopped = time.monotonic(), "interrupted"
    try:
        while not training.stopped:
            epoch = training.run_epoch()
            if on_epoch is not None:
                on_epoch(epoch, training.epochs)
            if time.monotonic() - saved > _SAVE_EVERY:
                training.save(folder)
                saved = time.monotonic()
        stopped = training.stopped
    except KeyboardInterrupt:
        if not training.history:
            raise KeyboardInterrupt("before the first epoch was done; nothing was written") from None
    training.save(folder)
    return stopped


def _cross_validate(
    folds: list[Split], options: DataConfig, config: TrainConfig, on_fold: Callable[[int, int], None] | None
) -> dict[str, Any] | None:
    """Train a network for each fold; return the mean and deviation of the test scores, None after Ctrl-C."""
    found = []
    for number, fold in enumerate(folds, start=1):
        if on_fold is not None:
            on_fold(number, len(folds))
        training = Training(fold, options, config)
        try:
            while not training.stopped:
                training.run_epoch()
        except KeyboardInterrupt:
            return None
        test = training.finish(training.stopped).summary["test"]
        found.append(test[test["shown"]])
    scores = (
        {"accuracy": [each["accuracy"] for each in found]}
        if "accuracy" in found[0]
        else {f"rmse of {target}": [each["rmse"][target] for each in found] for target in found[0]["rmse"]}
    )
    return {name: {"mean": mean(each), "std": stdev(each), "folds": each} for name, each in scores.items()}


def _network(data: Data, train: list[Series], options: DataConfig, config: TrainConfig) -> LSTM1:
    assert data.task is not None
    places: list[int] = []
    if options.forecast_difference:
        places = [data.signal.features.index(name) for name in data.task.labels]
    lengths = [options.window or len(one) for one in train]
    net = LSTM1(
        len(data.task.labels),
        train[0].x.shape[1],
        config.hidden_size,
        config.num_layers,
        max(lengths),
        readout="last",
        dropout=config.dropout,
        bidirectional=config.bidirectional,
        added=places,
    )
    initialize(net, float(np.mean(lengths)))
    x = torch.from_numpy(np.concatenate([one.x for one in train]))
    if data.classes:
        return net.set_scales(fit_scale(x))
    y = torch.from_numpy(np.concatenate([one.y for one in train]))
    return net.set_scales(fit_scale(x), fit_scale(y - net.now(x) if places else y))


@torch.no_grad()
def initialize(net: LSTM1, steps: float) -> None:
    """Set the initial parameters of the LSTM in place, drawn from torch's global generator.

    The gates are initialized for memories of 1 to ``steps`` steps (chrono initialization: Tallec and
    Ollivier, "Can recurrent neural networks warp time?", ICLR 2018, equation 16). Recurrent weights are
    orthogonal, gate by gate (Saxe et al., 2014).

    Args:
        net: the network; its head is not changed.
        steps: usual length of a sample.
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
            parameter[:size], parameter[size : 2 * size] = -memory, memory


def _loss_of(net: LSTM1, data: Data, train: list[Series], config: TrainConfig) -> Loss:
    """Return the loss of each step: cross entropy of classes, or squared error relative to the variance."""
    if not data.classes:
        std = net.y_std
        assert std is not None
        return lambda outputs, y: (((outputs - y) / std) ** 2).mean(dim=-1)
    weight = None
    if config.class_weight == "balanced":
        counts = np.bincount(np.concatenate([one.y for one in train]), minlength=len(data.classes))
        balance = counts.sum() / (len(counts) * np.maximum(counts, 1))
        weight = torch.from_numpy(balance).float().to(config.device)
    entropy = partial(cross_entropy, weight=weight, reduction="none", label_smoothing=_SMOOTHING)
    return lambda outputs, y: entropy(outputs.flatten(0, 1), y.flatten()).reshape(y.shape)


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def _configs(facts: Mapping[str, Any]) -> tuple[DataConfig, TrainConfig]:
    """Return the configurations that ``Training.save`` wrote."""
    data: dict[str, Any] = {
        name: tuple(each) if isinstance(each, list) else each for name, each in facts["data"].items()
    }
    return DataConfig(**data), TrainConfig(**facts["train"])


def _check_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name, value in now.items():
        if name not in _MAY_CHANGE and before[name] != value:
            raise InputError(
                f"{folder} was trained with {name} {before[name]!r}, not {value!r}; resume with the same, or "
                "train into another folder"
            )


def _hash(data: Data) -> str:
    """Return a hash of all that training sees, so that the same data in another file format resumes too."""
    found = hashlib.sha256(repr(data.task).encode())
    for one in data.series:
        found.update(f"{one.split} {one.x.shape} {one.y.shape}".encode())
        found.update(one.x.tobytes())
        found.update(one.y.tobytes())
    return found.hexdigest()
