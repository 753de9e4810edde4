"""onnxruntime as a function of arrays whose floats may be wider than the file's."""

from typing import TYPE_CHECKING

from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.ort import run_by_name

from .cases import Feeds

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_FLOATS = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
}


def engine_of(session: "InferenceSession") -> Runner:
    """Return a function that casts floats to the inputs' dtypes and runs ``session``."""
    dtypes = {
        arg.name: _FLOATS[arg.type]
        for arg in session.get_inputs()
        if arg.type in _FLOATS
    }

    def run(feeds: Feeds) -> dict[str, Array]:
        """Return every output by name."""
        cast = {
            name: array.astype(dtypes.get(name, array.dtype), copy=False)
            for name, array in feeds.items()
        }
        return run_by_name(session, cast)

    return run
