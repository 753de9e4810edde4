"""The small model files of ``data/``, opened; and a reference of one of them in numpy alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
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
    """What runs the files."""
    if request.param == "native" and not installed():
        pytest.skip("lstm-edge-native is not installed")
    return request.param


@pytest.fixture(scope="session")
def content(engine: str) -> Callable[[str], bytes]:
    """Return the content of a model of ``data/`` by its stem: the file, or the program made of it."""
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
    found = []

    class Recorded(onnxruntime.InferenceSession):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            found.append(self)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Recorded)
    return found


@pytest.fixture
def model(opened) -> Model:
    """The two-layer LSTM: ``x (N, L, 3)``, states ``(2, N, 8)``, logits ``(N, 4)``."""
    return opened("lstm")


class Reference:
    """``lstm.onnx``'s recurrence in numpy, in any float dtype: ``h, c (2, 8)``."""

    def __init__(self, dtype: type[np.floating]) -> None:
        with np.load(DATA / "lstm.npz", allow_pickle=False) as file:
            self._weights = {name: file[name].astype(dtype) for name in file.files}
        self.h = np.zeros((2, 8), dtype)
        self.c = np.zeros((2, 8), dtype)

    def step(self, sample: np.ndarray) -> None:
        x = sample.astype(self.h.dtype)
        for layer in range(2):
            w = {
                kind: self._weights[f"{kind}_l{layer}"]
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            }
            gates = w["weight_ih"] @ x + w["bias_ih"] + w["weight_hh"] @ self.h[layer] + w["bias_hh"]
            i, f, o = (1 / (1 + np.exp(-gates[start : start + 8])) for start in (0, 8, 24))
            self.c[layer] = f * self.c[layer] + i * np.tanh(gates[16:24])
            x = self.h[layer] = o * np.tanh(self.c[layer])


@pytest.fixture
def reference() -> Callable[[type[np.floating]], Reference]:
    """Return the numpy recurrence in a dtype."""
    return Reference
