"""The native engine: one time step by the C library of ``lstm-edge-native``, without onnxruntime.

``compiler`` makes a program of an ONNX graph, ``program`` writes it, ``library`` opens the C library, and
``engine`` runs streams and batches with it.
"""
