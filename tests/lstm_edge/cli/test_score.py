"""``lstm-edge score``: results equal a stream per series, for any files, partitions and
kills."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from lstm_edge.run_files import locked
from lstm_edge.score import plan as plan_module
from lstm_edge.score.config import ScoreConfig
from lstm_edge.score.job import score
from lstm_edge.score.workers import processes
from lstm_edge_exporters.targets.native import to_native
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import InputError, LstmEdgeError
from lstm_edge_runtime.manifest import Trained
from lstm_edge_runtime.results import softmax

DATA = Path(__file__).parents[2] / "runtime" / "data"
AXES = ("ax", "ay", "az")
LABELS = ["rest", "walk", "run, fast"]


def samples(rng, lengths, names=AXES):
    """Return interleaved samples of several series in order of time: series, order and
    features."""
    series = rng.permutation(np.repeat(np.arange(len(lengths)), lengths))
    order = np.zeros(len(series), dtype=np.int64)
    for number, length in enumerate(lengths):
        order[series == number] = np.arange(length) * 3 - 5
    x = (rng.normal(size=(len(series), len(names))) * 3).astype(np.float32)
    columns = {"series": [f"dev {number}" for number in series], "order": order}
    return pa.table(columns | {name: x[:, index] for index, name in enumerate(names)})


def write(table, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, **options)
    return path


def by_series(table):
    """Return the rows ordered by series and step, as the results are."""
    return table.sort_by([("series", "ascending"), ("order", "ascending")])


def expected(path, table, reset_every="never"):
    """Return the outputs of a stream per series, for a table ordered by series; NaN
    without a frame."""
    model = load(path)
    x = np.stack([table[name].to_numpy() for name in table.column_names[2:]], axis=1)
    rows = []
    before = None
    for name, sample in zip(table["series"].to_pylist(), x, strict=True):
        if name != before:
            stream = model.stream(reset_every=reset_every)
            before = name
        result = stream.step(sample)
        rows.append(next(iter(result.values())) if isinstance(result, dict) else result)
    width = max(np.size(row) for row in rows if row is not None)
    return np.stack(
        [
            np.full(width, np.nan, np.float32) if row is None else np.ravel(row)
            for row in rows
        ]
    )


def run(data, model, output, workers=1, **options):
    return score(str(data), model, output, ScoreConfig(**options), processes(workers))


def results(*outputs):
    """Return the results of outputs as one table ordered by series and step."""
    tables = [
        parquet.ParquetFile(path).read()
        for output in outputs
        for path in sorted(output.glob("part-*"))
    ]
    return by_series(
        pa.concat_tables([table.replace_schema_metadata() for table in tables])
    )


def events(*outputs, with_open=True):
    tables = [
        parquet.ParquetFile(path).read()
        for output in outputs
        for path in (output / "_events").iterdir()
    ]
    table = pa.concat_tables(tables).sort_by(
        [("series", "ascending"), ("start", "ascending")]
    )
    return table if with_open else table.filter(pa.compute.invert(table["open"]))


def numbers(table):
    first = 2 + ("label" in table.column_names)
    return np.stack(
        [table[name].to_numpy() for name in table.column_names[first:]], axis=1
    )


def held_labels(table, labels, hold):
    """Return the events of a table ordered by series: series, start, end, label,
    samples, open."""
    rows = []
    before = None
    for name, order, new in zip(
        table["series"].to_pylist(), table["order"].to_pylist(), labels, strict=True
    ):
        if name != before:
            before = name
            held = None
            candidate = None
            count = 0
            rows += [None]  # no event of this series yet
        candidate, count = new, count + 1 if new == candidate else 1
        if count >= hold and new != held:
            if rows[-1]:
                rows[-1][-1] = False
            held = new
            rows.append([name, order, order, LABELS[new], 0, True])
        if rows[-1]:
            rows[-1][2], rows[-1][4] = order, rows[-1][4] + 1
    return [tuple(event) for event in rows if event]


def test_each_row_gets_what_a_stream_of_its_series_gives(invoke, har, tmp_path):
    rng = np.random.default_rng(1)
    table = samples(rng, [40, 1, 25, 60])
    days = rng.integers(0, 3, len(table))
    for day in range(3):
        part = table.filter(pa.array(days == day))
        write(part, tmp_path / "in" / f"day={day}" / "a[1]*.parquet", row_group_size=9)
    write(table, tmp_path / "in" / "_old" / "a.parquet")  # hidden
    line = [
        "score",
        tmp_path / "in",
        "-m",
        har.path,
        "-o",
        tmp_path / "out",
        "--workers",
        1,
    ]
    code, out, err = invoke(*line, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert (report["rows"], report["series"], report["files"], report["late"]) == (
        126,
        4,
        3,
        0,
    )
    got = results(tmp_path / "out")
    probabilities = softmax(expected(har.path, by_series(table)))
    assert got.column_names == [
        "series",
        "order",
        "label",
        *(f"p_{label}" for label in LABELS),
    ]
    assert got.select(["series", "order"]).equals(
        by_series(table).select(["series", "order"])
    )
    np.testing.assert_array_equal(numbers(got), probabilities)
    assert got["label"].to_pylist() == [LABELS[k] for k in probabilities.argmax(axis=1)]
    assert parquet.read_table(tmp_path / "out").num_rows == 126
    assert [path.name for path in tmp_path.glob(".*")] == []


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    files=st.integers(1, 4),
    parts=st.integers(1, 5),
    reset_every=st.sampled_from(["never", 1, 7]),
    hold=st.integers(1, 4),
)
def test_results_and_events_do_not_depend_on_files_and_partitions(
    har, tmp_path_factory, seed, lengths, files, parts, reset_every, hold
):
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("split")
    table = samples(rng, lengths)
    where = rng.integers(0, files, len(table))
    for index in range(files):
        write(
            table.filter(pa.array(where == index)),
            folder / "in" / f"{index}.parquet",
            row_group_size=9,
        )
    write(table, folder / "one" / "0.parquet")
    options = {"events": True, "reset_every": reset_every, "hold": hold}
    run(folder / "in", har.path, folder / "out", partitions=parts, **options)
    run(folder / "one", har.path, folder / "whole", **options)
    assert results(folder / "out").equals(results(folder / "whole"))
    table = by_series(table)
    probabilities = softmax(expected(har.path, table, reset_every=reset_every))
    np.testing.assert_array_equal(numbers(results(folder / "out")), probabilities)
    for output in ("out", "whole"):
        got = [tuple(row.values()) for row in events(folder / output).to_pylist()]
        assert got == held_labels(table, probabilities.argmax(axis=1), hold)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "folders", [False, True], ids=["a growing folder", "a folder a night"]
)
def test_nights_equal_one_long_run(har, tmp_path, folders):
    table = samples(np.random.default_rng(4), [50, 80, 3, 120, 7, 9, 60, 60])
    night = np.searchsorted([60, 100, 300], table["order"].to_numpy(), side="right")
    options = {"events": True, "hold": 2, "reset_every": 7}
    outputs = []
    write(table, tmp_path / "all" / "0.parquet")
    run(tmp_path / "all", har.path, tmp_path / "whole", **options)
    for index in range(4):
        folder = tmp_path / (f"in{index}" if folders else "in")
        write(table.filter(pa.array(night == index)), folder / f"{index}.parquet")
        output = tmp_path / f"out{index}"
        since = str(outputs[-1]) if outputs else None
        report = run(
            folder, har.path, output, since=since, partitions=index + 1, **options
        )
        assert (report.files, report.late) == (1, 0)
        outputs.append(output)
    assert results(*outputs).equals(results(tmp_path / "whole"))
    closed = pa.concat_tables(
        [
            events(*outputs, with_open=False),
            events(outputs[-1]).filter(pa.compute.field("open")),
        ]
    )
    by = [("series", "ascending"), ("start", "ascending")]
    assert closed.sort_by(by).equals(events(tmp_path / "whole"))


def test_progress_grows_to_the_whole(har, tmp_path):
    table = samples(np.random.default_rng(3), [9, 4, 7])
    write(table, tmp_path / "in" / "0.parquet")
    shown = []
    score(
        str(tmp_path / "in"),
        har.path,
        tmp_path / "out",
        ScoreConfig(),
        processes(1),
        lambda share, _: shown.append(share),
    )
    assert shown == sorted(set(shown))
    assert 0 < shown[0] < shown[-1] == pytest.approx(1)


def test_late_rows_are_left_out_and_counted(invoke, har, tmp_path):
    table = by_series(samples(np.random.default_rng(5), [20, 30]))
    order = table["order"].to_numpy()
    write(table.filter(pa.array(order < 40)), tmp_path / "in" / "0.parquet")
    run(tmp_path / "in", har.path, tmp_path / "a")
    again = (order == 10) | (order >= 40)
    write(table.filter(pa.array(again)), tmp_path / "in" / "1.parquet")
    line = ["score", tmp_path / "in", "-m", har.path, "--workers", 1]
    code, out, _ = invoke(*line, "-o", tmp_path / "b", "--since", tmp_path / "a")
    assert (code, "late: 2" in out) == (0, True)
    assert results(tmp_path / "a", tmp_path / "b").num_rows == 50
    code, out, _ = invoke(
        *line, "-o", tmp_path / "c", "--since", tmp_path / "b", "--json"
    )
    assert (code, json.loads(out)["rows"], json.loads(out)["files"]) == (0, 0, 0)
    write(table, tmp_path / "in" / "0.parquet")
    code, _, err = invoke(*line, "-o", tmp_path / "d", "--since", tmp_path / "b")
    assert (code, "0.parquet changed since an earlier run" in err) == (2, True)


def _short_states(folder):
    (path,) = (folder / "_states").iterdir()
    table = parquet.ParquetFile(path).read()
    index = table.column_names.index("state/h_0")
    parquet.write_table(table.set_column(index, "state/h_0", pa.array([b"1234"])), path)


def _edit(change):
    def edit(folder):
        path = folder / "_plan.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return edit


def _fifo(folder):
    (folder / "_plan.json").unlink()
    os.mkfifo(folder / "_plan.json")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_edit(lambda plan: plan | {"identity": "x"}), "had model x"),
        (
            _edit(lambda plan: plan | {"options": plan["options"] | {"hold": 3}}),
            "had hold 3, this one has 1",
        ),
        (_edit(lambda _: {"options": {}}), "is not an output of lstm-edge score"),
        (
            _edit(lambda plan: plan | {"files": 7}),
            "is not an output of lstm-edge score",
        ),
        (
            _edit(lambda plan: plan | {"types": plan["types"] | {"series": "int64"}}),
            "expected int64 and",
        ),
        (_fifo, "not a regular file"),
        (shutil.rmtree, "is not an output of lstm-edge score"),
        (_short_states, "has damaged states"),
        (
            lambda folder: next((folder / "_states").iterdir()).write_bytes(b"PAR1"),
            "too small to be a Parquet",
        ),
    ],
)
def test_a_run_that_can_not_be_continued_is_one_line(
    invoke, har, tmp_path, damage, message
):
    write(samples(np.random.default_rng(6), [20]), tmp_path / "in" / "0.parquet")
    run(tmp_path / "in", har.path, tmp_path / "out")
    damage(tmp_path / "out")
    write(samples(np.random.default_rng(6), [5]), tmp_path / "in" / "1.parquet")
    line = [
        "score",
        tmp_path / "in",
        "-m",
        har.path,
        "-o",
        tmp_path / "next",
        "--since",
        tmp_path / "out",
    ]
    code, _, err = invoke(*line, "--workers", 1)
    assert (code, message in err.splitlines()[-1], "Traceback" in err) == (
        2,
        True,
        False,
    ), err


ODD = (None, -1, 1e308, "", "int99", "\ud800", [], {}, [None], True, 2**70)


def _edits(value, path=()):
    """Yield the path of every entry of a JSON document."""
    items = []
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, entry in items:
        yield (*path, key)
        yield from _edits(entry, (*path, key))


def _edited(document, path, value):
    copy = json.loads(json.dumps(document))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copy


@pytest.mark.system
def test_a_damaged_since_is_one_error_or_the_right_result(har, tmp_path):
    """The plan and the states of an earlier run, each entry replaced by odd values."""
    rng = np.random.default_rng(6)
    write(samples(rng, [20, 9]), tmp_path / "in" / "0.parquet")
    earlier = tmp_path / "out"
    run(tmp_path / "in", har.path, earlier, events=True)
    plan = json.loads((earlier / "_plan.json").read_text())
    (states_path,) = (earlier / "_states").iterdir()
    states = parquet.ParquetFile(states_path).read()
    refused = []

    def attempt(number):
        try:
            run(
                tmp_path / "in",
                har.path,
                tmp_path / f"next{number}",
                since=str(earlier),
                events=True,
            )
        except LstmEdgeError as error:
            refused.append(str(error))

    edits = [(path, value) for path in _edits(plan) for value in ODD]
    for number in rng.choice(len(edits), 60, replace=False):
        path, value = edits[number]
        (earlier / "_plan.json").write_text(json.dumps(_edited(plan, path, value)))
        attempt(number)
    (earlier / "_plan.json").write_text(json.dumps(plan))
    for index, name in enumerate(states.column_names):
        for column in (
            pa.array([None, None]),
            pa.array([-7, 99]),
            pa.array([0.5, float("nan")]),
            pa.array(["x", "x"]),
            pa.array([b"", b"\0" * 32]),
        ):
            parquet.write_table(states.set_column(index, name, column), states_path)
            attempt(1000 + 10 * index + len(str(column)))
        parquet.write_table(states.drop_columns([name]), states_path)
        attempt(2000 + index)
    assert len(refused) > 60
    assert [message for message in refused if "\n" in message] == []


def _damage_pages(path):
    content = bytearray(path.read_bytes())
    content[8 : len(content) // 2] = bytes(len(content) // 2 - 8)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "kind",
    [
        "truncated",
        "pages",
        "nan",
        "null",
        "no series",
        "column",
        "text",
        "float order",
    ],
)
def test_a_bad_file_is_named_and_may_be_left_out(invoke, har, tmp_path, kind):
    rng = np.random.default_rng(9)
    write(samples(rng, [30, 20]), tmp_path / "in" / "good.parquet")
    bad = samples(rng, [300]).set_column(0, "series", pa.array(["new"] * 300))
    cells = bad["ay"].to_pylist()
    if kind in ("nan", "null"):
        cells[17] = np.nan if kind == "nan" else None
        bad = bad.set_column(3, "ay", pa.array(cells, pa.float32()))
    if kind == "no series":
        bad = bad.set_column(
            0, "series", pa.array([*["new"] * 17, None, *["new"] * 282])
        )
    if kind == "text":
        bad = bad.set_column(3, "ay", pa.array(list(map(str, cells))))
    if kind == "column":
        bad = bad.drop_columns(["az"])
    if kind == "float order":
        bad = bad.set_column(1, "order", bad["order"].cast(pa.float64()))
    path = write(
        bad, tmp_path / "in" / "wrong.parquet", row_group_size=100, compression="none"
    )
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    if kind == "pages":
        _damage_pages(path)
    line = [
        "score",
        tmp_path / "in",
        "-m",
        har.path,
        "-o",
        tmp_path / "out",
        "--workers",
        1,
    ]
    code, _, err = invoke(*line)
    assert (code, str(path) in err) == (2, True), err
    if kind in ("nan", "null", "no series"):
        assert "row 18, column" in err
        expected = "text or an integer" if kind == "no series" else "a finite number"
        assert f", expected {expected}" in err
    assert not (tmp_path / "out").exists()
    code, out, err = invoke(*line, "--skip-bad", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert list(report["skipped"]) == [str(path)]
    assert (report["rows"], report["series"]) == (50, 2)
    assert set(results(tmp_path / "out")["series"].to_pylist()) == {"dev 0", "dev 1"}


@pytest.mark.parametrize(
    "kind", [pa.int16(), pa.float64(), pa.timestamp("us"), pa.date32()]
)
def test_keys_in_paths_and_types_of_orders_and_series_are_kept(har, tmp_path, kind):
    table = samples(np.random.default_rng(10), [9, 12])
    order = pa.array(np.arange(len(table)) * 2).cast(
        pa.int32() if pa.types.is_date(kind) else kind.id and pa.int64()
    )
    table = table.set_column(1, "order", order.cast(kind))
    for name in ("dev 0", "dev 1"):
        part = table.filter(pa.compute.equal(table["series"], name)).drop_columns(
            ["series"]
        )
        write(part, tmp_path / "in" / f"series={name}" / "0.parquet")
    whole = by_series(table)
    number = pa.array(
        [int(name[-1]) for name in table["series"].to_pylist()], pa.int8()
    )
    write(table.set_column(0, "series", number), tmp_path / "numbers" / "0.parquet")
    for data, series in (("in", pa.string()), ("numbers", pa.int8())):
        run(tmp_path / data, har.path, tmp_path / f"out {data}", events=True)
        got = results(tmp_path / f"out {data}")
        assert (got.schema.field("series").type, got.schema.field("order").type) == (
            series,
            kind,
        )
        assert got["order"].equals(whole["order"])
        np.testing.assert_array_equal(numbers(got), softmax(expected(har.path, whole)))
        schema = events(tmp_path / f"out {data}").schema
        assert [schema.field(name).type for name in ("series", "start", "end")] == [
            series,
            kind,
            kind,
        ]


def test_text_of_any_kind_names_series(har, tmp_path):
    table = samples(np.random.default_rng(11), [9, 12])
    names = table["series"]
    for number, series in enumerate(
        (names, names.cast(pa.large_string()), names.dictionary_encode())
    ):
        part = table.set_column(0, "series", series).slice(7 * number, 7)
        write(part, tmp_path / "in" / f"{number}.parquet")
    run(tmp_path / "in", har.path, tmp_path / "out")
    table_of_all = results(tmp_path / "out")
    assert table_of_all.schema.field("series").type == pa.string()
    np.testing.assert_array_equal(
        numbers(table_of_all), softmax(expected(har.path, by_series(table)))
    )


def test_names_of_columns_and_folders_reach_no_query(har, tmp_path):
    table = samples(np.random.default_rng(34), [20, 30])
    names = ['se"ries', "file", "row", "part", "x'"]
    write(table.rename_columns(names), tmp_path / "in" / "'; [1]*.parquet")
    output = tmp_path / "row=7" / "it's [1]*, {a}" / "out"
    output.parent.mkdir(parents=True)
    run(
        tmp_path / "in",
        har.path,
        output,
        series='se"ries',
        order="file",
        features=("row", "part", "x'"),
    )
    (path,) = output.glob("part-*")
    got = parquet.ParquetFile(path).read()
    np.testing.assert_array_equal(
        numbers(got), softmax(expected(har.path, by_series(table)))
    )
    write(table.append_column("AX", table["ay"]), tmp_path / "twice" / "0.parquet")
    with pytest.raises(InputError, match="several columns 'ax'"):
        run(tmp_path / "twice", har.path, tmp_path / "none")
    write(
        table.append_column("filename", table["ay"]), tmp_path / "named" / "0.parquet"
    )
    run(tmp_path / "named", har.path, tmp_path / "named out")


def test_a_file_with_a_delay_leaves_results_empty_until_it_is_over(har, tmp_path):
    table = samples(np.random.default_rng(11), [30, 1, 12, 8, 8, 8, 8])
    parts = np.searchsorted([10], table["order"].to_numpy())
    outputs = []
    for index in range(2):
        write(
            table.filter(pa.array(parts == index)), tmp_path / "in" / f"{index}.parquet"
        )
        since = str(outputs[-1]) if outputs else None
        outputs.append(tmp_path / f"out{index}")
        run(tmp_path / "in", DATA / "late.onnx", outputs[-1], since=since, events=True)
    got = results(*outputs)
    outputs = expected(DATA / "late.onnx", by_series(table))
    missing = np.isnan(outputs[:, 0])
    assert got["label"].is_null().to_numpy().tolist() == missing.tolist()
    assert 0 < missing.sum() < len(missing)
    np.testing.assert_array_equal(numbers(got)[~missing], softmax(outputs)[~missing])


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    """A file that returns every step, which is scored in chunks."""
    import torch

    from lstm_edge_exporters import ExportConfig, export

    class Tagger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = torch.nn.GRU(3, 16, batch_first=True)
            self.head = torch.nn.Linear(16, 2)

        def forward(self, x):
            return self.head(self.gru(x)[0])

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tagger") / "tagger.onnx"
    export(
        Tagger().eval(), torch.randn(2, 9, 3), ExportConfig(inputs={"x": ("N", "L", 3)})
    ).save(path)
    return path


@pytest.mark.parametrize("engine", ["onnxruntime", "native"])
@pytest.mark.parametrize("kind", ["int8", "every step", "values"])
def test_other_files_give_the_bits_of_single_streams(
    make, tagger, tmp_path, kind, engine
):
    names = tuple("abcdef") if kind == "int8" else AXES
    lengths = [9] * 8 if kind == "int8" else [90, 90, 90, 90, 90, 90, 70, 5, 200]
    table = samples(np.random.default_rng(12), lengths, names=names)
    write(table, tmp_path / "in" / "0.parquet")
    path = {"int8": DATA / "motions-int8.onnx", "every step": tagger}.get(kind) or make(
        task="regression"
    ).path
    if engine == "native":
        (tmp_path / "m.lep").write_bytes(to_native(path))
        path = tmp_path / "m.lep"
    run(tmp_path / "in", path, tmp_path / "out", features=names)
    outputs = expected(path, by_series(table))
    got = results(tmp_path / "out")
    np.testing.assert_array_equal(
        numbers(got), softmax(outputs) if kind == "int8" else outputs
    )
    assert (kind == "int8") == ("label" in got.column_names)


def test_a_file_trained_from_reset_is_reset_at_every_window(invoke, make, tmp_path):
    path = make("from_reset", trained=Trained(False, 6, 1.0)).path
    table = samples(np.random.default_rng(7), [20, 30])
    write(table, tmp_path / "0.parquet")
    for name, arguments, reset_every in (
        ("a", [], 6),
        ("b", ["--reset-every", "never"], "never"),
    ):
        line = [
            "score",
            tmp_path / "0.parquet",
            "-m",
            path,
            "-o",
            tmp_path / name,
            "--workers",
            1,
        ]
        code, out, _ = invoke(*line, *arguments)
        assert (code, f"reset every: {reset_every}" in out) == (0, True)
        probabilities = softmax(
            expected(path, by_series(table), reset_every=reset_every)
        )
        np.testing.assert_array_equal(numbers(results(tmp_path / name)), probabilities)


def test_a_window_gives_each_row_the_result_of_its_last_steps_from_reset(har, tmp_path):
    table = samples(np.random.default_rng(8), [20, 4])
    write(table, tmp_path / "0.parquet")
    run(tmp_path / "0.parquet", har.path, tmp_path / "a", window=6)
    got = results(tmp_path / "a")
    assert (
        got["label"].null_count == 2 * 5 - 1
    )  # a series of 4 steps has no full window
    ordered = by_series(table)
    x = np.stack(
        [ordered[name].to_numpy() for name in ("ax", "ay", "az")], axis=1
    ).astype(np.float32)
    with load(har.path) as model:
        for row in np.flatnonzero(~np.isnan(numbers(got)[:, 0])):
            alone = model.predict(x[None, row - 5 : row + 1]).probabilities[0]
            np.testing.assert_allclose(numbers(got)[row], alone, atol=1e-6)


def _long(folder, count=12, rows=4000):
    """Write series that take a while."""
    write(samples(np.random.default_rng(13), [rows] * count), folder / "0.parquet")


@pytest.mark.system
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_is_continued_and_gives_the_same(har, tmp_path, workers):
    _long(tmp_path / "in")
    run(tmp_path / "in", har.path, tmp_path / "whole", partitions=8, events=True)
    program = f"""
