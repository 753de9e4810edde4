"""``lstm-edge score``: every engine gives the bits of a stream per source, each row once,
for any files, nights and kills."""

import contextlib
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
from pyarrow import parquet

from lstm_edge.run_files import locked
from lstm_edge.score import on_duckdb
from lstm_edge.score.source import Scorer
from lstm_edge_exporters.targets.native import to_native
from lstm_edge_runtime import load
from lstm_edge_runtime.manifest import Trained
from lstm_edge_runtime.results import softmax

DATA = Path(__file__).parents[2] / "runtime" / "data"
AXES = ("ax", "ay", "az")
LABELS = ["rest", "walk", "run, fast"]


def samples(seed, lengths, names=AXES):
    """Return the samples of several sources, shuffled: series, order and features."""
    rng = np.random.default_rng(seed)
    series = np.repeat(np.arange(len(lengths)), lengths)
    order = np.concatenate([np.arange(length) * 3 - 5 for length in lengths])
    x = (rng.normal(size=(len(series), len(names))) * 3).astype(np.float32)
    columns = {"series": [f"dev {number}" for number in series], "order": order}
    columns |= {name: x[:, index] for index, name in enumerate(names)}
    return pa.table(columns).take(rng.permutation(len(series)))


def write(table, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, **options)
    return path


def by_source(table):
    return table.sort_by([(name, "ascending") for name in table.column_names[:2]])


def read(folder):
    """Return the Parquet files of a folder as one table, ordered by source and order."""
    files = sorted(folder.glob("[!_]*.parquet"))
    return by_source(pa.concat_tables([parquet.ParquetFile(f).read() for f in files]))


def results(output):
    """Return the results of all runs, ordered by source and order."""
    return by_source(pa.concat_tables([read(f) for f in sorted(output.glob("run=*"))]))


def values(table):
    """Return the probabilities or values in a table of results."""
    first = 2 + ("label" in table.column_names)
    return np.stack([column.to_numpy() for column in table.columns[first:]], axis=1)


def expected(path, table, reset_every="never"):
    """Return the outputs of a stream per source, for a table ordered by source; NaN where
    a step completes no frame."""
    model = load(path)
    x = np.stack([table[name].to_numpy() for name in table.column_names[2:]], axis=1)
    rows = []
    before = None
    for name, sample in zip(table[0].to_pylist(), x.astype(np.float32), strict=True):
        if name != before:
            stream = model.stream(reset_every=reset_every)
            before = name
        result = stream.step(sample)
        rows.append(next(iter(result.values())) if isinstance(result, dict) else result)
    width = max(np.size(row) for row in rows if row is not None)
    none = np.full(width, np.nan, np.float32)
    return np.stack([none if row is None else np.ravel(row) for row in rows])


@pytest.fixture
def score(invoke, tmp_path):
    """Score ``in`` to ``out``; gives the JSON report, or the error."""

    def run(model, *options, data="in", output="out"):
        line = ["score", tmp_path / data, "-m", model, "-o", tmp_path / output]
        code, out, err = invoke(*line, *options, "--json")
        assert "Traceback" not in err
        return json.loads(out) if code == 0 else (code, err.splitlines()[-1])

    return run


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("batch", [7, 131_072], ids=["small batches", "one batch"])
def test_each_row_gets_what_a_stream_of_its_source_gives(
    har, score, tmp_path, monkeypatch, batch
):
    monkeypatch.setattr(on_duckdb, "_BATCH", batch)
    monkeypatch.setattr(on_duckdb, "_MAX_STATES", 2)
    table = samples(1, [40, 1, 25, 60])
    for day in range(3):
        part = table.slice(day * 42, 42)
        write(part, tmp_path / "in" / f"day={day}" / "a[1]*'.parquet", row_group_size=9)
    write(table, tmp_path / "in" / "_old" / "a.parquet")  # hidden
    report = score(har.path)
    assert (report["rows"], report["late"], report["files"]) == (126, 0, 3)
    assert (report["notes"], names(tmp_path / "out")) == ([], {"run=00001"})
    got = results(tmp_path / "out")
    probabilities = softmax(expected(har.path, by_source(table)))
    columns = ["series", "order", "label", *(f"p_{label}" for label in LABELS)]
    assert got.column_names == columns
    assert got.schema.types == [
        pa.string(),
        pa.int64(),
        pa.string(),
        *[pa.float32()] * 3,
    ]
    assert got.select([0, 1]).equals(by_source(table).select([0, 1]))
    np.testing.assert_array_equal(values(got), probabilities)
    assert got["label"].to_pylist() == [LABELS[k] for k in probabilities.argmax(axis=1)]
    assert parquet.read_table(tmp_path / "out").num_rows == 126


