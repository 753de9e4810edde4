"""The free axes of a graph's inputs: their names, and sizes for them."""

from collections.abc import Mapping

import onnx_ir as ir

__all__ = ["axes_of", "axis_name", "data_inputs", "sizes_for", "symbols"]


def data_inputs(graph: ir.Graph) -> list[ir.Value]:
    """Return the inputs that a caller must feed: those without an initializer of the same name."""
    return [value for value in graph.inputs if not value.is_initializer()]


def axes_of(value: ir.Value) -> tuple[int | str, ...]:
    """Return a value's axes: an int where fixed, a name where free (``name.1`` for one without a name)."""
    return tuple(
        axis if isinstance(axis, int) else axis.value or f"{value.name}.{place}"
        for place, axis in enumerate(value.shape or ())
    )


def symbols(graph: ir.Graph) -> list[str]:
    """Return the names of the free axes of the inputs, in order of appearance."""
    return list(
        dict.fromkeys(
            axis for value in data_inputs(graph) for axis in axes_of(value) if isinstance(axis, str)
        )
    )


def sizes_for(graph: ir.Graph, first: int, given: Mapping[str, int] | None = None) -> dict[str, int]:
    """Return every free axis a size of its own, counting up from ``first``, save for those ``given``."""
    sizes = {name: first + place for place, name in enumerate(symbols(graph))}
    return sizes | {name: size for name, size in (given or {}).items() if name in sizes}


def axis_name(rows: tuple[int, int], cases: tuple[Mapping[str, int], Mapping[str, int]]) -> int | str | None:
    """Name an axis that has ``rows`` in two runs whose sizes all differ: fixed, ``N`` or ``2*N``.

    None where it follows no single free axis.
    """
    if rows[0] == rows[1]:
        return rows[0]
    for name, size in cases[0].items():
        times, rest = divmod(rows[0], size)
        if rest == 0 and times and rows[1] == times * cases[1][name]:
            return name if times == 1 else f"{times}*{name}"
    return None
