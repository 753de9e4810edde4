"""Verbs for samples run files whose input is (N, features, L) or (N, L), as those of (N, L, features)."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from torch import nn

from lstm_edge_exporters import export

MAIN = "from lstm_edge.cli import main; main()"


class ChannelsFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 5)

    def forward(self, x):
        return self.conv(nn.functional.pad(x, (4, 0)))


class OneValue(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(1, 4, batch_first=True)

    def forward(self, x):
        return self.rnn(x[..., None])[0][..., 0]


class Upsamples(nn.Module):
    """Two frames per step, channels first."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose1d(3, 4, 4, stride=2)

    def forward(self, x):
        return self.up(x)[..., :-2]


def stream(file, x):
    """Return the values that ``lstm-edge stream`` prints for the rows of ``x (L, I)``."""
    lines = "".join(",".join(map(str, row)) + "\n" for row in x)
    command = [sys.executable, "-c", MAIN, "stream", file, "--json"]
    ran = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    return np.array([json.loads(line)["values"] for line in ran.stdout.splitlines()])


def test_several_frames_a_step_are_printed_one_by_one(tmp_path):
    torch.manual_seed(0)
    network, x = Upsamples().eval(), torch.randn(2, 3, 12)
    export(network, x).save(tmp_path / "m.onnx")
    with torch.no_grad():
        expected = network(x)[0].numpy().T
    np.testing.assert_allclose(stream(tmp_path / "m.onnx", x[0].numpy().T), expected, atol=1e-6)


@pytest.mark.parametrize(("module", "width"), [(ChannelsFirst, 3), (OneValue, 1)])
def test_every_verb_for_samples_gives_the_frames_of_the_module(module, width, invoke, tmp_path):
    torch.manual_seed(0)
    network, x = module().eval(), np.random.default_rng(0).normal(size=(1, 20, width)).astype(np.float32)
    given = torch.from_numpy(x.transpose(0, 2, 1) if width > 1 else x[..., 0])
    with torch.no_grad():
        expected = network(given)[0].numpy().T.reshape(20, -1)
    file = tmp_path / "m.onnx"
    export(network, given.repeat(2, *[1] * (given.dim() - 1))).save(file)
    np.savez(tmp_path / "x.npz", x=x)

    code, out, err = invoke("predict", file, tmp_path / "x.npz")
    assert code == 0, err
    rows = [line.split(",")[2:] for line in out.splitlines()[1:]]
    np.testing.assert_allclose(np.array(rows, float), expected, atol=1e-6)

    np.testing.assert_allclose(stream(file, x[0]), expected, atol=1e-6)

    names = [f"f{index}" for index in range(width)]
    columns = {"series": ["a"] * 20, "order": range(20), **dict(zip(names, x[0].T, strict=True))}
    parquet.write_table(pa.table(columns), tmp_path / "d.parquet")
    code, _, err = invoke(
        *("score", tmp_path / "d.parquet", "-m", file, "-o", tmp_path / "out", "--workers", 1),
        *("--features", ",".join(names)),
    )
    assert code == 0, err
    table = parquet.read_table(tmp_path / "out" / "d.parquet")
    got = np.stack([table[name] for name in table.column_names[2:]], 1)
    np.testing.assert_allclose(got, expected, atol=1e-6)
