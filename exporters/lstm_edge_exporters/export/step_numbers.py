"""The number of a step while a loop over time is traced.

It grows evenly, and forward may decide nothing by it but what the first step does.
"""

import math
import operator
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import torch
from torch import Tensor

from lstm_edge_runtime.errors import UnsupportedError

from ._torch_internals import pytree
from .advice import calling_line

if TYPE_CHECKING:
    from typing_extensions import Self

_LATE = 10**9
"""A step that stands for all late ones."""
_TOLERANCE = 1e-12
"""Relative difference of numbers that grow evenly."""
_SIZES = (torch.SymInt, torch.SymFloat)
_OWN_COUNT = (
    "a count in a tensor: n = torch.zeros(x.size(0), 1) in front of the loop, n = n + 1"
    " in it, and torch.where(n % 2 == 0, a, b)"
)
"""What to use instead of the number of a step."""
Method = Callable[[Any, Any], Any]


class Results(Protocol):
    """The results of the steps of loops over time."""

    def look_up(self, frame: FrameType) -> None:
        """Note that the line that runs in ``frame`` takes the ordinary number; refuse
        what may differ at later steps.
        """


def _linear(compute: Method) -> Method:
    """Return the method of an operator whose results also grow evenly."""

    def method(self: Any, other: Any) -> Any:
        """Return the result as a line through three steps; refuse others."""
        if isinstance(other, Tensor):
            return NotImplemented
        if isinstance(other, _SIZES):
            return compute(plain_number(self), other)
        if not isinstance(other, int | float):
            return NotImplemented
        values = [
            compute(self.at(k), other.at(k) if isinstance(other, Evenly) else other)
            for k in (0, 1, 2)
        ]
        slope = values[1] - values[0]
        if abs(values[2] - values[1] - slope) > _TOLERANCE * abs(slope):
            return self.refuse()
        return evenly(values[0], slope, iteration=self.iteration, results=self.results)

    return method


def _swapped(compute: Method) -> Method:
    """Exchange the operands, for methods such as ``__rsub__``."""
    return lambda one, other: compute(other, one)


def _refused(self: Any, *_: Any) -> Any:
    """Refuse an operation that the number of a step can't take."""
    return self.refuse()


def _comparison(compare: Method) -> Method:
    """Return the method that compares a step's number."""
    return lambda self, other: self.compared(compare, other)


