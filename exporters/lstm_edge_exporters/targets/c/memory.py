"""Location of each buffer of a program in C: with the caller, in the state, in flash,
or in working memory.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..native.operations import RECURRENT, Code
from ..native.program import ProgramWriter

_IN_PLACE = (Code.UNARY, Code.BINARY, Code.SOFTMAX, Code.NORMALIZE, Code.WHERE)
"""Operations whose result may overwrite an input of the same width."""
_GATE_ROWS = {Code.LSTM: 4, Code.GRU: 4, Code.RNN: 1}
"""Sums of a layer's gates, as multiples of its units; a GRU keeps the part of its
candidate that the reset gate scales."""


def size_of(writer: ProgramWriter, buffer: int) -> int:
    """Return the float32 elements that a buffer takes up."""
    return writer.width(buffer) * (2 if writer.dtype(buffer) == "int64" else 1)


@dataclass
class Span:
    """A range of working memory, from the first operation that needs it to the
    last.
    """

    size: int
    """Number of elements."""
    first: int
    """Index of the first operation that needs it."""
    last: int
    """Index of the last operation that needs it."""
    offset: int = 0
    """Place in working memory."""

    @property
    def end(self) -> int:
        """The place after the last element."""
        return self.offset + self.size

    def is_needed_with(self, other: "Span") -> bool:
        """Return True if an operation needs both."""
        return self.first <= other.last and other.first <= self.last


def last_reads(writer: ProgramWriter) -> dict[int, int]:
    """Return the last operation that reads each buffer; the number of operations for
    outputs and states.
    """
    operations = writer.operations
    last = {}
    for number, operation in enumerate(operations):
        last.update(dict.fromkeys(operation.reads, number))
    end = len(operations)
    last.update({port.buffer: end for port in writer.ports("outputs")})
    last.update({port.next: end for port in writer.ports("states")})
    return last


def plan(
    writer: ProgramWriter, placed: Mapping[int, object]
) -> tuple[dict[int, Span], dict[int, Span]]:
    """Plan the working memory.

    Args:
        writer: the program.
        placed: the buffers that lie elsewhere.

    Returns:
        The span of each other buffer, and the span of each recurrent operation's gates
        by its number.
    """
    last = last_reads(writer)
    spans: dict[int, Span] = {}
    gates: dict[int, Span] = {}
    for number, operation in enumerate(writer.operations):
        if operation.code in RECURRENT:
            size = _GATE_ROWS[operation.code] * writer.width(operation.argument("h"))
            gates[number] = Span(size, number, number)
        for buffer in operation.writes:
            if buffer in placed or buffer in spans:
                continue
            size = size_of(writer, buffer)
            ending = [read for read in operation.reads if last[read] == number]
            reusable = [
                spans[read]
                for read in ending
                if read in spans and size_of(writer, read) == size
            ]
            span = Span(size, number, number)
            if reusable and operation.code in _IN_PLACE:
                span = reusable[0]
            span.last = max(span.last, last.get(buffer, number))
            spans[buffer] = span
    return spans, gates


def lay(spans: Iterable[Span]) -> int:
    """Give each span an offset apart from those needed at the same time; return the
    size.
    """
    placed: list[Span] = []
    unique = {id(span): span for span in spans}
    largest_first = sorted(unique.values(), key=lambda span: (-span.size, span.first))
    for span in largest_first:
        at_one_time = [other for other in placed if span.is_needed_with(other)]
        for other in sorted(at_one_time, key=lambda other: other.offset):
            if span.offset < other.end and other.offset < span.end:
                span.offset = other.end
        placed.append(span)
    return max((span.end for span in placed), default=0)
