"""Which execution providers really run an LSTM here, found by running one."""

import base64
import math
from dataclasses import dataclass

import numpy as np

from lstm_edge_runtime.errors import first_line
from lstm_edge_runtime.ort import SessionOptions, import_onnxruntime, open_session, run_by_name

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


def _try(name: str) -> ProviderState:
    gate = 1 / (1 + math.exp(-0.5))
    expected = gate * math.tanh(gate * math.tanh(0.5))
    try:
        session = open_session(PROBE, SessionOptions(providers=(name,)), cpu_fallback=False)
        found = run_by_name(session, {"x": np.ones((1, 1, 1), np.float32)}, ["h"])["h"].item()
    except Exception as error:  # noqa: BLE001  a provider's own library may raise anything
        return ProviderState(name, usable=False, why=first_line(error))
    if abs(found - expected) > 1e-3:
        return ProviderState(name, usable=False, why=f"computes {found:.6g}, expected {expected:.6g}")
    return ProviderState(name, usable=True)