class Evenly(float):
    """A number ``base + slope * k`` of iteration k, instead of an ``int`` or a
    ``float``.

    As a ``float``, it is asked first where it stands on the right of a number. Sums
    and multiples are numbers of the same kind. A comparison answers if all steps but
    the first get the same answer.
    """

    base: float
    slope: float
    iteration: int
    results: Results

    def __new__(
        cls, base: float, slope: float, iteration: int, results: Results
    ) -> "Self":
        """Make the number of an iteration."""
        # functions in C read the float itself: NaN shows that one did
        made = super().__new__(cls, math.nan)
        made.base = base
        made.slope = slope
        made.iteration = iteration
        made.results = results
        return made

    __add__ = __radd__ = _linear(operator.add)
    __sub__ = _linear(operator.sub)
    __rsub__ = _linear(_swapped(operator.sub))
    __mul__ = __rmul__ = _linear(operator.mul)
    __truediv__ = _linear(operator.truediv)
    __mod__ = __floordiv__ = __pow__ = __rpow__ = __rtruediv__ = _refused
    __rmod__ = __rfloordiv__ = __divmod__ = __rdivmod__ = _refused
    __and__ = __or__ = __xor__ = __lshift__ = __rshift__ = _refused
    __lt__ = _comparison(operator.lt)
    __le__ = _comparison(operator.le)
    __gt__ = _comparison(operator.gt)
    __ge__ = _comparison(operator.ge)

    def __eq__(self, other: object) -> Any:
        """Compare with a number."""
        return self.compared(operator.eq, other)

    def __ne__(self, other: object) -> Any:
        """Compare with a number."""
        return self.compared(operator.ne, other)

    def __hash__(self) -> int:
        """Refuse to be looked up in a set or dict."""
        self.refuse_lookup()

    def __index__(self) -> int:
        """Return the ordinary number, as an index of a list of results or of a tensor;
        refuse other lists, which may hold anything for later steps.
        """
        self.results.look_up(sys._getframe(1))
        return operator.index(self.number)  # type: ignore[arg-type]

    __int__ = __trunc__ = __floor__ = __ceil__ = __round__ = _refused
    __abs__ = is_integer = as_integer_ratio = _refused

    def __str__(self) -> str:
        """Refuse to be written as text."""
        self.refuse_lookup()

    __repr__ = __str__

    def __format__(self, specification: str) -> str:
        """Refuse to be written as text."""
        self.refuse_lookup()

    @property
    def number(self) -> float:
        """The ordinary number, of this iteration."""
        return self.at(self.iteration)

    @property
    def is_whole(self) -> bool:
        """True for an ``int``."""
        return isinstance(self.number, int)

    def __bool__(self) -> bool:
        """Return True if the number is not 0."""
        return bool(self.compared(operator.ne, 0))

    def __pos__(self) -> "Self":
        """Return the number itself."""
        return self

    def __neg__(self) -> Any:
        """Return the negative number, which also grows evenly."""
        return self * -1

    def at(self, iteration: int) -> float:
        """Return the number of another iteration."""
        return self.base + self.slope * iteration

    def converted(self, number_type: type) -> Any:
        """Return the number as an ``int`` or ``float``."""
        if number_type is int and not self.is_whole:
            return self.refuse()
        return evenly(
            number_type(self.base),
            number_type(self.slope),
            iteration=self.iteration,
            results=self.results,
        )

    def compared(self, compare: Method, other: Any) -> Any:
        """Return a comparison that all steps but the first answer alike.

        Raises:
            UnsupportedError: later steps answer differently.
        """
        if isinstance(other, _SIZES):
            raise _refusal(
                "compares the number of a step with a length",
                _OWN_COUNT,
            )
        if not isinstance(other, int | float):
            return NotImplemented
        second = other.at(1) if isinstance(other, Evenly) else other
        slope = self.slope - (other.slope if isinstance(other, Evenly) else 0)
        answer = compare(self.at(1), second)
        late = compare(self.at(1) + slope * _LATE, second)
        zero = (second - self.at(1)) / slope if slope else -1.0
        crosses = compare in (operator.eq, operator.ne) and zero >= 0 and zero % 1 == 0
        if answer != late or crosses:
            raise _refusal(
                "treats one of the later steps differently",
                _OWN_COUNT,
            )
        return compare(plain_number(self), plain_number(other))

    def refuse(self) -> Any:
        """Raise the error for arithmetic whose results do not grow evenly."""
        raise _refusal(
            "computes with the number of a step",
            _OWN_COUNT,
        )

    def refuse_lookup(self) -> NoReturn:
        """Raise the error for a value that is looked up or spelled by the number of a
        step.
        """
        raise looked_up(calling_line(sys._getframe(1)))


def looked_up(line: str) -> UnsupportedError:
    """Return the error for a line that looks a value up by the number of a step."""
    return _refusal(
        "looks something up by the number of a step, or writes it as text",
        "a tensor with one element per step, and read its element t",
        line,
    )


def evenly(base: float, slope: float, iteration: int, results: Results) -> Any:
    """Return the number ``base + slope * iteration`` that remembers how it grows."""
    return (
        Evenly(base=base, slope=slope, iteration=iteration, results=results)
        if slope
        else base
    )


def plain_numbers(args: Any) -> Any:
    """Return ``args`` with ordinary numbers."""
    return pytree.tree_map(_ordinary, args)


def _ordinary(value: Any) -> Any:
    """Return an ordinary number; refuse what a function in C made of a step's."""
    if isinstance(value, float) and not isinstance(value, Evenly) and value != value:
        raise _refusal(
            "takes NaN, or computes with the number of a step by a function of Python or"
            " NumPy",
            _OWN_COUNT,
        )
    return plain_number(value)


def plain_number(value: Any) -> Any:
    """Return an ordinary number for one that grows evenly."""
    return value.number if isinstance(value, Evenly) else value


def _refusal(reason: str, advice: str, line: str = "") -> UnsupportedError:
    """Return the error for a line, or for the one that calls."""
    line = line or calling_line(sys._getframe(1))
    return UnsupportedError(
        f"forward has a loop over time that {reason} ({line}); use {advice}"
    )
