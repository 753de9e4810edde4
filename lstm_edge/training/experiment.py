"""One training: its data as the network sees them, and the run that says what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lstm_edge_runtime.manifest import Signal, Task, Trained

from ..checkpoint import Run, Scale
from ..data.config import DataConfig
from ..data.recordings import SETS, Recordings
from ..data.split import Split
from ..data.training import SetWindows
from ..lstm1 import LSTM1
from .baselines import Baseline, find_season, forecast_baselines, majority_baseline, mean_baseline, persists
from .config import TrainConfig
from .dataset import Dataset, fit_scale
from .lanes import reset_lanes
from .loop import Loop, predict
from .metrics import classification_metrics, recognition_metrics, regression_metrics
from .series import SeriesSet, Streams, cut_streams, joins_series, stream_outputs

_IMBALANCE = 5
"""Ratio of the largest to the smallest class from which on a note says so."""
STREAM_WINDOWS = 10
"""Windows that a stream is scored over, where it goes on from series to series."""
_APART = 0.02
"""Difference from which on a note says how the score of streams and that of windows compare."""

_ADVICE = {
    (True, True): "the label needs what came before the window, so streams must not be reset",
    (True, False): "long streams lose what a reset restores; train with --carry off, and streams start again "
    "every window",
    (False, True): "what came before the window helps; train with --carry on",
    (False, False): "training saw no state older than a window, so streams start again every window; train "
    "with --carry on for streams without a reset",
}
"""By whether states were carried in training, and whether streams score higher than windows."""

_NO_BETTER = (
    "the network is no better than a prediction that needs none; try more epochs, another --window, other "
    "features or a larger --hidden-size"
)
_TINY = 1e-300


@dataclass(frozen=True)
class StreamRun:
    """What the network returned at every step of streams that carry their states."""

    name: str
    """Of the set."""
    streams: Streams
    outputs: Tensor
    """``(K, C)``: of all steps, stream by stream."""
    y: Tensor
    """``(K,)`` or ``(K, C)``."""

    @property
    def scored(self) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs, truth and rows of ``SeriesSet.x`` of the steps that count, see ``Streams.counted``."""
        counted = self.streams.counted
        own = counted[self.streams.valid]
        return self.outputs[own], self.y[own], self.streams.step[counted]


