"""Train an LSTM1 and take it to the edge."""

from lstm_edge_runtime import __version__

__all__ = ["__version__"]
