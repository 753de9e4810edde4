"""Healthy artifacts, exported once, and their validation."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from lstm_edge import LSTM1
from lstm_edge.checkpoint import Run, deployable
from lstm_edge_exporters import ExportConfig, export, validate
from lstm_edge_exporters.validate.config import ValidateConfig
from lstm_edge_exporters.validate.expected import against_module
from lstm_edge_exporters.verify.file import open_file
from lstm_edge_runtime.manifest import Task

LABELS = ("rest", "walk", "<b>run</b>", "fall & lie")
FORMS = {
    "plain": ((6, 12, 1), {}, True),
    "stacked": ((6, 12, 2), {}, False),
    "both_ways": ((6, 8, 1), {"bidirectional": True}, True),
    "projected": ((6, 12, 1), {"proj_size": 5}, False),
}
"""Input, hidden and layer counts, further options of LSTM1, and whether the file takes
lengths."""


@dataclass(frozen=True)
class Made:
    """A network, example inputs, and the exported file."""

    module: nn.Module
    example: object
    path: Path
    config: ExportConfig | None = None


class Scaled(nn.Module):
    """Scales its own input; no argument is a state."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(5, 8, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)
        self.register_buffer("mean", torch.linspace(-1, 2, 5))
        self.register_buffer("std", torch.linspace(0.3, 2, 5))

    def forward(self, x):
        y = self.norm(self.rnn((x - self.mean) / (self.std + 1e-8))[0])
        return torch.sigmoid(self.head(nn.functional.gelu(y)))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(40, 6)
        self.rnn = nn.LSTM(6, 7, batch_first=True)

    def forward(self, tokens):
        return self.rnn(self.table(tokens))[0]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Export one of the forms, once."""
    cache = {}

    def make(form: str) -> Made:
        if form in cache:
            return cache[form]
        torch.manual_seed(3)
        path = tmp_path_factory.mktemp("made") / f"{form}.onnx"
        if form in FORMS:
            (width, hidden, layers), options, lengths = FORMS[form]
            task = Task("classification", "logits", LABELS)
            run = Run(LSTM1(4, width, hidden, layers, 20, **options).eval(), task=task)
            module, example, config = deployable(run, lengths=lengths)
        else:
            module = {"scaled": Scaled, "tokens": Tokens}[form]().eval()
            example = (
                torch.randn(3, 7, 5)
                if form == "scaled"
                else torch.randint(0, 40, (3, 7))
            )
            config = None
        export(module, example, config).save(path)
        cache[form] = Made(module, example, path, config)
        return cache[form]

    return make


@pytest.fixture(scope="session")
def examine():
    """Validate a file against the network that it should be."""

    def run(case: Made, path: Path | None = None, **options):
        file = open_file(path or case.path)
        against = (
            against_module(case.module, file, case.example, config=case.config)
            if file.model
            else None
        )
        return validate(file, against, ValidateConfig(**{"quick": True} | options))

    return run
