"""The names of states: of those that are lifted, and of the outputs that continue a module's own.

``lift`` names a state after its ONNX node, ``export`` after its layer's path in the module.
"""

import re
from collections.abc import Callable, Collection, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .paths import StateGroup

Naming = Callable[[Sequence["StateGroup"]], Sequence[tuple[str, str]]]
"""Returns for each group the names of its state's input and output."""

_GENERIC = re.compile(r"(lstm|gru|rnn)?(__?\d+)?", re.IGNORECASE)


def name_after_nodes(groups: Sequence["StateGroup"]) -> list[tuple[str, str]]:
    """Name a single layer's states ``h_0/h_n`` and ``c_0/c_n``; with more layers, after each layer's node."""
    layers = list(dict.fromkeys(group.node for group in groups))
    if len(layers) <= 1:
        return [_pair(group) for group in groups]
    known = [_layer_of(str(node.name or "")) for node in layers]
    labels = {
        node: name if name and known.count(name) == 1 else f"{name or node.op_type.lower()}{place}"
        for place, (node, name) in enumerate(zip(layers, known, strict=True))
    }
    return [_pair(group, f"{labels[group.node]}_") for group in groups]


def name_after_modules(
    group: "StateGroup", layers: Sequence[tuple[str, int]], *, single: bool
) -> tuple[str, str]:
    """Name a state after the part of the path that its layers share; ``h_0/h_n`` if there is one layer.

    Args:
        group: the state.
        layers: for each of its places the layer's path in the module, and which of the layer's calls it is.
        single: whether the module calls one recurrent layer, once.
    """
    steps = zip(*(path.split(".") for path, _ in layers), strict=False)
    stem = ".".join(step[0] for step in takewhile(lambda step: len(set(step)) == 1, steps))
    paths, call = {path for path, _ in layers}, layers[0][1]
    if len(paths) == 1 and call:
        stem = f"{stem}_{call + 1}"
    return _pair(group, "" if single or not stem else f"{stem}.")


def output_name(name: str, others: Collection[str]) -> str:
    """Return the name of the output that continues the state input ``name``: ``h_n`` for ``h_0``.

    Of inputs that are numbered (``hidden_0``, ``hidden_1``) each keeps its number: ``hidden_0_n``.
    """
    stem = name.removesuffix("_0")
    return f"{stem}_n" if f"{stem}_1" not in others else f"{name}_n"


def _pair(group: "StateGroup", prefix: str = "") -> tuple[str, str]:
    return f"{prefix}{group.kind}_0", f"{prefix}{group.kind}_n"


def _layer_of(node: str) -> str:
    """Return the part of a node's name that names its layer.

    ``/encoder/lstm/LSTM`` is ``lstm``; ``model/lstm_1/PartitionedCall/LSTM__32`` is ``lstm_1``.
    """
    parts = [
        part
        for part in re.split(r"[/:.]", node)
        if part and not re.fullmatch(r"PartitionedCall.*|while_loop", part)
    ]
    while len(parts) > 1 and (_GENERIC.fullmatch(parts[-1]) and parts[-1].split("_")[0].isupper()):
        parts.pop()
    return re.sub(r"\W+", "_", parts[-1]) if parts else ""