def test_nights_equal_one_long_run_and_late_rows_are_named(
    har, score, tmp_path, monkeypatch
):
    monkeypatch.setattr(on_duckdb, "_BATCH", 50)
    table = samples(4, [50, 80, 3, 120, 7, 9, 60, 60])
    nights = np.searchsorted([60, 100, 300], table["order"].to_numpy(), side="right")
    for night in range(4):
        part = table.filter(pa.array(nights == night))
        if night == 2:  # with rows that came late
            late = by_source(table.filter(pa.array(nights == 0)).slice(3, 70))
            part = pa.concat_tables([part, late])
        write(part, tmp_path / "in" / f"{night}.parquet")
        report = score(har.path, "--reset-every", 7)
        assert report["rows"] == np.count_nonzero(nights == night)
        assert (report["files"], report["late"]) == (1, 70 * (night == 2))
        assert ("70 rows came before" in str(report["notes"])) == (night == 2)
        assert [Path(run).name for run in report["runs"]] == [f"run=0000{night + 1}"]
    probabilities = softmax(expected(har.path, by_source(table), reset_every=7))
    np.testing.assert_array_equal(values(results(tmp_path / "out")), probabilities)
    left_out = read(tmp_path / "out" / "run=00003" / "_late").select([0, 1])
    assert left_out.equals(late.select([0, 1]))
    report = score(har.path, "--reset-every", 7)
    assert (report["runs"], report["rows"]) == ([], 0)


@pytest.mark.parametrize(
    ("series", "order"),
    [
        (pa.string(), pa.int16()),
        (pa.int8(), pa.float64()),
        (pa.large_string(), pa.timestamp("us")),
        (pa.dictionary(pa.int32(), pa.string()), pa.timestamp("ms", "Europe/Zurich")),
        (pa.uint64(), pa.date32()),
    ],
    ids=str,
)
def test_types_of_sources_and_orders_are_kept(har, score, tmp_path, series, order):
    table = samples(10, [9, 12])
    numbers = table["order"].cast(pa.int32() if order == pa.date32() else pa.int64())
    sources = table["series"]
    if pa.types.is_integer(series):
        sources = pa.compute.utf8_slice_codeunits(sources, 4).cast(series)
    elif pa.types.is_dictionary(series):
        sources = sources.dictionary_encode()
    table = table.set_column(1, "order", numbers.cast(order))
    table = table.set_column(0, "series", sources.cast(series))
    for part in range(2):
        late = pa.compute.greater(numbers, 10)
        keep = late if part else pa.compute.invert(late)
        write(table.filter(keep), tmp_path / "in" / f"{part}.parquet")
        assert score(har.path)["late"] == 0
    got = results(tmp_path / "out")
    plain = pa.string() if not pa.types.is_integer(series) else series
    assert got.schema.types[:2] == [plain, order]
    whole = table.set_column(0, "series", table["series"].cast(plain))
    assert got.select([0, 1]).equals(by_source(whole).select([0, 1]))
    outputs = softmax(expected(har.path, by_source(whole)))
    np.testing.assert_array_equal(values(got), outputs)


def test_names_of_columns_and_folders_reach_no_query(har, score, tmp_path):
    table = samples(34, [20, 30])
    columns = ['se"ri`es', "source", "new", "key", "x'"]
    write(
        table.rename_columns(columns), tmp_path / "it's [1]*, {a}" / "'; [1]*.parquet"
    )
    options = ["--series", columns[0], "--order", "source", "--features", "new,key,x'"]
    score(har.path, *options, data="it's [1]*, {a}", output="'o' [1]*")
    got = results(tmp_path / "'o' [1]*")
    outputs = softmax(expected(har.path, by_source(table)))
    np.testing.assert_array_equal(values(got), outputs)


