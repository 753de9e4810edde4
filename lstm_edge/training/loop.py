"""The training loop: epochs, early stopping, and a state from which the next epoch follows exactly."""

import copy
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lstm_edge_runtime.errors import InputError

from ..lstm1 import LSTM1
from .config import TrainConfig
from .dataset import Dataset, crop

__all__ = ["Epoch", "Loop", "predict"]

_PREDICTION_BATCH = 256


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch."""

    number: int
    """From 1."""
    loss: float
    """Mean over the training set, while training: cross entropy, or squared error of scaled values."""
    validation_loss: float
    """The same over the validation set, after the epoch."""
    accuracy: float | None
    """On the validation set; None for values."""
    best: int
    """The epoch with the lowest validation loss so far."""


class Loop:
    """A network in training, epoch by epoch.

    Args:
        model: trained in place.
        train: scaled samples to learn from.
        validation: scaled samples to stop by.
        config: how to train, resolved.
    """

    def __init__(self, model: LSTM1, train: Dataset, validation: Dataset, config: TrainConfig) -> None:
        self.epochs: list[Epoch] = []
        self._model = model.to(config.device)
        self._train, self._validation = train.to(config.device), validation.to(config.device)
        self._config = config
        assert config.epochs is not None
        assert config.patience is not None
        self._most, self._patience = config.epochs, config.patience
        self._classes = not train.y.is_floating_point()
        self._loss: nn.Module = nn.MSELoss()
        if self._classes:
            weight = None
            if config.class_weight == "balanced":
                weight = (1 / torch.bincount(self._train.y).clamp(min=1)).float()
                weight *= len(train) / (weight * torch.bincount(self._train.y)).sum()
            self._loss = nn.CrossEntropyLoss(weight, label_smoothing=config.label_smoothing)
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self._order = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self._dropout = torch.get_rng_state()
        self._best_loss = math.inf
        self.best: dict[str, Tensor] = {}
        """The parameters with the lowest validation loss so far; empty before the first epoch."""
        self._snapshot: dict[str, Any] = {}

    @property
    def stopped(self) -> str:
        """Why there is no next epoch: ``epochs`` or ``patience``; empty while there is one."""
        if self.epochs:
            if len(self.epochs) - self.epochs[-1].best >= self._patience:
                return "patience"
            if len(self.epochs) >= self._most:
                return "epochs"
        return ""

    def run_epoch(self) -> Epoch:
        """Train on every sample once and validate.

        Raises:
            InputError: the loss is no longer finite.
        """
        with torch.random.fork_rng():
            torch.set_rng_state(self._dropout)
            loss = self._train_once()
            dropout = torch.get_rng_state()
        outputs = predict(self._model, self._validation)
        validation_loss = float(self._loss(outputs, self._validation.y))
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
        hits = (outputs.argmax(dim=1) == self._validation.y).double().mean() if self._classes else None
        self.epochs.append(Epoch(number, loss, validation_loss, None if hits is None else float(hits), best))
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
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._order.set_state(state["order"])
        self._dropout = state["dropout"]
        torch.Generator().set_state(self._dropout)
        self._best_loss = float(state["best_loss"])
        self.best = {str(name): tensor.cpu() for name, tensor in state["best"].items()}
        self.epochs = [_epoch(number, epoch) for number, epoch in enumerate(state["epochs"], start=1)]
        self._snapshot = self._state()
        self._try_out()

    def _try_out(self) -> None:
        """Use a copy of what was loaded, so that what does not fit shows before training goes on."""
        best = copy.deepcopy(self._model)
        best.load_state_dict(self.best)
        loss = float(self._loss(predict(best, self._validation), self._validation.y))
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
        }

    def _train_once(self) -> float:
        self._model.train()
        total = 0.0
        order = torch.randperm(len(self._train), generator=self._order)
        for rows in order.split(self._config.batch_size):  # type: ignore[no-untyped-call]
            batch = self._train.take(rows)
            if self._config.crop < 1:
                batch = crop(batch, self._config.crop, self._order)
            self._optimizer.zero_grad()
            loss = self._loss(self._model(batch.x, lengths=batch.ragged), batch.y)
            loss.backward()
            nn.utils.clip_grad_norm_(self._model.parameters(), self._config.clip)
            self._optimizer.step()
            total += float(loss.detach()) * len(rows)
        return total / len(self._train)


def _epoch(number: int, values: dict[str, Any]) -> Epoch:
    epoch = Epoch(**values)
    losses = (epoch.loss, epoch.validation_loss, 0.0 if epoch.accuracy is None else epoch.accuracy)
    if epoch.number != number or type(epoch.best) is not int or not 1 <= epoch.best <= number:
        raise ValueError(f"epoch {number} is {epoch}")
    if not all(type(value) is float for value in losses):
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