import time
from pathlib import Path
from lstm_edge.score.config import ScoreConfig
from lstm_edge.score.job import score
from lstm_edge.score.workers import processes

def stopping_workers(stage, plan, items):
    is_score = stage.__name__ == "score_partition"
    yield from processes({workers})(stage, plan, 4 if is_score else items)
    while is_score:
        time.sleep(1)

if __name__ == "__main__":
    score({str(tmp_path / "in")!r}, Path({str(har.path)!r}), Path({str(tmp_path / "out")!r}),
        ScoreConfig(partitions=8, events=True), stopping_workers)
"""
    (tmp_path / "run.py").write_text(program)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "run.py"], start_new_session=True
    )
    while len(list((tmp_path / ".out.partial").glob("part-*"))) < 4:
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for folder in ("", "_events", "_states"):  # files left by a kill during writing
        (
            tmp_path / ".out.partial" / folder / ".part-00000.parquet.00000000.tmp"
        ).write_bytes(b"PAR1")
    finished = {
        (path.name, path.stat().st_mtime_ns)
        for path in (tmp_path / ".out.partial").glob("part-*")
    }
    run(tmp_path / "in", har.path, tmp_path / "out", partitions=8, events=True)
    assert finished & {
        (path.name, path.stat().st_mtime_ns)
        for path in (tmp_path / "out").glob("part-*")
    }
    assert results(tmp_path / "out").equals(results(tmp_path / "whole"))
    assert events(tmp_path / "out").equals(events(tmp_path / "whole"))
    names = {
        path.name
        for path in (tmp_path / "out").rglob("*")
        if not path.name.startswith("part-")
    }
    assert names == {"_plan.json", "_states", "_events"}


@pytest.mark.parametrize("is_link", [False, True])
def test_a_folder_that_no_run_made_is_left_alone(har, tmp_path, is_link):
    write(samples(np.random.default_rng(14), [30]), tmp_path / "in" / "0.parquet")
    folder = tmp_path / ".out.partial"
    if is_link:
        folder.symlink_to(tmp_path / "victim")
        folder = tmp_path / "victim"
    (folder / "sub").mkdir(parents=True)
    (folder / "thesis.txt").write_text("precious")
    (folder / "sub" / "b.txt").write_text("precious")
    with pytest.raises(InputError, match="move it, or name another output"):
        run(tmp_path / "in", har.path, tmp_path / "out")
    assert (folder / "thesis.txt").read_text() == "precious"
    assert (folder / "sub" / "b.txt").read_text() == "precious"
    assert not (tmp_path / "out").exists()
    run(tmp_path / "in", har.path, tmp_path / "other")


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        ({"series": "label"}, {"series": "label"}),
        ({"order": "p_walk"}, {"order": "p_walk"}),
        ({"series": "start"}, {"series": "start", "events": True}),
    ],
)
def test_a_column_named_like_a_result_is_refused_and_not_lost(
    har, tmp_path, columns, options
):
    table = samples(np.random.default_rng(14), [30])
    names = [columns.get(name, name) for name in table.column_names]
    write(table.rename_columns(names), tmp_path / "in" / "0.parquet")
    (name,) = columns.values()
    with pytest.raises(InputError, match=f"the output would have two columns '{name}'"):
        run(tmp_path / "in", har.path, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == [tmp_path / "in"]


def test_another_run_with_the_same_output_is_refused(har, tmp_path):
    write(samples(np.random.default_rng(14), [30]), tmp_path / "in" / "0.parquet")
    with (
        locked(tmp_path / ".out.partial"),
        pytest.raises(InputError, match="another process is writing"),
    ):
        run(tmp_path / "in", har.path, tmp_path / "out")
    run(tmp_path / "in", har.path, tmp_path / "out")


def test_rows_and_series_choose_the_number_of_partitions(har, tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module, "ROWS", 100)
    write(
        samples(np.random.default_rng(23), [2] * 200), tmp_path / "many" / "0.parquet"
    )
    write(
        samples(np.random.default_rng(23), [200] * 2), tmp_path / "long" / "0.parquet"
    )
    for name, parts in (("many", 3), ("long", 1)):
        run(tmp_path / name, har.path, tmp_path / f"out {name}")
        assert (
            json.loads((tmp_path / f"out {name}" / "_plan.json").read_text())[
                "partitions"
            ]
            == parts
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("in -o out --series device", "no column 'device'"),
        (
            "in -o out --order series",
            "would have two columns 'series'",
        ),
        (
            "in -o out --window 6 --reset-every 6",
            "--window has no state; remove --since and --reset-every",
        ),
        ("in -o out --features ax,ay", "got 2 features (ax, ay), expected"),
        ("in -o out --hold 3", "give --events too"),
        ("in -o made", "exists; remove it"),
        ("in -o link", "exists; remove it"),
        ("in -o in/scores", "name an output outside of it"),
        ("in/**/*.parquet -o in/day/scores", "name an output outside of it"),
        ("in/*/*.parquet -o in/scores", "name an output outside of it"),
        ("in -o no/out", "does not exist"),
        ("no -o out", "has no .parquet file"),
        ("*.parquet -o out", "has no .parquet file"),
        ("twice -o out", "series 'dev 0' has order "),
        (f"in -o out -m {DATA / 'strided.onnx'}", "4 steps at a time"),
        ("in -o out -m values.onnx --events", "outputs are values"),
    ],
)
def test_wrong_usage_is_one_line(
    invoke, har, make, tmp_path, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    table = samples(np.random.default_rng(8), [20])
    write(table, tmp_path / "in" / "0.parquet")
    write(table.slice(3, 1), tmp_path / "twice" / "1.parquet")
    write(table, tmp_path / "twice" / "0.parquet")
    (tmp_path / "in" / "day").mkdir()
    (tmp_path / "made").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    shutil.copy(make("values", task="regression").path, "values.onnx")
    code, _, err = invoke("score", "-m", har.path, "--workers", 1, *words.split())
    assert (code, message in err.splitlines()[-1]) == (2, True), err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("dataset", "output"),
    [("in", "in/_scores"), ("in/*.parquet", "in/scores"), ("*.parquet", "scores")],
)
def test_an_output_that_no_run_would_read_may_be_near_the_data(
    har, tmp_path, monkeypatch, dataset, output
):
    table = samples(np.random.default_rng(8), [20])
    write(table, tmp_path / "in" / "0.parquet")
    write(table, tmp_path / "0.parquet")
    monkeypatch.chdir(tmp_path)
    for name in (output, f"{output}2"):
        assert run(dataset, har.path, Path(name)).rows == 20


@pytest.mark.parametrize(
    ("kind", "cell", "message"),
    [
        (pa.uint64(), 2**63, "9223372036854775808, expected an integer up to 9223372"),
        (pa.float64(), float("nan"), "nan, expected a finite number"),
        (pa.float32(), float("inf"), "inf, expected a finite number"),
        (pa.int64(), None, "empty, expected a number or a time"),
    ],
)
def test_an_order_that_is_no_position_is_named(har, tmp_path, kind, cell, message):
    table = samples(np.random.default_rng(8), [20])
    cells = [*range(20)]
    cells[7] = cell
    table = table.set_column(1, "order", pa.array(cells, kind))
    path = write(table, tmp_path / "in" / "0.parquet")
    with pytest.raises(InputError) as caught:
        run(tmp_path / "in", har.path, tmp_path / "out")
    assert f"{path} row 8, column 'order' is {message}" in str(caught.value)
