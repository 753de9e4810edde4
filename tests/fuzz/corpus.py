"""The undamaged files: one folder with a file for each reader, made with the project's
own writers."""

import io
import json
import shutil
import wave
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
from pyarrow import csv, parquet

from lstm_edge.cli import cli, run
from lstm_edge_runtime.native import installed

DATA = Path(__file__).parents[1] / "runtime" / "data"


def make_corpus(folder: Path) -> None:
    """Put the files into ``folder``."""
    models = folder / "onnx"
    models.mkdir(parents=True)
    for path in DATA.glob("*.onnx"):
        if path.stem != "broken":
            shutil.copy(path, models / path.name)
    _tables(folder)
    train = (
        "train",
        folder / "data.npz",
        "-o",
        folder / "run",
        "--hidden-size",
        4,
        "--epochs",
        2,
    )
    _verb(*train, "--batch-size", 4)
    _states(folder)
    _foreign(folder)
    (folder / "nights").mkdir()
    shutil.copy(folder / "days" / "1.parquet", folder / "nights")
    model = "--model", models / "lstm.onnx"
    _verb("score", folder / "nights", *model, "-o", folder / "scored")
    shutil.copy(folder / "days" / "2.parquet", folder / "nights")
    (folder / "lep").mkdir()
    native = ("gru", "lstm") if installed() else ()
    for name in native:
        _verb("convert", models / f"{name}.onnx", "-o", folder / "lep" / f"{name}.lep")


def _verb(*arguments: object) -> None:
    words = io.StringIO()
    with redirect_stdout(words), redirect_stderr(words):
        code = run(cli, [str(argument) for argument in arguments])
    if code:
        raise RuntimeError(f"{arguments}: exit {code}: {words.getvalue()}")


def _tables(folder: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 6, 3)).astype(np.float32)
    labels = np.array(["rest", "walk"] * 8)
    np.savez(
        folder / "data.npz",
        x=x,
        y=labels,
        lengths=np.full(16, 6),
        features=np.array(["ax", "ay", "az"]),
    )
    rows = ["series,order,ax,ay,az,label"]
    for series in range(16):
        rows += [
            f"{series},{step},{','.join(f'{value:.4f}' for value in x[series, step])},{labels[series]}"
            for step in range(6)
        ]
    (folder / "data.csv").write_text("\n".join(rows) + "\n")
    samples = csv.read_csv(folder / "data.csv")
    parquet.write_table(samples, folder / "data.parquet")
    (folder / "days").mkdir()
    for day in (1, 2):
        order = pa.array([day * 6 + step for _ in range(16) for step in range(6)])
        later = samples.set_column(1, "order", order)
        parquet.write_table(later, folder / "days" / f"{day}.parquet")
    with wave.open(str(folder / "data.wav"), "wb") as sound:
        sound.setparams((3, 2, 8000, 0, "NONE", ""))
        sound.writeframes((x[0] * 1000).astype("<i2").tobytes())
    scale = {"mean": [0.0, 0.5, 1.0], "std": [1.0, 2.0, 3.0]}
    (folder / "scale.json").write_text(json.dumps(scale))
    np.savez(folder / "scale.npz", **{name: np.array(x) for name, x in scale.items()})
    lines = [
        "0.1,0.2,0.3",
        "[0.1, 0.2, 0.3]",
        '{"ax": 1, "ay": 2, "az": 3}',
        "1 2 3",
        "1;2;3",
        "1\t2\t3",
    ]
    (folder / "lines.txt").write_text("\n".join(lines) + "\n")


def _foreign(folder: Path) -> None:
    """Put files without a manifest into ``foreign``."""
    (folder / "foreign").mkdir()
    for path in (folder / "onnx").glob("*.onnx"):
        model = onnx.load(path)
        del model.metadata_props[:]
        onnx.save(model, folder / "foreign" / path.name)


def _states(folder: Path) -> None:
    from lstm_edge.cli.stream import StateFile
    from lstm_edge_runtime import load

    with load(DATA / "lstm.onnx") as model:
        StateFile(model.stream(), folder / "state.bin")