def test_a_file_with_a_delay_leaves_results_empty_until_it_is_over(score, tmp_path):
    table = samples(11, [30, 1, 12, 8, 8, 8, 8])
    parts = np.searchsorted([10], table["order"].to_numpy())
    for part in range(2):
        write(
            table.filter(pa.array(parts == part)), tmp_path / "in" / f"{part}.parquet"
        )
        score(DATA / "late.onnx")
    got = results(tmp_path / "out")
    outputs = expected(DATA / "late.onnx", by_source(table))
    missing = np.isnan(outputs[:, 0])
    assert got["label"].is_null().to_numpy().tolist() == missing.tolist()
    assert 0 < missing.sum() < len(missing)
    np.testing.assert_array_equal(values(got)[~missing], softmax(outputs)[~missing])


@pytest.mark.parametrize("engine", ["onnxruntime", "native"])
@pytest.mark.parametrize("kind", ["int8", "values"])
def test_other_files_give_the_bits_of_single_streams(
    make, score, tmp_path, kind, engine
):
    features = tuple("abcdef") if kind == "int8" else AXES
    table = samples(12, [9] * 8, features)
    write(table, tmp_path / "in" / "0.parquet")
    is_int8 = kind == "int8"
    path = DATA / "motions-int8.onnx" if is_int8 else make(task="regression").path
    if engine == "native":
        (tmp_path / "m.lep").write_bytes(to_native(path))
        path = tmp_path / "m.lep"
    score(path, "--features", ",".join(features))
    outputs = expected(path, by_source(table))
    got = results(tmp_path / "out")
    np.testing.assert_array_equal(values(got), softmax(outputs) if is_int8 else outputs)
    assert is_int8 == ("label" in got.column_names)


def test_a_file_trained_from_reset_is_reset_at_every_window(make, score, tmp_path):
    path = make("from_reset", trained=Trained(False, 6, 1.0)).path
    table = samples(7, [20, 30])
    write(table, tmp_path / "in" / "0.parquet")
    for options, reset_every in ([], 6), (["--reset-every", "never"], "never"):
        output = f"out {reset_every}"
        assert score(path, *options, output=output)["reset_every"] == reset_every
        outputs = softmax(expected(path, by_source(table), reset_every))
        np.testing.assert_array_equal(values(results(tmp_path / output)), outputs)


def _cell(column, value, kind=None):
    def edit(table):
        cells = table[column].to_pylist()
        cells[17] = value
        index = table.column_names.index(column)
        return table.set_column(index, column, pa.array(cells, kind))

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_cell("ay", np.nan, pa.float32()), "'dev 0': an empty or infinite cell in"),
        (_cell("ay", None, pa.float32()), "an empty or infinite cell"),
        (_cell("ay", 1e308, pa.float64()), "an empty or infinite cell"),
        (_cell("order", None), "an empty or infinite cell"),
        (_cell("order", np.inf, pa.float64()), "an empty or infinite cell"),
        (_cell("series", None), "None: an empty or infinite cell"),
        (lambda t: pa.concat_tables([t, t.slice(3, 1)]), "has two rows at"),
        (lambda t: t.drop_columns(["az"]), "has no single column 'az'"),
        (lambda t: t.append_column("AX", t["ay"]), "has no single column 'ax'"),
        (lambda t: t.set_column(1, "order", t["order"].cast(pa.string())), "is string"),
    ],
)
def test_data_that_can_not_be_scored_is_one_line_and_leaves_no_run(
    har, score, tmp_path, monkeypatch, edit, message
):
    monkeypatch.setattr(on_duckdb, "_BATCH", 4)
    table = by_source(samples(9, [30]))
    table = table.set_column(1, "order", pa.array(range(30)))
    write(edit(table), tmp_path / "in" / "0.parquet")
    code, line = score(har.path)
    assert (code, message in line) == (2, True), line
    assert not list((tmp_path / "out").glob("run=*"))
    write(table, tmp_path / "in" / "0.parquet")
    assert score(har.path)["rows"] == 30


def _damaged(name, content):
    return lambda out, _: (out / "run=00001" / name).write_bytes(content)


