"""Healthy artifacts, exported once, and the validation that every test puts them or their faults to."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from lstm_edge import LSTM1
from lstm_edge.checkpoint import Run, deployable
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.validate import ValidateConfig, open_file, validate
from lstm_edge_exporters.validate.module import against_module
from lstm_edge_runtime.manifest import Task

LABELS = ("rest", "walk", "<b>run</b>", "fall & lie")
FORMS = {
    "plain": ((6, 12, 1), {}, True),
    "stacked": ((6, 12, 2), {}, False),
    "both_ways": ((6, 8, 1), {"bidirectional": True}, True),
    "projected": ((6, 12, 1), {"proj_size": 5}, False),
    "square": ((6, 128, 1), {}, False),
}
"""Input, hidden and layer counts, further options of LSTM1, and whether the file takes lengths."""


@dataclass(frozen=True)
class Made:
    """A network, what it takes, and the file made of it."""

    module: torch.nn.Module
    example: tuple[torch.Tensor, ...]
    path: Path
    run: Run
    config: ExportConfig


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Export one of the forms, once."""
    known = {}

    def make(form: str) -> Made:
        if form not in known:
            (width, hidden, layers), options, lengths = FORMS[form]
            torch.manual_seed(3)
            run = Run(
                LSTM1(4, width, hidden, layers, 20, **options).eval(),
                task=Task("classification", "logits", LABELS),
            )
            module, example, config = deployable(run, lengths=lengths)
            path = tmp_path_factory.mktemp("made") / f"{form}.onnx"
            export(module, example, config).save(path)
            known[form] = Made(module, example, path, run, config)
        return known[form]

    return make


@pytest.fixture(scope="session")
def examine():
    """Validate a file against the network that it should be."""

    def run(one: Made, path: Path | None = None, **options):
        file = open_file(path or one.path)
        against = against_module(one.module, file, one.example, config=one.config) if file.model else None
        return validate(file, against, ValidateConfig(**{"quick": True, "steps": 1000} | options))

    return run


@pytest.fixture
def copy_of(tmp_path):
    """Return a copy of a made file that a test may spoil."""

    def copy(one: Made) -> Path:
        return Path(shutil.copy(one.path, tmp_path / one.path.name))

    return copy


def failures(report):
    """Return every failed check with its group's key."""
    return [(group.key, check) for group in report.groups for check in group.failed]
