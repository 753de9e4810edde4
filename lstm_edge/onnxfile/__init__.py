"""Read what an ONNX file holds and costs, with numpy and onnxruntime only: neither onnx nor torch."""

from .cost import Cost, measure_cost
from .graph import Graph, Node, Tensor, read_graph

__all__ = ["Cost", "Graph", "Node", "Tensor", "measure_cost", "read_graph"]