def _states(saved):
    table = pa.table({"source": ["dev 0"], "state": [saved]})
    return lambda out, _: write(table, out / "run=00001" / "_states.parquet")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (None, ["--reset-every", 3], "has reset_every never, expected 3"),
        (None, ["--features", "az,ay,ax"], "has columns"),
        (_damaged("_run.json", b"[" * 9), [], "_run.json is damaged"),
        (_damaged("_run.json", b"7"), [], "_run.json is damaged"),
        (_damaged("_states.parquet", b"PAR1"), [], "DuckDB stopped"),
        (_states(b"\x80\x04N."), [], "a state is damaged"),
        (
            lambda _, data: os.utime(data / "0.parquet", (1, 1)),
            [],
            "0.parquet changed since it was scored",
        ),
        (
            lambda _, data: write(
                samples(6, [9]).cast(
                    pa.schema(
                        [("series", pa.string()), ("order", pa.int64())]
                        + [(name, pa.float64()) for name in AXES]
                    )
                ),
                data / "1.parquet",
            ),
            [],
            "has other types than",
        ),
    ],
)
def test_a_run_that_can_not_continue_is_one_line(
    har, score, tmp_path, change, options, message
):
    write(samples(6, [20]), tmp_path / "in" / "0.parquet")
    score(har.path)
    write(samples(6, [25]), tmp_path / "in" / "1.parquet")
    if change:
        change(tmp_path / "out", tmp_path / "in")
    code, line = score(har.path, *options)
    assert (code, message in line) == (2, True), line
    assert len(list((tmp_path / "out").glob("run=*"))) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("in -o out --series device", "has no single column 'device'"),
        ("in -o out --order series", "two columns would be named 'series'"),
        ("in -o out --series label", "has no single column 'label'"),
        ("named -o out --series label", "two columns would be named 'label'"),
        ("in -o out --features ax,ay", "got 2 features (ax, ay), expected"),
        ("in -o made", "made contains thesis.txt; name another output"),
        ("in -o in/scores", "name an output outside of it"),
        ("no -o out", "is no folder with .parquet files"),
        ("in/0.parquet -o out", "is no folder with .parquet files"),
        (f"in -o out -m {DATA / 'strided.onnx'}", "4 steps at a time"),
    ],
)
def test_wrong_usage_is_one_line(invoke, har, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    table = samples(8, [20])
    write(table, tmp_path / "in" / "0.parquet")
    columns = ["label", "order", *AXES]
    write(table.rename_columns(columns), tmp_path / "named" / "0.parquet")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "thesis.txt").write_text("precious")
    code, _, err = invoke("score", "-m", har.path, *words.split())
    assert (code, message in err.splitlines()[-1]) == (2, True), err
    assert (tmp_path / "made" / "thesis.txt").read_text() == "precious"


def test_two_runs_at_a_time_are_refused(har, score, tmp_path):
    write(samples(14, [30]), tmp_path / "in" / "0.parquet")
    with locked(tmp_path / "out"):
        code, line = score(har.path)
    assert (code, "another process is writing" in line) == (2, True)
    assert score(har.path)["rows"] == 30


def test_a_failed_run_leaves_nothing_and_is_repeated(har, score, tmp_path, monkeypatch):
    table = samples(15, [30, 20, 40])
    write(table, tmp_path / "in" / "0.parquet")

    def fail(self, source, frames, saved, ok=Scorer.score):
        if source == "dev 2":
            raise KeyboardInterrupt
        yield from ok(self, source, frames, saved)

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "score", fail)
        with pytest.raises(KeyboardInterrupt):
            score(har.path)
    assert not list((tmp_path / "out").glob("run=*"))
    assert score(har.path)["rows"] == 90
    outputs = softmax(expected(har.path, by_source(table)))
    np.testing.assert_array_equal(values(results(tmp_path / "out")), outputs)


# --- whole processes: DuckDB and Spark, killed and not


@pytest.fixture
def start(tmp_path):
    """Start ``lstm-edge score`` in a process group of its own; it is killed at the end."""
    begun = []
    (tmp_path / "conf").mkdir()
    settings = "spark.sql.shuffle.partitions 2\n"
    (tmp_path / "conf" / "spark-defaults.conf").write_text(settings)
    folders = {"SPARK_CONF_DIR": tmp_path / "conf", "SPARK_WORKER_DIR": tmp_path / "w"}

    def run(model, *options):
        line = ["score", tmp_path / "in", "-m", model, "-o", tmp_path / "out", *options]
        program = "from lstm_edge.cli import main; main()"
        with (tmp_path / "errors").open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-c", program, *map(str, line)],
                env=os.environ | {name: str(path) for name, path in folders.items()},
                stderr=errors,
                start_new_session=True,
            )
        begun.append(process)
        return process

    yield run
    for process in begun:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def finish(process, tmp_path):
    assert process.wait(300) == 0, (tmp_path / "errors").read_text()[-2000:]