@dataclass(frozen=True)
class Experiment:
    """The sets as the network sees them, and all that a run says about them."""

    recordings: Recordings
    split: Split
    sets: Mapping[str, Dataset]
    """By the names of ``SETS``; without ``test`` where no test set was asked for."""
    inputs: Scale
    targets: Scale | None
    added: tuple[int, ...]
    """As in ``Run``."""
    data: DataConfig
    config: TrainConfig
    reason: str
    """Why every window starts from reset, if it is the network or the data that ask for it."""

    @property
    def carries(self) -> bool:
        """Whether training carries states."""
        return self.config.carry != "off" and not self.reason

    def model(self) -> LSTM1:
        """Return the network with its initial parameters, which the seed determines."""
        train = self.sets["train"]
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            model = LSTM1(
                num_classes=len(self.recordings.labels or self.recordings.targets),
                input_size=train.series.x.shape[1],
                hidden_size=self.config.hidden_size,
                num_layers=self.config.num_layers,
                seq_length=int(train.lengths.max()),
                readout="last",
                dropout=self.config.dropout,
                bidirectional=self.config.bidirectional,
            )
            _initialize(model, float(train.lengths.double().mean()))
            return model

    def loop(self) -> Loop:
        """Return the training loop before its first epoch."""
        config, sets = self.config, self.sets
        trial = config.carry == "auto" and self.data.window is None and config.crop == 1
        return Loop(self.model(), sets["train"], sets["validation"], config, carry=self.carries, trial=trial)

    def settled(self, loop: Loop) -> "Experiment":
        """Return the same as the loop's validation set has decided so far."""
        return replace(self, reason=self.reason or loop.reason)

    def run(self, loop: Loop, stopped: str) -> Run:
        """Return the best epoch so far as a run, with its metrics."""
        model = self.model()
        parameters, best_epoch = loop.kept
        model.load_state_dict(parameters)
        model.eval()
        recordings = self.recordings
        kind = "classification" if recordings.labels else "regression"
        scores = {name: self.metrics(model, name) if name in self.sets else None for name in SETS[1:]}
        summary = {
            "task": kind,
            "epochs": len(loop.epochs),
            "best_epoch": best_epoch,
            "stopped": stopped,
            "split": {
                "description": self.split.description,
                "notes": self.notes,
                **{name: len(self.sets[name]) if name in self.sets else 0 for name in SETS},
            },
            "states": self._states(scores),
            "baseline": self._against_baselines(scores["test"] or scores["validation"] or {}),
            **scores,
            "config": asdict(self.config),
        }
        size = self.sets["train"].series.size
        whole = int(size[0]) if bool((size == size[0]).all()) else None
        carries, rows = self.carries, self.config.batch_size
        return Run(
            model=model,
            task=Task(kind, "logits", labels=recordings.labels or recordings.targets, units=self.data.units),
            signal=Signal(
                recordings.features, recordings.sampling_rate, self.data.window, recordings.missing
            ),
            trained=Trained(carries, self.data.window or whole, reset_lanes(rows) / rows if carries else 1.0),
            inputs=self.inputs,
            targets=self.targets,
            added=self.added,
            summary=summary,
        )

    @property
    def notes(self) -> list[str]:
        """What a reader of the scores should know."""
        notes = [*self.recordings.notes, *self.split.notes]
        if self.recordings.labels and self.config.class_weight == "none":
            counts = torch.bincount(self.sets["train"].y, minlength=len(self.recordings.labels)).tolist()
            if max(counts) > _IMBALANCE * min(counts):
                most, least = (self.recordings.labels[counts.index(each(counts))] for each in (max, min))
                notes.append(
                    f"the training set has {max(counts)} samples of {most!r} and {min(counts)} of {least!r}; "
                    "--class-weight balanced makes all classes count alike"
                )
        if self.added:
            notes.append(
                "the network predicts the change from now, and the exported file adds what is now; "
                "--forecast-value predicts the value itself"
            )
        return notes

    def metrics(self, model: LSTM1, name: str) -> dict[str, Any]:
        """Return what ``model`` scores on a set.

        Returns:
            What the functions in ``metrics`` give, of what a device runs: every step of streams that has seen
            a whole window since the reset or the start of its series, if states were carried in training,
            else the last step of windows from reset; ``windows`` or ``streams``, the same of the other; and
            ``baselines``, by name the same of predictions that need no network.
        """
        dataset = self.sets[name]
        windows = self._metrics(predict(model, dataset), dataset.y)
        if model.lstm.bidirectional:
            return windows | self._baselines(name, dataset.last)
        run = self.stream(model, name)
        streams = self.stream_metrics(run)
        if not self.carries:
            return windows | {"streams": streams} | self._baselines(name, dataset.last)
        return streams | {"windows": windows} | self._baselines(name, run.scored[2])

    def _baselines(self, name: str, rows: Tensor) -> dict[str, Any]:
        """Return what baselines score at some steps of a set's series."""
        y, scores = self.sets[name].series.y[rows], {}
        if self.targets is None:
            always = majority_baseline(self.sets["train"].y, self.recordings.labels, len(rows))
            scores[always.name] = {"accuracy": float((always.values == y).double().mean())}
        else:
            mean = [self.inputs.mean[place] for place in self.added] or self.targets.mean
            truth = self.values(name, y, rows)
            for each in (mean_baseline(mean, len(rows)), *self._forecasts(name, rows)):
                scores[each.name] = regression_metrics(each.values, truth, self.recordings.targets)
        return {"baselines": scores}

    def _forecasts(self, name: str, rows: Tensor) -> list[Baseline]:
        if not self.data.forecast:
            return []
        now = self._now(name, _places(self.recordings))
        return forecast_baselines(now, self.sets[name].series, rows, self._season)

    @cached_property
    def _season(self) -> int | None:
        places = _places(self.recordings)
        return find_season([one.x[:, places] for one in self.split.train])

    def _now(self, name: str, places: Sequence[int]) -> Tensor:
        """Return some features of all steps of a set in their own units, ``float64 (T, C)``."""
        columns = list(places)
        mean, std = (torch.tensor(each)[columns] for each in (self.inputs.mean, self.inputs.std))
        return self.sets[name].series.x.cpu()[:, columns].double() * std + mean

    def values(self, name: str, scaled: Tensor, rows: Tensor) -> Tensor:
        """Return values of a set in their own units, ``float64 (K, C)``.

        Args:
            name: of the set.
            scaled: ``(K, C)``, as the network returns them.
            rows: ``int64 (K,)``, the steps of the set at which it does.
        """
        values = self.unscaled(scaled)
        return values + self._now(name, self.added)[rows] if self.added else values

    def scored(self, model: LSTM1, name: str) -> tuple[Tensor, Tensor]:
        """Return the values that the score of a set is of, predicted and true, in their own units."""
        if self.carries:
            outputs, y, rows = self.stream(model, name).scored
        else:
            dataset = self.sets[name]
            outputs, y, rows = predict(model, dataset), dataset.y, dataset.last
        return self.values(name, outputs, rows), self.values(name, y, rows)

    def stream(self, model: LSTM1, name: str) -> StreamRun:
        """Run the series of a set with carried states."""
        series = self.sets[name].series
        streams = cut_streams(series, STREAM_WINDOWS, cut=False)
        outputs = stream_outputs(model, series, streams, streams.valid)
        return StreamRun(name, streams, outputs, series.y[streams.step[streams.valid]])

    def stream_metrics(self, run: StreamRun) -> dict[str, Any]:
        """Return what streams score; of classes also at all steps, and how soon a new class is recognized."""
        found = self._metrics(*run.scored[:2])
        if self.data.window is not None:
            found["series"] = self.series_scores(run)
        if self.targets is not None:
            return found
        starts = torch.zeros_like(run.streams.valid)
        starts[:, 0] = True
        predicted = run.outputs.argmax(dim=1)
        return found | {
            "all_steps": float((predicted == run.y).double().mean()),
            "steps_until_right": recognition_metrics(
                predicted.tolist(), run.y.tolist(), starts[run.streams.valid].tolist()
            ),
        }

    def points(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return whether each output ``(K, C)`` is right, or its squared error, scaled: ``float64 (K,)``."""
        if self.targets is None:
            return (outputs.argmax(dim=1) == y).double()
        return ((outputs - y) ** 2).double().mean(dim=1)

    def series_scores(self, run: StreamRun) -> dict[str, float]:
        """Return by series its accuracy, or its RMSE as a fraction of the targets' standard deviation."""
        owner = run.streams.series[run.streams.counted]
        points = self.points(*run.scored[:2])
        scores = torch.bincount(owner, points) / torch.bincount(owner)
        scores = scores if self.targets is None else scores.sqrt()
        names = [one.name for one in getattr(self.split, run.name)]
        return dict(zip(names, scores.tolist(), strict=True))

    def _metrics(self, outputs: Tensor, y: Tensor) -> dict[str, Any]:
        if self.targets is None:
            return classification_metrics(outputs, y, self.recordings.labels)
        return regression_metrics(self.unscaled(outputs), self.unscaled(y), self.recordings.targets)

    def _states(self, scores: Mapping[str, Any]) -> str:
        """Return how training treated states, and where a set's scores differ by it, which and what to do."""
        if self.reason:
            return f"windows from reset; {self.reason}"
        said = "carried from window to window" if self.carries else "windows from reset"
        for name in reversed(SETS[1:]):
            own = scores[name] or {}
            other = own.get("windows" if self.carries else "streams")
            if other is not None:
                streams, windows = (own, other) if self.carries else (other, own)
                what, better, apart = self._difference(streams, windows)
                if apart:
                    return f"{said}; {what} in the {name} set: {_ADVICE[self.carries, better]}"
        return said

    def best_baselines(self, scores: Mapping[str, Any]) -> dict[str, tuple[float, str]]:
        """Return the score and the name of a set's best baseline: the accuracy, or by target the RMSE.

        Args:
            scores: as ``metrics`` returns.
        """
        found = scores["baselines"]
        if self.targets is None:
            ((name, one),) = found.items()
            return {"accuracy": (one["accuracy"], name)}
        return {
            target: min((each["rmse"][target], name) for name, each in found.items())
            for target in self.recordings.targets
        }

    def _against_baselines(self, scores: Mapping[str, Any]) -> str:
        """Return the score next to the best baseline's, and if it is no better, what to try."""
        best = self.best_baselines(scores)
        if self.targets is None:
            accuracy, name = best["accuracy"]
            said = f"accuracy {scores['accuracy']:.3f}, {accuracy:.3f} of {name}"
            return said if scores["accuracy"] > accuracy else f"{said}: {_NO_BETTER}"
        target = max(best, key=lambda each: scores["rmse"][each] / max(best[each][0], _TINY))
        error, name = best[target]
        said = f"RMSE of {target} {scores['rmse'][target]:.4g}, {error:.4g} of {name}"
        return said if scores["rmse"][target] < error else f"{said}: {_NO_BETTER}"

    def _difference(self, streams: Mapping[str, Any], windows: Mapping[str, Any]) -> tuple[str, bool, bool]:
        """Return both scores in words, whether streams are better, and whether by more than two points."""
        if self.targets is None:
            left, right = streams["accuracy"], windows["accuracy"]
            what = f"accuracy {left:.3f} with carried states, {right:.3f} of windows from reset"
            return what, left > right, abs(left - right) > _APART
        pairs = {
            target: (streams["rmse"][target], windows["rmse"][target], std)
            for target, std in zip(self.recordings.targets, self.targets.std, strict=True)
        }
        name = max(pairs, key=lambda each: abs(pairs[each][0] - pairs[each][1]) / pairs[each][2])
        left, right, std = pairs[name]
        what = f"RMSE of {name} {left:.4g} with carried states, {right:.4g} of windows from reset"
        return what, left < right, abs(left - right) > _APART * std

    def unscaled(self, values: Tensor) -> Tensor:
        """Return scaled values ``(S, C)`` in their own units, as float64."""
        assert self.targets is not None
        return values.cpu().double() * torch.tensor(self.targets.std) + torch.tensor(self.targets.mean)


def make_experiment(
    recordings: Recordings, sets: SetWindows, data: DataConfig, config: TrainConfig
) -> Experiment:
    """Return the sets as scaled tensors.

    Args:
        recordings: the data.
        sets: their split, cut into windows.
        data: how they were read.
        config: how to train, resolved.
    """
    split, added = _as_differences(recordings, sets.split, data)
    inputs = fit_scale(torch.cat([torch.from_numpy(one.x.astype(np.float32)) for one in split.train]))
    targets = None
    if not recordings.labels:
        values = np.concatenate([one.y for one in split.train if one.y is not None])
        targets = fit_scale(torch.from_numpy(values[sets.windows["train"].last]))
    joined = joins_series(recordings, data.window)
    scaled = {
        name: Dataset.of(
            SeriesSet.of(getattr(split, name), inputs, targets, data.window, joined=joined), windows
        )
        for name, windows in sets.windows.items()
    }
    reason = "a bidirectional network reads the whole sample, no stream can run it" * config.bidirectional
    return Experiment(recordings, split, scaled, inputs, targets, added, data, config, reason)


def _as_differences(recordings: Recordings, split: Split, data: DataConfig) -> tuple[Split, tuple[int, ...]]:
    """Return the sets with changes from now as values, and the places of the features that change.

    They stay as they are, without places, if ``data`` asks for no forecast or for one of the values.
    """
    if not data.forecast:
        return split, ()
    places, wanted = _places(recordings), data.forecast_difference
    if wanted is None:
        wanted = persists([one.x[:, places] for one in split.train])
    if not wanted:
        return split, ()
    parts: dict[str, Any] = {
        name: tuple(
            replace(one, y=(one.y - one.x[:, places]).astype(np.float32)) for one in getattr(split, name)
        )
        for name in SETS
    }
    return replace(split, **parts), tuple(places)


def _places(recordings: Recordings) -> list[int]:
    """Return the places of the features that are forecast."""
    return [recordings.features.index(target) for target in recordings.targets]


def _initialize(model: LSTM1, steps: float) -> None:
    """Set the LSTM's initial parameters in place, drawn from torch's global generator.

    The gates are initialized for memories of 1 to ``steps`` steps (chrono initialization: Tallec and
    Ollivier, "Can recurrent neural networks warp time?", ICLR 2018, equation 16): the forget gate's bias is
    ``log(u)``, ``u`` uniform from 1 to ``steps - 1``, the input gate's its negative. Recurrent weights are
    orthogonal, gate by gate (Saxe et al., 2014).

    Args:
        model: its layers are changed, not its head.
        steps: the usual length of a sample.
    """
    size = model.lstm.hidden_size
    with torch.no_grad():
        for name, parameter in model.lstm.named_parameters():
            if name.startswith("weight_hh"):
                for gate in parameter.chunk(4):
                    nn.init.orthogonal_(gate)
            elif name.startswith("bias_ih"):
                memory = torch.log(torch.empty(size).uniform_(1, max(2.0, steps - 1)))
                parameter.zero_()
                parameter[:size] = -memory
                parameter[size : 2 * size] = memory
            elif name.startswith("bias_hh"):
                parameter.zero_()
