"""Names for lifted states."""

import re
from collections.abc import Callable, Sequence

from ._groups import Group

__all__ = ["Naming", "default_naming", "layer_name"]

Naming = Callable[[Sequence[Group]], Sequence[tuple[str, str]]]
"""Gives each group the names of its state's input and output."""

_GENERIC = re.compile(r"(lstm|gru|rnn)?(__?\d+)?", re.IGNORECASE)


def default_naming(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """Name a single layer's states ``h_0/h_n`` and ``c_0/c_n``; with more layers, after each layer's node."""
    layers = list(dict.fromkeys(group.places[0].slot.node for group in groups))
    if len(layers) <= 1:
        return [(f"{group.kind}_0", f"{group.kind}_n") for group in groups]
    known = [layer_name(str(node.name or "")) for node in layers]
    labels = {
        node: name if name and known.count(name) == 1 else f"{name or node.op_type.lower()}{place}"
        for place, (node, name) in enumerate(zip(layers, known, strict=True))
    }
    return [
        (
            f"{labels[group.places[0].slot.node]}_{group.kind}_0",
            f"{labels[group.places[0].slot.node]}_{group.kind}_n",
        )
        for group in groups
    ]


def layer_name(node: str) -> str:
    """Return the part of a node's name that names its layer.

    ``/encoder/lstm/LSTM`` gives ``lstm``; ``model/lstm_1/PartitionedCall/LSTM__32`` gives ``lstm_1``.
    """
    parts = [
        part for part in re.split(r"[/:.]", node) if part and not re.fullmatch(r"PartitionedCall.*", part)
    ]
    while len(parts) > 1 and (_GENERIC.fullmatch(parts[-1]) and parts[-1].split("_")[0].isupper()):
        parts.pop()
    return re.sub(r"\W+", "_", parts[-1]) if parts else ""
