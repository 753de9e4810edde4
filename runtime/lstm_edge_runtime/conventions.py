"""States that other tools declare next to a file: Triton's ``config.pbtxt``, ``genai_config.json``.

Names in the graph itself, such as sherpa-onnx's ``cached_key_0`` and ``new_cached_key_0``, need no
declaration: ``graph_check.pair_states`` knows them.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .graph_check import could_continue
from .manifest import TensorSpec

_LARGEST = 1 << 20
"""Bytes of a configuration that is read."""
_TRITON_NAMES = re.compile(r'\b(input|output)_name\s*:\s*["\']([^"\']*)["\']')
"""Protocol buffer text: in ``config.pbtxt`` only a state of ``sequence_batching`` has an ``input_name``."""
_GENAI_DEFAULTS = {
    "past_conv_names": "past_key_values.%d.conv_state",
    "present_conv_names": "present.%d.conv_state",
    "past_recurrent_names": "past_key_values.%d.recurrent_state",
    "present_recurrent_names": "present.%d.recurrent_state",
}
"""Templates of the states of ``state_groups``, if the configuration has no others."""


def declared_states(
    path: str | os.PathLike[str], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> dict[str, str]:
    """Return the output of each state input that a configuration next to ``path`` declares.

    ``config.pbtxt`` is read from the file's folder, or from the one above a version of Triton's repositories;
    ``genai_config.json`` from the file's folder. What the graph does not have is left out, and so is a cache
    that grows from call to call.
    """
    folder = Path(path).absolute().parent
    configs = [folder / "config.pbtxt"] + [folder.parent / "config.pbtxt"] * folder.name.isdecimal()
    pairs = dict(pair for each in configs for pair in _triton(_text(each)))
    with suppress(ValueError, RecursionError):
        pairs |= dict(
            _genai(json.loads(_text(folder / "genai_config.json") or "{}"), Path(path).name, inputs)
        )
    entering, leaving = ({spec.name: spec for spec in side} for side in (inputs, outputs))
    return {
        before: after
        for before, after in pairs.items()
        if before in entering and after in leaving and could_continue(entering[before], leaving[after])
    }


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(_LARGEST).decode("utf-8", "replace")
    except OSError:
        return ""


def _triton(text: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs of ``sequence_batching { state [ { input_name: ... output_name: ... } ] }``."""
    names = _TRITON_NAMES.findall(re.sub(r"(?m)#.*$", "", text))
    for one, other in zip(names[::2], names[1::2], strict=False):
        state = dict((one, other))
        if len(state) == 2:
            yield state["input"], state["output"]


def _genai(config: Any, file: str, inputs: Sequence[TensorSpec]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of the section of ``genai_config.json`` that is of this file."""
    sections = config.get("model") if isinstance(config, dict) else None
    for section in sections.values() if isinstance(sections, dict) else ():
        if not isinstance(section, dict) or section.get("filename") != file:
            continue
        before, after = (_strings(section.get(side)) for side in ("inputs", "outputs"))
        if section.get("state_groups"):
            before, after = _GENAI_DEFAULTS | before, _GENAI_DEFAULTS | after
        for key, name in before.items():
            template = after.get(_genai_output(key, after))
            if template is not None:
                yield from _expanded(name, template, inputs)


def _strings(section: Any) -> dict[str, str]:
    items = section.items() if isinstance(section, dict) else ()
    return {key: name for key, name in items if isinstance(name, str)}


def _genai_output(key: str, outputs: Mapping[str, str]) -> str:
    """Return the key of the output that continues ``past_x_names``, ``rnn_prev_states`` or ``cache_x``."""
    for renamed in (key.replace("past_", "present_"), key.replace("_prev", ""), f"{key}_next"):
        if renamed != key and renamed in outputs:
            return renamed
    return key if key.startswith("lstm_") else ""


def _expanded(before: str, after: str, inputs: Sequence[TensorSpec]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of two templates in which ``%d`` is the number of a layer."""
    pattern = re.compile(re.escape(before).replace("%d", r"(\d+)"))
    for spec in inputs:
        if found := pattern.fullmatch(spec.name):
            yield spec.name, after.replace("%d", found[1]) if found.groups() else after
