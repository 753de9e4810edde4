"""The undamaged files: one folder with a file for each reader, made with the project's own writers."""

import io
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np

from lstm_edge.cli import cli, run
from lstm_edge_runtime.native.library import installed

DATA = Path(__file__).parents[1] / "runtime" / "data"


def make_corpus(folder: Path) -> None:
    """Put the files into ``folder``."""
    models = folder / "onnx"
    models.mkdir(parents=True)
    for path in DATA.glob("*.onnx"):
        if path.stem != "broken":
            shutil.copy(path, models / path.name)
    _tables(folder)
    train = ("train", folder / "data.npz", "-o", folder / "run", "--hidden-size", 4, "--epochs", 2)
    _verb(*train, "--batch-size", 4)
    _states(folder)
    _scores(folder)
    _counted(models)
    _behind(models)
    (folder / "lep").mkdir()
    native = ("gru", "lstm", "counted") if installed() else ()
    for name in native:
        _verb("convert", models / f"{name}.onnx", "-o", folder / "lep" / f"{name}.lep")


def _verb(*arguments: object) -> None:
    words = io.StringIO()
    with redirect_stdout(words), redirect_stderr(words):
        code = run(cli, [str(each) for each in arguments])
    if code:
        raise RuntimeError(f"{arguments}: exit {code}: {words.getvalue()}")


def _tables(folder: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 6, 3)).astype(np.float32)
    labels = np.array(["rest", "walk"] * 8)
    np.savez(
        folder / "data.npz", x=x, y=labels, lengths=np.full(16, 6), features=np.array(["ax", "ay", "az"])
    )
    np.save(folder / "data.npy", x)
    rows = ["series,order,ax,ay,az,label"]
    for series in range(16):
        rows += [
            f"{series},{step},{','.join(f'{value:.4f}' for value in x[series, step])},{labels[series]}"
            for step in range(6)
        ]
    (folder / "data.csv").write_text("\n".join(rows) + "\n")
    lines = ["0.1,0.2,0.3", "[0.1, 0.2, 0.3]", '{"ax": 1, "ay": 2, "az": 3}', "1 2 3", "1;2;3", "1\t2\t3"]
    (folder / "lines.txt").write_text("\n".join(lines) + "\n")


def _states(folder: Path) -> None:
    from lstm_edge.cli.stream import StateFile
    from lstm_edge_runtime import load
    from lstm_edge_runtime.hold import Hold

    with load(DATA / "lstm.onnx") as model:
        stream = model.stream()
        StateFile(stream, folder / "state.npz", Hold(3)).save()


def _counted(models: Path) -> None:
    """Add ``gru.onnx``, which takes lengths, with a golden case."""
    import onnx

    from lstm_edge_runtime import load
    from lstm_edge_runtime.manifest import KEY, Golden

    rng = np.random.default_rng(3)
    inputs = {"x": rng.normal(size=(4, 2, 3)), "gain": np.ones((4, 2, 1)), "h_0": np.full((1, 2, 8), 0.25)}
    inputs = {name: array.astype(np.float32) for name, array in inputs.items()}
    with load(DATA / "gru.onnx") as model:
        outputs, after = model.run({name: inputs[name] for name in ("x", "gain")}, lengths=[4, 2])
        manifest = model.manifest
        outputs = manifest.all_outputs(outputs, after)
    golden = Golden(
        {**inputs, "lengths": np.array([4, 2])}, outputs, floor={}, limit=dict.fromkeys(outputs, 1e-3)
    )
    made = onnx.load(DATA / "gru.onnx")
    next(each for each in made.metadata_props if each.key == KEY).value = manifest._replace(
        golden=golden
    ).to_json()
    onnx.save(made, models / "counted.onnx")


def _behind(models: Path) -> None:
    """Add a network whose stream is behind, has a unit, and ends with its table of positions."""
    import torch
    from torch import nn

    from lstm_edge_exporters import ExportConfig, export

    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.lstm = nn.Conv1d(3, 4, 5, 2, padding=2), nn.LSTM(4, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x.transpose(1, 2)).transpose(1, 2)
            return self.lstm(y)[0]

    torch.manual_seed(0)
    config = ExportConfig(inputs={"x": ("N", "L", 3)}, stream=True)
    artifact = export(Behind().eval(), torch.randn(2, 12, 3), config)
    assert artifact.manifest.unit == 2
    artifact.save(models / "behind.onnx")


def _scores(folder: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rng = np.random.default_rng(3)
    (folder / "days").mkdir()
    for name, first in (("days/0.parquet", 0), ("next.parquet", 16)):
        columns = {"series": ["a", "b"] * 8, "order": np.arange(first, first + 16)}
        columns |= {each: rng.normal(size=16).astype(np.float32) for each in ("ax", "ay", "az")}
        parquet.write_table(pa.table(columns), folder / name)
    _verb(
        "score", folder / "days", "-m", DATA / "lstm.onnx", "-o", folder / "scores", "--workers", 1,
        "--features", "ax,ay,az", "--events",
    )  # fmt: skip