def wait_for(pattern, process, tmp_path):
    """Wait until a file exists."""
    while not any(tmp_path.glob(pattern)):
        assert process.poll() is None, (tmp_path / "errors").read_text()[-2000:]
        time.sleep(0.01)


@pytest.fixture
def spark(find_program):
    find_program("java")
    pytest.importorskip("pyspark")


def two_nights(tmp_path, lengths=(50, 80, 3, 120, 7, 9, 60, 60), late=4):
    """Return rows with times, and write them as two files; the second has late rows."""
    table = samples(4, lengths)
    times = pa.array(table["order"].to_numpy() * 1_000_007).cast(pa.timestamp("us"))
    is_first = pa.compute.less(table["order"], 100)
    table = table.set_column(1, "order", times)
    first, second = table.filter(is_first), table.filter(pa.compute.invert(is_first))
    write(first, tmp_path / "nights" / "0.parquet")
    write(
        pa.concat_tables([second, first.slice(5, late)]),
        tmp_path / "nights" / "1.parquet",
    )
    (tmp_path / "in").mkdir(exist_ok=True)
    return by_source(table)


def deliver(tmp_path, night):
    shutil.copy(tmp_path / "nights" / f"{night}.parquet", tmp_path / "in")


def check(table, model, tmp_path, late=4):
    """Check that each row has its result once."""
    got = results(tmp_path / "out")
    assert got.select([0, 1]).equals(table.select([0, 1]))
    outputs = softmax(expected(model, table))
    np.testing.assert_array_equal(values(got), outputs)
    assert got["label"].to_pylist() == [LABELS[k] for k in outputs.argmax(axis=1)]
    left_out = sorted((tmp_path / "out").glob("run=*/_late"))
    assert sum(read(folder).num_rows for folder in left_out) == late


@pytest.mark.system
@pytest.mark.parametrize("master", ["local[2]", "local-cluster[2,1,1024]"])
def test_spark_gives_the_bits_of_a_stream_over_two_nights(
    har, spark, start, tmp_path, master
):
    table = two_nights(tmp_path)
    for night in range(2):
        deliver(tmp_path, night)
        finish(start(har.path, "--spark", master), tmp_path)
    check(table, har.path, tmp_path)
    assert len(list((tmp_path / "out").glob("run=*"))) == 2


def executors(driver):
    """Return the processes of the executors that a driver started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_ours = os.getpgid(int(entry.name)) == driver.pid
            command = (entry / "cmdline").read_text()
            if is_ours and "CoarseGrainedExecutorBackend" in command:
                found.append(int(entry.name))
    return found


@pytest.mark.system
def test_a_killed_worker_is_replaced_and_no_row_is_twice(har, spark, start, tmp_path):
    table = two_nights(tmp_path, [1500] * 40, late=0)
    deliver(tmp_path, 0)
    deliver(tmp_path, 1)
    process = start(har.path, "--spark", "local-cluster[2,1,1024]")
    wait_for("out/.run/_temporary/*/*/*", process, tmp_path)
    os.kill(executors(process)[0], signal.SIGKILL)
    finish(process, tmp_path)
    check(table, har.path, tmp_path, late=0)


@pytest.mark.system
@pytest.mark.parametrize(
    "options", [[], ["--spark", "local[2]"]], ids=["DuckDB", "Spark"]
)
def test_a_killed_driver_leaves_no_run_and_is_repeated(
    har, request, start, tmp_path, options
):
    if options:
        request.getfixturevalue("spark")
    table = two_nights(tmp_path, [1500] * 40)
    for night in range(2):
        deliver(tmp_path, night)
        process = start(har.path, *options)
        wait_for("out/.run/*/*" if options else "out/.run/*", process, tmp_path)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert len(list((tmp_path / "out").glob("run=*"))) == night
        finish(start(har.path, *options), tmp_path)
    check(table, har.path, tmp_path)


@pytest.mark.system
def test_a_driver_killed_between_publishing_and_commit_publishes_nothing_twice(
    har, spark, start, tmp_path
):
    table = two_nights(tmp_path)
    deliver(tmp_path, 0)
    finish(start(har.path, "--spark", "local[2]"), tmp_path)
    for path in (tmp_path / "out" / "_spark" / "commits").glob("*0*"):
        path.unlink()
    deliver(tmp_path, 1)
    finish(start(har.path, "--spark", "local[2]"), tmp_path)
    check(table, har.path, tmp_path)
