"""Rewriting ``layout=1`` nodes, which onnxruntime's CPU provider does not run, as ``layout=0``."""

import onnx_ir as ir

from ..recurrent import recurrent_nodes

__all__ = ["to_layout_0"]

_SWAP = (1, 0, 2)
_ENTERING: dict[int, tuple[int, ...]] = {0: _SWAP, 5: _SWAP, 6: _SWAP}
_LEAVING: dict[int, tuple[int, ...]] = {0: (2, 0, 1, 3), 1: _SWAP, 2: _SWAP}
"""``Y`` from ``(L, D, N, H)`` to ``(N, L, D, H)``; ``Y_h``, ``Y_c`` from ``(D, N, H)`` to ``(N, D, H)``."""


def to_layout_0(model: ir.Model) -> int:
    """Rewrite the nodes in place; gives how many there were."""
    nodes = [node for node in recurrent_nodes(model) if node.attributes.get_int("layout", 0)]
    for node in nodes:
        node.attributes.pop("layout")
        for place, order in _ENTERING.items():
            value = node.inputs[place] if len(node.inputs) > place else None
            if value is not None:
                swapped = ir.node("Transpose", [value], {"perm": list(order)})
                node.prepend(swapped)
                node.replace_input_with(place, swapped.outputs[0])
        for place, order in _LEAVING.items():
            if len(node.outputs) <= place or not node.outputs[place].name:
                continue
            old = node.outputs[place]
            back = ir.node("Transpose", [old], {"perm": list(order)})
            node.append(back)
            new = back.outputs[0]
            new.name, new.type, new.shape = old.name, old.type, old.shape
            old.name, old.shape = f"{old.name}.layout_0", None
            for user, index in list(old.uses()):
                if user is not back:
                    user.replace_input_with(index, new)
            graph = node.graph
            if old.is_graph_output() and isinstance(graph, ir.Graph):
                graph.outputs[:] = [new if value is old else value for value in graph.outputs]
    return len(nodes)
