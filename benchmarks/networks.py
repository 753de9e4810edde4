"""Building blocks of the small networks that the benchmarks export."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Chain(nn.Sequential):
    """Layers one after the other; the input is called ``x``."""

    def forward(self, x: Tensor) -> Any:
        """Run the layers on the arguments of the first one."""
        return super().forward(x)


class Layers(nn.Module):
    """A recurrent layer, batch first, with modules before and after it."""

    def __init__(
        self,
        layer: nn.Module,
        before: nn.Module | None = None,
        after: nn.Module | None = None,
        *,
        states: bool = False,
    ) -> None:
        super().__init__()
        self.before = before or nn.Identity()
        self.layer = layer
        self.after = after or nn.Identity()
        self.states = states

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: Any = None
    ) -> Any:
        """Run on ``x (N, L, I)``, packed if there are ``lengths``; a ``state`` that is
        given is returned.
        """
        inputs = self.before(x)
        if lengths is not None:
            inputs = pack_padded_sequence(
                inputs, lengths.cpu(), batch_first=True, enforce_sorted=False
            )
        y, last = self.layer(inputs, *(() if state is None else (state,)))
        if lengths is not None:
            y = pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])[0]
        y = self.after(y)
        if state is not None:
            return (y, *last) if isinstance(last, tuple) else (y, last)
        return (y, last) if self.states else y


def lstm(width: int, hidden: int, layers: int = 1) -> Layers:
    """Return an LSTM that gives every step ``(N, L, hidden)``."""
    return Layers(nn.LSTM(width, hidden, layers, batch_first=True))


def gru(width: int, hidden: int, layers: int = 1) -> Layers:
    """Return a GRU that gives every step ``(N, L, hidden)``."""
    return Layers(nn.GRU(width, hidden, layers, batch_first=True))


class Fn(nn.Module):
    """A function of the input, and of layers and tensors that it takes by name."""

    def __init__(
        self, function: Callable[..., Tensor], **parts: nn.Module | Tensor
    ) -> None:
        super().__init__()
        self.function = function
        self.names = tuple(parts)
        for name, part in parts.items():
            if isinstance(part, (nn.Module, nn.Parameter)):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: Tensor) -> Tensor:
        """Run the function on its arguments."""
        return self.function(x, **{name: getattr(self, name) for name in self.names})


def over_time(*layers: nn.Module) -> Chain:
    """Return layers that have time last, on ``(N, L, C)``; or time first, on
    ``(N, C, L)``.
    """
    return Chain(
        Fn(lambda x: x.transpose(1, 2)), *layers, Fn(lambda y: y.transpose(1, 2))
    )
