"""Which execution providers really run an LSTM here, found by running one."""

import base64
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lstm_edge_runtime.errors import ProviderError
from lstm_edge_runtime.ort import import_onnxruntime

__all__ = ["PROBE", "ProviderState", "try_providers"]

PROBE = base64.b64decode(
    "CAc6nQEKKAoBeAoBVwoBUhIAEgFoIgRMU1RNKhIKC2hpZGRlbl9zaXplGAGgAQISAXAqHQgBCAQIARABQgFXShAAAAA/AAAAPwAA"
    "AD8AAAA/Kh0IAQgECAEQAUIBUkoQAAAAPwAAAD8AAAA/AAAAP1oXCgF4EhIKEAgBEgwKAggBCgIIAQoCCAFiFwoBaBISChAIARIM"
    "CgIIAQoCCAEKAggBQgQKABAO"
)
"""An ONNX file with one LSTM of one unit, input ``x (1, 1, 1)``, output ``h``, every weight 0.5."""


@dataclass(frozen=True)
class ProviderState:
    """One execution provider of the installed wheel."""

    name: str
    usable: bool
    why: str = ""
    """What went wrong, where it is not usable."""


def try_providers() -> list[ProviderState]:
    """Run a small LSTM on every provider that the installed onnxruntime offers.

    Raises:
        MissingDependencyError: no onnxruntime.
    """
    return [_try(name) for name in import_onnxruntime().get_available_providers()]


def _open_alone(name: str) -> Any:
    """Open the probe on one provider; what would be left to the CPU instead is an error."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if name != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = ort.InferenceSession(PROBE, options, providers=[name])
    if name not in session.get_providers():
        raise ProviderError(f"it did not start; in use instead: {', '.join(session.get_providers())}")
    return session


def _try(name: str) -> ProviderState:
    gate = 1 / (1 + math.exp(-0.5))
    expected = gate * math.tanh(gate * math.tanh(0.5))
    try:
        session = _open_alone(name)
        found = float(session.run(None, {"x": np.ones((1, 1, 1), np.float32)})[0].item())
    except Exception as error:  # noqa: BLE001  a provider's own library may raise anything
        return ProviderState(name, usable=False, why=str(error).splitlines()[0])
    if abs(found - expected) > 1e-3:
        return ProviderState(name, usable=False, why=f"computes {found:.6g}, expected {expected:.6g}")
    return ProviderState(name, usable=True)
