"""Adding ONNX nodes in front of one node, and putting their values in its place."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["Builder"]

Array = npt.NDArray[Any]


class Builder:
    """Inserts nodes before ``node`` in its graph, named after ``prefix``."""

    def __init__(self, node: ir.Node, prefix: str) -> None:
        assert node.graph is not None
        self._node = node
        self._graph: Any = node.graph
        self._prefix = prefix
        self.last = node
        """The node added last."""
        self._taken = {value.name for value in self._graph.initializers.values()} | {
            value.name for each in self._graph for value in each.outputs
        }

    def node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        outputs: int = 1,
        name: str = "",
    ) -> Sequence[ir.Value]:
        """Add one node of the ``ai.onnx`` domain and give its outputs."""
        made = ir.node(op, inputs, attributes or {}, num_outputs=outputs, name=self._name(name or op))
        for index, value in enumerate(made.outputs):
            value.name = self._name(f"{name or op}_{index}" if outputs > 1 else f"{name or op}_out")
            if inputs[0] is not None and inputs[0].dtype is not None:
                value.dtype = inputs[0].dtype
        self._graph.insert_before(self._node, made)
        self.last = made
        return made.outputs

    def constant(self, array: Array, name: str) -> ir.Value:
        """Add an initializer."""
        title = self._name(name)
        value = ir.Value(
            name=title,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            const_value=ir.tensor(array, name=title),
        )
        self._graph.register_initializer(value)
        return value

    def weight(self, array: Array, name: str) -> ir.Value:
        """Add a float32 initializer; a layer called again finds the one that it made before."""
        narrow = array.astype(np.float32)
        known = self._graph.initializers.get(f"{self._prefix}.{name}")
        if known is not None and np.array_equal(known.const_value.numpy(), narrow):
            return known  # type: ignore[no-any-return]
        return self.constant(narrow, name)

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Return ``value`` as ``dtype``."""
        (out,) = self.node("Cast", [value], {"to": int(dtype)})
        out.dtype = dtype
        return out

    def concat(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        """Join ``values`` along ``axis``; one value is given back as it is."""
        return values[0] if len(values) == 1 else self.node("Concat", values, {"axis": axis})[0]

    def split(self, value: ir.Value, sizes: Sequence[int], axis: int) -> list[ir.Value]:
        """Cut ``value`` along ``axis``."""
        cuts = self.constant(np.array(sizes, np.int64), "split")
        return list(self.node("Split", [value, cuts], {"axis": axis}, outputs=len(sizes)))

    def matmul(self, left: ir.Value, right: ir.Value) -> ir.Value:
        """Return ``left @ right``."""
        return self.node("MatMul", [left, right])[0]

    def squeeze(self, value: ir.Value, axis: int) -> ir.Value:
        """Drop an axis of length one."""
        return self.node("Squeeze", [value, self.constant(np.array([axis], np.int64), "axis")])[0]

    def transpose(self, value: ir.Value, order: Sequence[int]) -> ir.Value:
        """Permute the axes."""
        return self.node("Transpose", [value], {"perm": list(order)})[0]

    def reshape(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Reshape; 0 keeps an axis, -1 takes what is left."""
        return self.node("Reshape", [value, self.constant(np.array(shape, np.int64), "shape")])[0]

    def replace(self, values: Sequence[ir.Value]) -> None:
        """Put ``values`` in the place of the node's outputs and remove the node."""
        for old, new in zip(self._node.outputs, values, strict=False):
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        self._graph.remove(self._node, safe=True)

    def _name(self, stem: str) -> str:
        title, count = f"{self._prefix}.{stem}", 0
        while title in self._taken:
            count += 1
            title = f"{self._prefix}.{stem}_{count}"
        self._taken.add(title)
        return title
