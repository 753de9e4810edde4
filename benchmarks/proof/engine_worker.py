"""Run files in one engine for ``engines.py``: requests on standard input, results on standard output.

A request holds a file and calls; the result has the outputs of each, or why there are none. It needs numpy
and onnxruntime of any version, or the native engine and ``lstm_edge_runtime``.
"""

import io
import struct
import sys

import numpy as np


def main():
    """Serve until standard input ends."""
    open_file = open_native if sys.argv[1] == "native" else open_onnxruntime
    while header := sys.stdin.buffer.read(8):
        (size,) = struct.unpack("<Q", header)
        reply = pack(answer(open_file, unpack(sys.stdin.buffer.read(size))))
        sys.stdout.buffer.write(struct.pack("<Q", len(reply)) + reply)
        sys.stdout.buffer.flush()


def answer(open_file, request):
    """Run every call; names are ``CALL/NAME``, and ``why`` is what no output came for."""
    calls = {}
    for key, array in request.items():
        call, _, name = key.partition("/")
        if name:
            calls.setdefault(call, {})[name] = array
    try:
        run = open_file(request["model"].tobytes())
        return {
            f"{call}/{name}": array for call, feeds in calls.items() for name, array in run(feeds).items()
        }
    except Exception as error:  # noqa: BLE001  sent to the one that asked
        return {"kind": np.array(type(error).__name__), "why": np.array(str(error)[:500])}


def open_onnxruntime(content):
    """Return what runs a file in this process's onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


def open_native(content):
    """Return what runs a file in the native engine; the instruction set comes from the environment."""
    from lstm_edge_runtime.manifest import KEY, Manifest
    from lstm_edge_runtime.native.choice import compile_engine
    from lstm_edge_runtime.onnx_reader import read_onnx

    file = read_onnx(content)
    manifest = Manifest.from_json(file.metadata[KEY])
    engine = compile_engine(file, manifest, 1)
    return lambda feeds: manifest.all_outputs(*engine.call(feeds))


def pack(arrays):
    """Return arrays as bytes."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def unpack(content):
    """Return the arrays that ``pack`` took."""
    with np.load(io.BytesIO(content)) as arrays:
        return dict(arrays)


if __name__ == "__main__":
    main()
