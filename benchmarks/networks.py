"""Building blocks of the small networks that the benchmarks export."""

from typing import Any

from torch import Tensor, nn

__all__ = ["Layers", "OverTime"]


class Layers(nn.Module):
    """A recurrent layer, batch first, and what people put before and after it."""

    def __init__(
        self,
        layer: nn.Module,
        before: nn.Module | None = None,
        after: nn.Module | None = None,
        *,
        states: bool = False,
    ) -> None:
        super().__init__()
        self.before, self.layer, self.after = before or nn.Identity(), layer, after or nn.Identity()
        self.states = states

    def forward(self, x: Tensor) -> Any:
        """Run on ``x (N, L, I)``."""
        y, state = self.layer(self.before(x))
        return (self.after(y), state) if self.states else self.after(y)


class OverTime(nn.Module):
    """A layer that has time last, on ``(N, L, I)``."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Run on ``x (N, L, I)``."""
        return self.layer(x.transpose(1, 2)).transpose(1, 2)
