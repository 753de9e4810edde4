"""The training loop: epochs, early stopping, and a state from which the next epoch follows exactly."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lstm_edge_runtime.errors import InputError

from ..lstm1 import LSTM1
from .config import TrainConfig
from .dataset import Dataset, crop
from .lanes import Lanes
from .series import cut_streams, stream_outputs

_PREDICTION_BATCH = 256
_STREAMED = (2, 10)
"""Least and most windows of a stream that validation runs; between them as many as an epoch has steps of the
optimizer, so that validation takes a small part of an epoch's time."""
_SHARE = 3
"""The trial from reset gets the last ``1 / _SHARE`` of the epochs."""
_ERRORS, _LOSS = 2.0, 0.1
"""By how much the validation loss of windows must be lower, so that the network of the trial is kept: by two
standard errors of the mean difference, and by what matters."""


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch."""

    number: int
    """From 1."""
    loss: float
    """Mean over the training set, while training: cross entropy, or squared error of scaled values."""
    validation_loss: float
    """The same over the validation set, after the epoch: of streams if states are carried; where no epoch
    before was as low, of whole samples from reset if that is higher."""
    accuracy: float | None
    """On the validation set, of streams if states are carried; None for values."""
    best: int
    """The epoch with the lowest validation loss so far; in a trial from reset, of the trial."""
    trial: bool = False
    """Whether it is part of the trial from reset that follows on training with carried states."""


class Loop:
    """A network in training, epoch by epoch.

    Args:
        model: trained in place.
        train: scaled samples to learn from.
        validation: scaled samples to stop by.
        config: how to train, resolved.
        carry: carry states.
        trial: train the network again from the start, on windows from reset, in the last third of the epochs
            or after the patience, unless it is right on all validation windows by then.
    """

    def __init__(
        self,
        model: LSTM1,
        train: Dataset,
        validation: Dataset,
        config: TrainConfig,
        *,
        carry: bool = False,
        trial: bool = False,
    ) -> None:
        self.epochs: list[Epoch] = []
        self._model = model.to(config.device)
        self._train, self._validation = train.to(config.device), validation.to(config.device)
        self._config = config
        assert config.epochs is not None
        assert config.patience is not None
        self._most, self._patience = config.epochs, config.patience
        self._loss = self._criterion("mean")
        self._initial = copy.deepcopy(model.state_dict())
        self._start()
        self._updates = math.ceil(len(train) / config.batch_size)
        self._lanes: Lanes | None = None
        self._validate: Callable[[LSTM1, float], tuple[float, float | None]] = self._validate_windows
        if carry:
            self._lanes = Lanes(self._train.series, config.batch_size, config.crop, self._order)
            least, most = _STREAMED
            windows = min(max(self._updates, least), most)
            self._streams = cut_streams(self._validation.series, windows, cut=True)
            self._validate = self._validate_streams
        self._snapshot: dict[str, Any] = {}
        self._trial = trial and carry
        self._carried: dict[str, Any] = {}
        """The state that training with carried states goes on from, once the trial from reset has begun."""

    def _start(self) -> None:
        config = self._config
        self._model.load_state_dict(self._initial)
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self._order = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self._dropout = torch.get_rng_state()
        self.best: dict[str, Tensor] = {}
        """The parameters with the lowest validation loss so far; empty before the first epoch."""
        self._best_loss = math.inf

    def _criterion(self, reduction: str) -> nn.Module:
        y, config = self._train.y, self._config
        if y.is_floating_point():
            return nn.MSELoss(reduction=reduction)
        weight = None
        if config.class_weight == "balanced":
            weight = (1 / torch.bincount(y).clamp(min=1)).float()
            weight *= len(y) / (weight * torch.bincount(y)).sum()
        return nn.CrossEntropyLoss(weight, label_smoothing=config.label_smoothing, reduction=reduction)

    @property
    def stopped(self) -> str:
        """Why there is no next epoch: ``epochs`` or ``patience``; empty while there is one."""
        if self.epochs and not self._trial_is_due:
            if len(self.epochs) - self.epochs[-1].best >= self._patience:
                return "patience"
            if len(self.epochs) >= self._most or (
                self._carried and len(self.epochs) >= len(self._carried["epochs"]) + self._most // _SHARE
            ):
                return "epochs"
        return ""

    @property
    def _trial_is_due(self) -> bool:
        """Whether the next epoch is the first one of the trial from reset."""
        done = len(self.epochs)
        if not self._trial or self._carried or not 0 < done < self._most:
            return False
        over = done - self.epochs[-1].best >= self._patience or done >= self._most - self._most // _SHARE
        return over and self._windows(self.best)[1] != 1

    def _begin_trial(self) -> None:
        self._carried = self.state_dict()
        self._lanes, self._validate = None, self._validate_windows
        self._start()

    def _windows(self, parameters: dict[str, Tensor]) -> tuple[Tensor, float | None]:
        """Return the loss ``(S,)`` of each validation window from reset, and their accuracy."""
        model = copy.deepcopy(self._model)
        model.load_state_dict(parameters)
        outputs, y = predict(model, self._validation), self._validation.y
        losses = self._criterion("none")(outputs, y).reshape(len(y), -1)
        return losses.mean(dim=1), _accuracy(outputs, y)

    @property
    def reason(self) -> str:
        """Why the network of the trial from reset is the one to keep; empty where it is not."""
        if not (self._carried and self.best):
            return ""
        (carried, accuracy), (reset, _) = self._windows(self._carried["best"]), self._windows(self.best)
        if accuracy == 1 or not surely_lower(reset, carried):
            return ""
        return (
            "the output needs the whole sample (carried states raised the validation loss of windows from "
            f"{float(reset.mean()):.2f} to {float(carried.mean()):.2f}), so restart streams at every sample; "
            "--carry on carries states all the same"
        )

    @property
    def kept(self) -> tuple[dict[str, Tensor], int]:
        """The parameters to keep so far, and their epoch."""
        if self._carried and not self.reason:
            return self._carried["best"], self._carried["epochs"][-1]["best"]
        return self.best, self.epochs[-1].best

    def run_epoch(self) -> Epoch:
        """Train on every sample once and validate.

        Raises:
            InputError: the loss is no longer finite.
        """
        if self._trial_is_due:
            self._begin_trial()
        with torch.random.fork_rng():
            torch.set_rng_state(self._dropout)
            loss = self._train_once()
            dropout = torch.get_rng_state()
        validation_loss, accuracy = self._validate(self._model, self._best_loss)
        if not (math.isfinite(loss) and math.isfinite(validation_loss)):
            raise InputError(
                f"the loss is {loss} in epoch {len(self.epochs) + 1}; give a lower --learning-rate than "
                f"{self._config.learning_rate}"
            )
        self._dropout = dropout
        number = len(self.epochs) + 1
        if validation_loss < self._best_loss:
            self._best_loss = validation_loss
            self.best = {
                name: tensor.detach().cpu().clone() for name, tensor in self._model.state_dict().items()
            }
            best = number
        else:
            best = self.epochs[-1].best
        self.epochs.append(Epoch(number, loss, validation_loss, accuracy, best, bool(self._carried)))
        self._snapshot = self._state()
        return self.epochs[-1]

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next epoch follows from, as it was at the end of the last whole epoch."""
        return {**self._snapshot, "epochs": [asdict(epoch) for epoch in self.epochs]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave.

        Raises:
            ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError: ``state`` is
                something else.
        """
        if state["carried"]:
            self._load(state["carried"])
            if not self._trial_is_due:  # there are more epochs now
                return
            self._begin_trial()
            if len(state["epochs"]) <= len(self.epochs):
                raise ValueError(f"{len(state['epochs'])} epochs with a trial from reset")
        self._load(state)

    def _load(self, state: dict[str, Any]) -> None:
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._order.set_state(state["order"])
        self._dropout = state["dropout"]
        torch.Generator().set_state(self._dropout)
        if self._lanes is not None:
            self._lanes.load_state_dict(state["lanes"], self._model)
        self._best_loss = float(state["best_loss"])
        self.best = {str(name): tensor.cpu() for name, tensor in state["best"].items()}
        self.epochs = [_epoch(number, epoch) for number, epoch in enumerate(state["epochs"], start=1)]
        self._snapshot = self._state()
        self._try_out()

    def _try_out(self) -> None:
        """Use a copy of what was loaded, so that what does not fit shows before training goes on."""
        best = copy.deepcopy(self._model)
        best.load_state_dict(self.best)
        loss, _ = self._validate(best, math.inf)
        if not abs(loss - self._best_loss) <= 1e-3 * max(1.0, loss):
            raise ValueError(f"the loss of its best epoch is {loss}, expected {self._best_loss}")
        model, optimizer = copy.deepcopy((self._model, self._optimizer))
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()

    def _state(self) -> dict[str, Any]:
        return {
            "model": {name: tensor.detach().clone() for name, tensor in self._model.state_dict().items()},
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
            "order": self._order.get_state(),
            "dropout": self._dropout,
            "best_loss": self._best_loss,
            "best": self.best,
            "carried": self._carried,
            **({} if self._lanes is None else {"lanes": self._lanes.state_dict()}),
        }

    def _validate_windows(self, model: LSTM1, _best: float) -> tuple[float, float | None]:
        outputs, y = predict(model, self._validation), self._validation.y
        return float(self._loss(outputs, y)), _accuracy(outputs, y)

    def _validate_streams(self, model: LSTM1, best: float) -> tuple[float, float | None]:
        """Return loss and accuracy of streams that carry their states.

        Of whole samples, the higher one of this loss and that from reset, if both can be lower than the best.
        """
        series, where = self._validation.series, self._streams.picked
        outputs, y = stream_outputs(model, series, self._streams, where), series.y[self._streams.step[where]]
        loss = float(self._loss(outputs, y))
        if series.window is None and loss < best:
            loss = max(loss, self._validate_windows(model, best)[0])
        return loss, _accuracy(outputs, y)

    def _train_once(self) -> float:
        self._model.train()
        total = count = 0.0
        for loss, rows in self._losses():
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self._model.parameters(), self._config.clip)
            self._optimizer.step()
            total += float(loss.detach()) * rows
            count += rows
        return total / count

    def _losses(self) -> Iterator[tuple[Tensor, int]]:
        """Yield the loss of each batch of an epoch, and the count of its samples."""
        if self._lanes is not None:
            criterion = self._criterion("none")
            for _ in range(self._updates):
                yield self._lanes.loss(self._model, criterion), self._config.batch_size
            return
        order = torch.randperm(len(self._train), generator=self._order)
        for rows in order.split(self._config.batch_size):  # type: ignore[no-untyped-call]
            batch = self._train.take(rows)
            if self._config.crop < 1:
                batch = crop(batch, self._config.crop, self._order)
            yield self._loss(self._model(batch.x, lengths=batch.ragged), batch.y), len(rows)


def surely_lower(losses: Tensor, others: Tensor) -> bool:
    """Return whether losses ``(S,)`` are lower on average, by more than ``_ERRORS`` and ``_LOSS``."""
    gain = others - losses
    error = float(gain.std(correction=0)) / math.sqrt(max(len(gain) - 1, 1))
    return len(gain) > 1 and float(gain.mean()) > max(_LOSS, _ERRORS * error)


def _accuracy(outputs: Tensor, y: Tensor) -> float | None:
    """Return the share of right classes; None for values."""
    return None if y.is_floating_point() else float((outputs.argmax(dim=1) == y).double().mean())


def _epoch(number: int, values: dict[str, Any]) -> Epoch:
    epoch = Epoch(**values)
    losses = (epoch.loss, epoch.validation_loss, 0.0 if epoch.accuracy is None else epoch.accuracy)
    if epoch.number != number or type(epoch.best) is not int or not 1 <= epoch.best <= number:
        raise ValueError(f"epoch {number} is {epoch}")
    if not all(type(value) is float for value in losses) or type(epoch.trial) is not bool:
        raise TypeError(f"epoch {number} is {epoch}")
    return epoch


@torch.no_grad()
def predict(model: LSTM1, dataset: Dataset) -> Tensor:
    """Return the outputs ``(S, C)`` of scaled samples, in evaluation mode and in batches."""
    model.eval()
    outputs = []
    for rows in torch.arange(len(dataset)).split(_PREDICTION_BATCH):  # type: ignore[no-untyped-call]
        batch = dataset.take(rows)
        outputs.append(model(batch.x, lengths=batch.ragged))
    return torch.cat(outputs)
