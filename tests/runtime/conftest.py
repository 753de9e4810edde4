"""The small model files of ``data/``, opened; and a numpy reference of one of them."""

from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest

from lstm_edge_runtime import Model, load
from lstm_edge_runtime.native import installed

DATA = Path(__file__).parent / "data"


@pytest.fixture
def path() -> Callable[[str], Path]:
    """Return the path of a file of ``data/`` by its stem."""
    return lambda name: DATA / f"{name}.onnx"


@pytest.fixture(scope="session", params=["onnxruntime", "native"])
def engine(request: pytest.FixtureRequest) -> str:
    """The engine that runs the files."""
    if request.param == "native" and not installed():
        pytest.skip("lstm-edge-native is not installed")
    return request.param


@pytest.fixture(scope="session")
def content(engine: str) -> Callable[[str], bytes]:
    """Return the content of a model of ``data/`` by its stem: the file, or the program
    made of it."""
    contents: dict[str, bytes] = {}

    def give(name: str) -> bytes:
        if name not in contents:
            suffix = "onnx" if engine == "onnxruntime" else "lep"
            contents[name] = (DATA / f"{name}.{suffix}").read_bytes()
        return contents[name]

    return give


@pytest.fixture(scope="session")
def opened(content: Callable[[str], bytes]) -> Callable[[str], Model]:
    """Return a model of ``data/`` by its stem, opened once for each engine."""
    models: dict[str, Model] = {}

    def give(name: str) -> Model:
        if name not in models:
            models[name] = load(content(name))
        return models[name]

    return give


@pytest.fixture
def sessions(monkeypatch) -> list[onnxruntime.InferenceSession]:
    """Collect onnxruntime's sessions as a test opens them."""
    recorded = []

    class Recorded(onnxruntime.InferenceSession):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            recorded.append(self)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Recorded)
    return recorded


@pytest.fixture(scope="session")
def model(opened) -> Model:
    """The two-layer LSTM: ``x (N, L, 3)``, states ``(2, N, 8)``, logits ``(N, 4)``."""
    return opened("lstm")
