import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.compute
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from lstm_edge.score.config import ScoreConfig
from lstm_edge.score.output import read_ledger
from lstm_edge.score.pipeline import score
from lstm_edge_runtime import LstmEdgeError, load
from lstm_edge_runtime.errors import FileFormatError, UnsupportedError, counted
from lstm_edge_runtime.hold import Hold
from lstm_edge_runtime.manifest import Manifest, Trained
from lstm_edge_runtime.prediction import softmax

DATA = Path(__file__).parents[2] / "runtime" / "data"
AXES = ("ax", "ay", "az")
LABELS = ["rest", "walk", "run, fast"]


def samples(rng, lengths, scale=3):
    """Samples of several series: a table with series, order and features, in the order of time."""
    series = rng.permutation(np.repeat(np.arange(len(lengths)), lengths))
    order = np.zeros(len(series), dtype=np.int64)
    for one in range(len(lengths)):
        order[series == one] = np.arange(lengths[one]) * 3 - 5
    x = (rng.normal(size=(len(series), 3)) * scale).astype(np.float32)
    columns = {"series": [f"dev {one}" for one in series], "order": order}
    return pa.table(columns | {name: x[:, place] for place, name in enumerate(AXES)})


def write(table, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, **options)
    return path


def expected(path, table, every=10**9):
    """Each row's output as a stream of its own series gives it, reset by hand before each window."""
    model = load(path)
    series, order = np.array(table["series"].to_pylist()), table["order"].to_numpy()
    x = np.stack([table[name].to_numpy() for name in AXES], axis=1)
    out = np.empty((len(table), model.outputs[0].axes[-1]), dtype=np.float32)
    for one in np.unique(series):
        stream = model.stream(reset_every="never")
        rows = np.flatnonzero(series == one)
        for step, row in enumerate(rows[np.argsort(order[rows])]):
            if step % every == 0:
                stream.reset()
            out[row] = stream.step(x[row])
    return out


def numbers(table):
    return np.stack(
        [table[name].to_numpy() for name in table.column_names if name[:2] in ("p_", "va")], axis=1
    )


def read(path):
    return parquet.ParquetFile(path).read()


def run(data, model, output, **options):
    shown = []
    report = score(
        str(data), model, output, ScoreConfig(**{"workers": 1} | options), lambda *said: shown.append(said)
    )
    return report, shown


def contents(output):
    """An output's tables by name; events sorted, whatever files they are in."""
    found = {
        path.relative_to(output).as_posix(): read(path)
        for path in sorted(output.rglob("*.parquet"))
        if not path.relative_to(output).parts[0].startswith("_")
    }
    if (output / "_events").exists():
        events = pa.concat_tables([read(path) for path in (output / "_events").iterdir()])
        found["events"] = events.sort_by([("series", "ascending"), ("start", "ascending")])
    return found


def assert_same(one, other):
    assert list(one) == list(other)
    for name in one:
        assert one[name].equals(other[name]), name


def test_each_row_gets_what_a_stream_of_its_series_gives(invoke, har, tmp_path):
    rng = np.random.default_rng(1)
    table = samples(rng, [40, 1, 25, 60])
    days = rng.integers(0, 3, len(table))
    for day in range(3):
        write(
            table.filter(pa.array(days == day)),
            tmp_path / "in" / f"day={day}" / "a.parquet",
            row_group_size=9,
        )
    code, out, err = invoke(
        "score", tmp_path / "in", "-m", har.path, "-o", tmp_path / "out", "--workers", 1, "--json"
    )
    assert code == 0, err
    report = json.loads(out)
    assert (report["rows"], report["series"], report["files"]) == (126, 4, 3)
    assert report["slowest"] in [stage["name"] for stage in report["stages"]] == ["read", "score", "write"]
    assert all(stage["rows"] == 126 and stage["rows_per_second"] > 0 for stage in report["stages"])
    assert "score: 1 item for 1 worker" in err or err == ""
    probabilities = softmax(expected(har.path, table))
    for day in range(3):
        written = read(tmp_path / "out" / f"day={day}" / "a.parquet")
        inside = pa.array(days == day)
        assert written.column_names == ["series", "order", "label", *(f"p_{label}" for label in LABELS)]
        assert written.select(["series", "order"]).equals(table.filter(inside).select(["series", "order"]))
        np.testing.assert_array_equal(numbers(written), probabilities[days == day])
        assert written["label"].to_pylist() == [LABELS[k] for k in probabilities[days == day].argmax(axis=1)]
    assert parquet.read_table(tmp_path / "out").num_rows == 126
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_the_names_of_folders_and_columns_reach_no_query(har, tmp_path):
    table = samples(np.random.default_rng(34), [20, 30]).rename_columns(
        ['se"ries', "file", "row", "ROW", "x'"]
    )
    write(table, tmp_path / "in" / "'; [1]*.parquet")
    named = {"series": 'se"ries', "order": "file", "features": ("row", "ROW", "x'")}
    output = tmp_path / "row=7" / "it's [1]*, {a}" / "out"
    output.parent.mkdir(parents=True)
    run(tmp_path / "in", har.path, output, **named)
    written = read(output / "'; [1]*.parquet")
    plain = table.rename_columns(["series", "order", *AXES])
    np.testing.assert_array_equal(numbers(written), softmax(expected(har.path, plain)))


def test_the_table_for_people_names_throughput_and_the_slowest_stage(invoke, har, tmp_path):
    write(samples(np.random.default_rng(2), [30]), tmp_path / "a.parquet")
    code, out, _ = invoke(
        "score", tmp_path / "a.parquet", "-m", har.path, "-o", tmp_path / "out", "--workers", 1, "--events"
    )
    assert code == 0
    assert "30 rows of 1 series in 1 file; " in out
    assert "rows/s, 1 worker (one process, " in out
    assert "the slowest stage: " in out


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    files=st.integers(1, 4),
    group=st.integers(1, 40),
    rows=st.integers(1, 80),
    every=st.sampled_from([10**9, 1, 7]),
    hold=st.integers(1, 4),
)
@pytest.mark.system
def test_results_do_not_depend_on_how_rows_are_split(
    har, tmp_path_factory, seed, lengths, files, group, rows, every, hold
):
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("split")
    table = samples(rng, lengths)
    where = rng.integers(0, files, len(table))
    for each in range(files):
        own = table.filter(pa.array(where == each))
        write(own, folder / "in" / f"{each}.parquet", row_group_size=group)
    options = {"events": True, "reset_every": every, "hold": hold}
    run(folder / "in", har.path, folder / "out", rows_in_memory=rows, **options)
    probabilities = softmax(expected(har.path, table, every=every))
    for each in range(files):
        written = read(folder / "out" / f"{each}.parquet")
        np.testing.assert_array_equal(numbers(written), probabilities[where == each])
    write(table, folder / "one" / "0.parquet")
    run(folder / "one", har.path, folder / "whole", **options)
    one, other = (contents(folder / name).get("events") for name in ("out", "whole"))
    assert one == other  # none where no label stayed
    shutil.rmtree(folder)


def test_events_are_the_changes_of_the_label(har, tmp_path):
    table = samples(np.random.default_rng(3), [200, 150])
    write(table, tmp_path / "a.parquet")
    run(tmp_path / "a.parquet", har.path, tmp_path / "out", events=True)
    probabilities = softmax(expected(har.path, table))
    found = []
    for name in ("dev 0", "dev 1"):
        rows = np.flatnonzero(np.array(table["series"].to_pylist()) == name)
        labels = probabilities[rows].argmax(axis=1)
        cuts = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(rows)]
        for begin, end in pairwise(cuts):
            own = rows[begin:end]
            found.append(
                {
                    "series": name,
                    "start": table["order"][own[0]].as_py(),
                    "end": table["order"][own[-1]].as_py(),
                    "label": LABELS[labels[begin]],
                    "samples": end - begin,
                    "mean_probability": sum(probabilities[own, labels[begin]].tolist()) / (end - begin),
                    "open": end == len(rows),
                }
            )
    assert len(found) > 20
    assert contents(tmp_path / "out")["events"].to_pylist() == found


def test_events_of_held_labels_begin_where_a_label_stayed(har, tmp_path):
    table = samples(np.random.default_rng(3), [200, 150])
    write(table, tmp_path / "a.parquet")
    run(tmp_path / "a.parquet", har.path, tmp_path / "out", events=True, hold=3)
    probabilities = softmax(expected(har.path, table))
    found = []
    for name in ("dev 0", "dev 1"):
        rows = np.flatnonzero(np.array(table["series"].to_pylist()) == name)
        hold, held = Hold(3), []
        for label in probabilities[rows].argmax(axis=1).tolist():
            hold.take(label)
            held.append(hold.label)
        for label, places in groupby(range(len(rows)), key=held.__getitem__):
            own = rows[list(places)]
            if label >= 0:
                mean = np.mean(probabilities[own, label], dtype=np.float64)
                found.append(
                    (name, *table["order"].take(own[[0, -1]]).to_pylist(), LABELS[label], len(own), mean)
                )
    written = [tuple(row.values())[:-1] for row in contents(tmp_path / "out")["events"].to_pylist()]
    assert [row[:-1] for row in written] == [row[:-1] for row in found]
    np.testing.assert_allclose([row[-1] for row in written], [row[-1] for row in found], rtol=1e-6)
    np.testing.assert_array_equal(numbers(read(tmp_path / "out" / "a.parquet")), probabilities)


def test_a_file_from_reset_starts_again_with_each_window_and_the_verb_says_so(invoke, make, tmp_path):
    path = make("from_reset", trained=Trained(False, 6, 1.0)).path
    table = samples(np.random.default_rng(7), [20, 30])
    write(table, tmp_path / "in" / "0.parquet")
    line = ["score", tmp_path / "in", "-m", path, "--workers", 1, "-o"]
    for name, arguments, every in (("a", [], 6), ("b", ["--reset-every", "never"], 10**9)):
        code, _, err = invoke(*line, tmp_path / name, *arguments)
        assert code == 0
        assert (err.count("series are reset every 6 steps; --reset-every never"), err.count("note:")) == (
            (0, 0) if arguments else (1, 1)
        )
        found = numbers(read(tmp_path / name / "0.parquet"))
        np.testing.assert_array_equal(found, softmax(expected(path, table, every=every)))
    write(samples(np.random.default_rng(8), [20]).slice(0, 0), tmp_path / "in" / "1.parquet")
    code, _, err = invoke(*line, tmp_path / "c", "--since", tmp_path / "a", "--reset-every", "never")
    assert (code, "had 6 as --reset-every, this one has None" in err) == (2, True)
    code, _, err = invoke(*line, tmp_path / "c", "--since", tmp_path / "b")
    assert (code, f"the run in {tmp_path / 'b'} carried states on, and so did this one" in err) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--hold", "3"], "give --events too"),
        (["--by-window", "--reset-every", "3"], "each row of --by-window starts from reset"),
    ],
)
def test_options_that_say_nothing_are_refused(invoke, har, tmp_path, arguments, words):
    write(samples(np.random.default_rng(7), [20]), tmp_path / "0.parquet")
    code, _, err = invoke("score", tmp_path / "0.parquet", "-m", har.path, "-o", tmp_path / "o", *arguments)
    assert (code, words in err) == (2, True)


@pytest.mark.parametrize("options", [{}, {"reset_every": 7, "hold": 3}], ids=["carried", "again and held"])
@pytest.mark.parametrize("apart", [False, True], ids=["in place", "an output a night"])
def test_nightly_runs_equal_one_long_run(har, tmp_path, apart, options):
    rng = np.random.default_rng(4)
    table = samples(rng, [50, 80, 3, 120])
    order = table["order"].to_numpy()
    night = np.searchsorted([60, 100, 300], order, side="right")  # dev 2 is not seen after the first
    for each in range(4):
        write(table.filter(pa.array(night == each)), tmp_path / "all" / f"{each}.parquet")
    run(tmp_path / "all", har.path, tmp_path / "long", events=True, **options)
    total, last, seen = {}, None, []
    for each in range(4):
        write(table.filter(pa.array(night == each)), tmp_path / "in" / f"{each}.parquet")
        output = tmp_path / (f"night{each}" if apart else "nightly")
        rows = 10 if each == 1 else None  # other cuts
        said = {} if last else options  # what is not given again stays
        report, _ = run(
            tmp_path / "in", har.path, output, events=True, since=last, rows_in_memory=rows, **said
        )
        assert (report.files, report.known) == (1, each)
        seen.append(report.rows)
        last = output
        if apart:
            own = contents(output)
            events = own.pop("events")
            closed = events.filter(pa.compute.invert(events["open"])) if each < 3 else events
            total = total | own | {"events": pa.concat_tables([*filter(None, [total.get("events")]), closed])}
    assert sum(seen) == len(table)
    if apart:
        # the last night holds what is open then; series that were quiet included
        total["events"] = total["events"].sort_by([("series", "ascending"), ("start", "ascending")])
        total = {name: total[name] for name in contents(tmp_path / "long")}
    else:
        total = contents(tmp_path / "nightly")
    assert_same(total, contents(tmp_path / "long"))


def test_a_run_with_nothing_new_changes_nothing(har, tmp_path):
    write(samples(np.random.default_rng(5), [20, 30]), tmp_path / "in" / "0.parquet")
    run(tmp_path / "in", har.path, tmp_path / "out", events=True)
    before = contents(tmp_path / "out")
    report, _ = run(tmp_path / "in", har.path, tmp_path / "out", events=True, since=tmp_path / "out")
    assert (report.rows, report.files, report.known) == (0, 0, 1)
    assert_same(contents(tmp_path / "out"), before)
    late = samples(np.random.default_rng(5), [40])
    write(late.filter(pa.compute.greater(late["order"], 60)), tmp_path / "in" / "1.parquet")
    report, _ = run(tmp_path / "in", har.path, tmp_path / "out", events=True, since=tmp_path / "out")
    assert report.rows == 18


def test_since_goes_on_with_the_columns_that_were_named_before(invoke, har, tmp_path):
    table = samples(np.random.default_rng(24), [20, 30]).rename_columns(["device", "time", "x", "y", "z"])
    line = ["score", tmp_path / "in", "-m", har.path, "-o", tmp_path / "out", "--workers", 1]
    named = ["--series", "device", "--order", "time", "--features", "x,y,z"]
    for part, more in enumerate((named, ["--since", tmp_path / "out"])):
        write(table.slice(25 * part, 25), tmp_path / "in" / f"{part}.parquet")
        code, _, err = invoke(*line, *more)
        assert code == 0, err
    code, _, err = invoke(*line, "--since", tmp_path / "out", "--order", "x")
    assert (code, "differ from each other" in err) == (2, True)


def test_since_refuses_what_could_not_equal_one_run(invoke, har, make, tmp_path):
    table = samples(np.random.default_rng(6), [20, 30])
    write(table, tmp_path / "in" / "0.parquet")
    run(tmp_path / "in", har.path, tmp_path / "out")
    more = ("-o", tmp_path / "out", "--since", tmp_path / "out", "--workers", 1)
    code, _, err = invoke("score", tmp_path / "in", "-m", make("other", seed=9).path, *more)
    assert (code, "as the model" in err) == (2, True)
    code, _, err = invoke("score", tmp_path / "in", "-m", har.path, *more, "--events")
    assert (code, "--events" in err) == (2, True)
    (tmp_path / "_run.json").write_text('{"schema": 1}')
    code, _, err = invoke("score", tmp_path / "in", "-m", har.path, "-o", tmp_path / "x", "--since", tmp_path)
    assert (code, "_run.json can't be read (no " in err) == (2, True)
    (tmp_path / "_run.json").unlink()
    code, _, err = invoke("score", tmp_path / "in", "-m", har.path, "-o", tmp_path / "x", "--since", tmp_path)
    assert (code, "is no output of lstm-edge score" in err) == (2, True)
    os.mkfifo(tmp_path / "_run.json")
    code, _, err = invoke("score", tmp_path / "in", "-m", har.path, "-o", tmp_path / "x", "--since", tmp_path)
    assert (code, "it is not a regular file" in err) == (2, True)
    write(table.slice(0, 4), tmp_path / "in" / "1.parquet")
    code, _, err = invoke("score", tmp_path / "in", "-m", har.path, *more)
    assert (code, "its rows came late" in err) == (2, True)
    write(table.slice(1), tmp_path / "in" / "0.parquet")
    code, _, err = invoke("score", tmp_path / "in", "-m", har.path, *more)
    assert (code, "0.parquet changed since an earlier run" in err) == (2, True)


def _peak(data, model, output, rows):
    program = (
        "import re; from pathlib import Path\n"
        "from lstm_edge.score.pipeline import score; from lstm_edge.score.config import ScoreConfig\n"
        f"score({str(data)!r}, Path({str(model)!r}), Path({str(output)!r}),"
        f" ScoreConfig(workers=1, rows_in_memory={rows}), lambda *_: None)\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(done.stdout) // 1024


@pytest.mark.system
def test_memory_is_flat_however_long_a_series_is(make, tmp_path):
    names = tuple(f"f{place}" for place in range(256))
    made = make("wide", features=256, feature_names=names, golden=False)
    rng, peaks = np.random.default_rng(7), []
    for length in (40_000, 160_000):
        x = rng.normal(size=(length, 256)).astype(np.float32)
        columns = {"series": ["one"] * length, "order": np.arange(length)}
        table = pa.table(columns | {name: x[:, place] for place, name in enumerate(names)})
        path = write(table, tmp_path / f"{length}.parquet", row_group_size=4000)
        peaks.append(_peak(path, made.path, tmp_path / f"out{length}", 4000))
    assert peaks[1] - peaks[0] < 40, peaks  # MB; the features that the longer one has more are 123


def test_a_series_may_not_have_one_order_twice(invoke, har, tmp_path):
    table = samples(np.random.default_rng(8), [20])
    write(table, tmp_path / "in" / "0.parquet")
    write(table.slice(3, 1), tmp_path / "in" / "1.parquet")
    code, _, err = invoke("score", tmp_path / "in", "-m", har.path, "-o", tmp_path / "out", "--workers", 1)
    assert code == 2
    assert f"series 'dev 0' has order {table['order'][3]} twice" in err
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def _corrupt(path):
    """Damage the pages and leave the footer."""
    content = bytearray(path.read_bytes())
    content[8 : len(content) // 2] = bytes(len(content) // 2 - 8)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "kind", ["truncated", "pages", "nan", "null", "column", "text", "float order", "no names"]
)
@pytest.mark.parametrize("by_window", [False, True], ids=["series", "windows"])
def test_a_bad_file_is_named_and_may_be_left_out(invoke, har, tmp_path, kind, by_window):
    rng = np.random.default_rng(9)
    good = samples(rng, [30, 20])
    write(good, tmp_path / "in" / "good.parquet")
    bad = samples(rng, [300]).set_column(0, "series", pa.array(["new"] * 300))
    if kind in ("nan", "null", "text"):
        cells = bad["ay"].to_pylist()
        cells[17] = {"nan": np.nan, "null": None, "text": 0}[kind]
        cells = list(map(str, cells)) if kind == "text" else cells
        bad = bad.set_column(3, "ay", pa.array(cells, None if kind == "text" else pa.float32()))
    if kind == "column":
        bad = bad.drop_columns(["az"])
    if kind == "float order":
        bad = bad.set_column(1, "order", bad["order"].cast(pa.float64()))
    if kind == "no names":
        bad = bad.set_column(0, "series", pa.array([b"\xff\xfe"] * 300, pa.binary()))
    if by_window and kind in ("float order", "no names"):
        pytest.skip("windows have neither")
    path = write(bad, tmp_path / "in" / "wrong.parquet", row_group_size=100, compression="none")
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    if kind == "pages":
        _corrupt(path)
    line = ["score", tmp_path / "in", "-m", har.path, "-o", tmp_path / "out", "--workers", 1]
    line += ["--by-window"] if by_window else []
    code, _, err = invoke(*line)
    assert code == 2
    assert str(path) in err
    assert not (tmp_path / "out").exists()
    code, out, err = invoke(*line, "--skip-bad", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert list(report["left_out"]) == ["wrong.parquet"]
    assert (report["rows"], report["files"], report["series"]) == (50, 1, None if by_window else 2)
    assert list(contents(tmp_path / "out")) == ["good.parquet"]


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_leaves_the_old_output_and_no_half_of_a_new_one(har, tmp_path, signal_):
    write(samples(np.random.default_rng(10), [30]), tmp_path / "in" / "0.parquet")
    run(tmp_path / "in", har.path, tmp_path / "out")
    before = contents(tmp_path / "out")
    write(samples(np.random.default_rng(11), [150_000]), tmp_path / "in" / "0.parquet")
    program = "from lstm_edge.cli import main; main()"
    line = ["score", tmp_path / "in", "-m", har.path, "-o", tmp_path / "out", "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, line)], stderr=subprocess.PIPE, text=True
    )
    for said in process.stderr:
        if said.startswith("score: ") and "rows/s" in said:
            break
    process.send_signal(signal_)
    process.stderr.close()
    assert process.wait(timeout=60) != 0
    assert_same(contents(tmp_path / "out"), before)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"in", "out", ".out.partial"} if signal_ == signal.SIGKILL else {"in", "out"}
    write(samples(np.random.default_rng(12), [40]), tmp_path / "in" / "0.parquet")
    run(tmp_path / "in", har.path, tmp_path / "out")
    assert contents(tmp_path / "out")["0.parquet"].num_rows == 40
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}


def test_a_swap_that_was_interrupted_is_put_right(har, tmp_path):
    write(samples(np.random.default_rng(13), [30]), tmp_path / "in" / "0.parquet")
    run(tmp_path / "in", har.path, tmp_path / "out")
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / "out").rename(tmp_path / ".out.partial" / "old")
    report, _ = run(tmp_path / "in", har.path, tmp_path / "out")
    assert report.rows == 30
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}


def test_a_run_goes_on_from_an_output_whose_swap_was_interrupted(invoke, har, tmp_path):
    write(samples(np.random.default_rng(13), [30]), tmp_path / "in" / "0.parquet")
    run(tmp_path / "in", har.path, tmp_path / "out")
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / "out").rename(tmp_path / ".out.partial" / "old")
    line = ["score", tmp_path / "in", "-m", har.path, "-o", tmp_path / "out", "--workers", 1, "--json"]
    code, out, err = invoke(*line, "--since", tmp_path / "out")
    assert code == 0, err
    assert json.loads(out)["known"] == 1


WRONG = (None, True, 0, -1, 1.5, 2**70, 3, "", "x", "AAAA", [], ["x"], [[]], {}, {"x": 1})


def edited(document, path=()):
    """Every document with one value replaced or dropped, and where."""
    inner = document
    for key in path:
        inner = inner[key]
    for value in WRONG:
        if path:
            copy = json.loads(json.dumps(document))
            place = copy
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
            yield path, copy
        else:
            yield path, value
    keys = inner if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ()
    for key in keys:
        dropped = json.loads(json.dumps(document))
        place = dropped
        for each in path:
            place = place[each]
        del place[key]
        yield (*path, key), dropped
        yield from edited(document, (*path, key))


def test_a_ledger_with_one_wrong_value_is_one_line(har, tmp_path):
    write(samples(np.random.default_rng(30), [20, 30]), tmp_path / "in" / "0.parquet")
    run(tmp_path / "in", har.path, tmp_path / "out", events=True)
    write(samples(np.random.default_rng(31), [20, 30]), tmp_path / "in" / "1.parquet")
    path = tmp_path / "out" / "_run.json"
    ledger = json.loads(path.read_text())
    refused, went_on = 0, []
    for place, document in edited(ledger):
        path.write_text(json.dumps(document))
        try:
            read_ledger(tmp_path / "out")
        except FileFormatError:
            refused += 1
        else:
            went_on.append((place, document))
    assert refused > 300
    for _, document in went_on[:: max(1, len(went_on) // 25)]:
        path.write_text(json.dumps(document))
        with contextlib.suppress(LstmEdgeError):
            run(tmp_path / "in", har.path, tmp_path / "next", events=True, since=tmp_path / "out")


def test_columns_that_no_run_can_use_are_one_line(invoke, har, tmp_path):
    table = samples(np.random.default_rng(32), [20])
    twice = table.append_column("ax", table["ay"])
    time = table.set_column(1, "order", pa.array(range(20), pa.time64("us")))
    line = ["score", tmp_path / "in", "-m", har.path, "-o", tmp_path / "out", "--workers", 1]
    for name, wrong, words in (
        ("0.parquet", twice, "has 2 columns 'ax', expected one"),
        ("0.parquet", time, "is time64[us], expected numbers, dates"),
        ("order=5/0.parquet", table, "is in the path"),
        ("order=5/0.parquet", table.drop_columns(["order"]), "is in the path"),
    ):
        shutil.rmtree(tmp_path / "in", ignore_errors=True)
        write(wrong, tmp_path / "in" / name)
        code, _, err = invoke(*line)
        assert (code, words in err, err.count("\n")) == (2, True, err.count("score: ") + 1), err
    write(table, tmp_path / "in" / "0.parquet")
    code, _, err = invoke(*line)
    assert (code, "column 'order' is in its path" in err) == (2, True), err
    shutil.rmtree(tmp_path / "in" / "order=5")
    write(time, tmp_path / "in" / "1.parquet")
    code, _, err = invoke(*line)
    assert (code, "is time64[us], expected int64 as in the first file" in err) == (2, True), err
    code, _, err = invoke(*line, "--by-window", "--series", "series", "--order", "series")
    assert (code, "are both 'series'" in err) == (2, True), err


def test_events_of_files_whose_columns_differ_in_type_have_the_wider_one(har, tmp_path):
    numbered = pa.table({"series": [1] * 4, "order": pa.array([1, 2, 3, 4], pa.int8())})
    named = pa.table({"series": ["dev 1"] * 4, "order": [1000, 2000, 3000, 4000]})
    rng = np.random.default_rng(33)
    for place, keys in enumerate((numbered, named)):
        x = {name: rng.normal(size=4).astype(np.float32) for name in AXES}
        columns = {name: keys[name] for name in keys.column_names}
        write(pa.table(columns | x), tmp_path / "in" / f"{place}.parquet")
    run(tmp_path / "in", har.path, tmp_path / "out", events=True)
    events = contents(tmp_path / "out")["events"]
    assert set(events["series"].to_pylist()) == {"1", "dev 1"}
    assert (min(events["start"].to_pylist()), max(events["end"].to_pylist())) == (1, 4000)


def test_two_runs_do_not_write_one_output(invoke, har, tmp_path):
    write(samples(np.random.default_rng(14), [30]), tmp_path / "in" / "0.parquet")
    (tmp_path / ".out.partial").mkdir()
    with (tmp_path / ".out.partial" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, err = invoke(
            "score", tmp_path / "in", "-m", har.path, "-o", tmp_path / "out", "--workers", 1
        )
        assert (code, "another run is writing" in err) == (2, True)
        assert (tmp_path / ".out.partial" / "lock").exists()


def test_an_output_that_a_glob_takes_in_is_refused(invoke, har, tmp_path):
    write(samples(np.random.default_rng(15), [30]), tmp_path / "0.parquet")
    line = ["score", tmp_path / "**" / "*.parquet", "-m", har.path, "-o", tmp_path / "out", "--workers", 1]
    assert invoke(*line)[0] == 0
    code, _, err = invoke(*line)
    assert (code, "name another output" in err) == (2, True)


def test_an_output_that_would_lose_or_mix_files_is_refused(invoke, har, tmp_path):
    write(samples(np.random.default_rng(15), [30]), tmp_path / "in" / "0.parquet")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for output in (
        tmp_path / "mine",
        tmp_path / "in",
        tmp_path / "in" / "out",
        tmp_path,
        tmp_path / "no" / "out",
    ):
        code, _, err = invoke("score", tmp_path / "in", "-m", har.path, "-o", output, "--workers", 1)
        assert (code, err.count("\n")) == (2, 1), output
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


@pytest.mark.parametrize("kind", ["lists", "nested", "unequal", "numbers"])
def test_windows_are_independent_rows(invoke, har, tmp_path, kind):
    rng = np.random.default_rng(16)
    counts = {"unequal": rng.integers(1, 9, 300), "numbers": np.ones(300, int)}.get(kind, np.full(300, 6))
    windows = [(rng.normal(size=(count, 3)) * 3).astype(np.float32) for count in counts]
    more = []
    if kind == "nested":
        columns, more = {"x": [window.tolist() for window in windows]}, ["--features", "x"]
    elif kind == "numbers":
        columns = {name: [float(each[0, k]) for each in windows] for k, name in enumerate(AXES)}
    else:
        columns = {name: [each[:, k].tolist() for each in windows] for k, name in enumerate(AXES)}
    table = pa.table({"id": range(300)} | columns)
    for part in range(2):
        write(table.slice(part * 150, 150), tmp_path / "in" / f"{part}.parquet", row_group_size=40)
    line = ["score", tmp_path / "in" / "*.parquet", "-m", har.path, "-o", tmp_path / "out", "--by-window"]
    code, out, err = invoke(*line, "--series", "id", "--workers", 1, "--json", *more)
    assert code == 0, err
    assert (json.loads(out)["rows"], json.loads(out)["series"]) == (300, None)
    written = pa.concat_tables([read(tmp_path / "out" / f"{part}.parquet") for part in range(2)])
    assert written["id"].to_pylist() == list(range(300))
    model = load(har.path)
    alone = np.concatenate([model.run(window[None])[0]["logits"] for window in windows])
    np.testing.assert_allclose(numbers(written), softmax(alone), atol=1e-6)
    code, _, err = invoke(*line, "--events", *more)
    assert (code, "leave one out" in err) == (2, True)


def test_values_are_written_with_their_units(invoke, make, tmp_path):
    made = make("values", task="regression")
    table = samples(np.random.default_rng(17), [30, 50])
    write(table, tmp_path / "in" / "0.parquet")
    line = ["score", tmp_path / "in", "-m", made.path, "-o", tmp_path / "out", "--workers", 1]
    assert invoke(*line)[0] == 0
    written = read(tmp_path / "out" / "0.parquet")
    assert written.column_names[2:] == ["value_0 [m]", "value_1 [m/s]", "value_2 [kg]"]
    np.testing.assert_array_equal(numbers(written), expected(made.path, table))
    code, _, err = invoke(*line, "--events")
    assert (code, "outputs are values" in err) == (2, True)


def test_series_of_an_int8_file_do_not_feel_each_other(har, tmp_path):
    """The file only says that it is int8: the way that is taken for such files gives the same results."""
    model = onnx.load(har.path)
    contract = Manifest.from_json(model.metadata_props[0].value)
    model.metadata_props[0].value = contract._replace(precision="int8", golden=None).to_json()
    onnx.save(model, tmp_path / "int8.onnx")
    table = samples(np.random.default_rng(18), [30, 1, 25])
    half = np.arange(len(table)) < 20
    for part, inside in enumerate((half, ~half)):
        write(table.filter(pa.array(inside)), tmp_path / "in" / f"{part}.parquet")
    run(tmp_path / "in" / "0.parquet", tmp_path / "int8.onnx", tmp_path / "out")
    run(
        tmp_path / "in",
        tmp_path / "int8.onnx",
        tmp_path / "out2",
        since=tmp_path / "out",
        rows_in_memory=7,
    )
    written = [read(tmp_path / "out" / "0.parquet"), read(tmp_path / "out2" / "1.parquet")]
    probabilities = softmax(expected(tmp_path / "int8.onnx", table))
    np.testing.assert_array_equal(numbers(written[0]), probabilities[half])
    np.testing.assert_array_equal(numbers(written[1]), probabilities[~half])


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.timestamp("us", "UTC"), pa.timestamp("ns"), pa.date32(), pa.duration("ms")),
        *(pa.float64(), pa.int32()),
    ],
    ids=str,
)
def test_orders_keep_their_type(har, tmp_path, kind):
    table = samples(np.random.default_rng(19), [40])
    order = pa.compute.add(table["order"], 10)
    order = order.cast(pa.int32()) if kind == pa.date32() else order
    table = table.set_column(1, "order", order.cast(kind))
    write(table, tmp_path / "in" / "0.parquet")
    run(tmp_path / "in", har.path, tmp_path / "out", events=True)
    stored = read(tmp_path / "in" / "0.parquet")["order"]
    written = contents(tmp_path / "out")
    assert written["0.parquet"]["order"].equals(stored)
    assert written["events"]["start"].type == stored.type
    ranks = np.argsort(stored.to_numpy())
    assert written["events"]["start"][0] == stored[int(ranks[0])]
    assert written["events"]["end"][-1] == stored[int(ranks[-1])]


def test_series_may_be_named_by_folders_and_numbers(har, tmp_path):
    table = samples(np.random.default_rng(20), [30, 40])
    names = np.array(table["series"].to_pylist())
    for one in (0, 1):
        own = table.filter(pa.array(names == f"dev {one}")).drop_columns(["series"])
        write(own, tmp_path / "folders" / f"series={one}" / "0.parquet")
    run(tmp_path / "folders", har.path, tmp_path / "out")
    numbered = table.set_column(0, "series", pa.array([int(name[-1]) for name in names]))
    write(numbered, tmp_path / "in" / "0.parquet")
    run(tmp_path / "in", har.path, tmp_path / "out2", events=True)
    written = read(tmp_path / "out2" / "0.parquet")
    assert written["series"].equals(numbered["series"])
    assert contents(tmp_path / "out2")["events"]["series"].type == pa.int64()
    for one in (0, 1):
        own = read(tmp_path / "out" / f"series={one}" / "0.parquet")
        assert own.column_names[:2] == ["order", "label"]
        np.testing.assert_array_equal(numbers(own), numbers(written)[names == f"dev {one}"])


@pytest.mark.parametrize("length", [20, 40])
def test_a_file_that_changes_while_it_is_scored_ends_the_run(har, tmp_path, length):
    path = write(samples(np.random.default_rng(35), [30]), tmp_path / "in" / "0.parquet")

    def replace(_, said):
        if said.startswith("write: 1 item"):
            write(samples(np.random.default_rng(35), [length]), path)

    with pytest.raises(LstmEdgeError, match=r"0\.parquet changed while it was scored; run again"):
        score(str(tmp_path / "in"), har.path, tmp_path / "out", ScoreConfig(workers=1), replace)
    assert [each.name for each in tmp_path.iterdir()] == ["in"]


def test_empty_files_and_files_without_new_series_are_no_error(har, tmp_path):
    table = samples(np.random.default_rng(21), [30])
    write(table, tmp_path / "in" / "a.parquet")
    write(table.slice(0, 0), tmp_path / "in" / "b.parquet")
    report, _ = run(tmp_path / "in", har.path, tmp_path / "out")
    assert (report.rows, report.files) == (30, 2)
    assert contents(tmp_path / "out")["b.parquet"].num_rows == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--series", "device"], "no column 'device'"),
        (["--order", "series"], "must differ"),
        (["--features", "ax,ay"], "got 2 features"),
        (["--features", "ax,ay,aw"], "no column 'aw'"),
        (["--by-window", "--since", "out"], "--since goes with series"),
    ],
)
def test_wrong_options_are_one_line(invoke, har, tmp_path, arguments, message):
    write(samples(np.random.default_rng(22), [5]), tmp_path / "in" / "0.parquet")
    code, _, err = invoke(
        "score", tmp_path / "in", "-m", har.path, "-o", tmp_path / "out", "--workers", 1, *arguments
    )
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_a_data_set_that_is_not_there_or_empty_is_one_line(invoke, har, tmp_path):
    for data in (tmp_path / "no", tmp_path / "*.parquet", tmp_path):
        code, _, err = invoke("score", data, "-m", har.path, "-o", tmp_path / "out", "--workers", 1)
        assert (code, err.count("\n")) == (2, 1)


def test_several_workers_without_ray_name_the_extra(invoke, har, tmp_path, monkeypatch):
    monkeypatch.setattr("lstm_edge.score.engines.find_spec", lambda name: None)
    write(samples(np.random.default_rng(23), [5]), tmp_path / "in" / "0.parquet")
    line = ["score", tmp_path / "in", "-m", har.path, "-o", tmp_path / "out"]
    code, _, err = invoke(*line, "--workers", 2)
    assert (code, "lstm-edge[cluster]" in err) == (2, True)
    assert invoke(*line)[0] == 0


@pytest.mark.parametrize(("count", "items"), [(1023, 1), (1024, 2)])
def test_series_that_many_files_share_fill_batches_of_512(har, tmp_path, count, items):
    names = [f"device {number}" for number in range(count)]
    for day in range(4):
        columns = {"series": names, "order": [day] * count} | {axis: [0.5] * count for axis in AXES}
        write(pa.table(columns), tmp_path / "in" / f"{day}.parquet")
    report, shown = run(tmp_path / "in", har.path, tmp_path / "out", rows_in_memory=count)
    assert report.series == count
    assert f"score: {counted(items, 'item')} for 1 worker" in [text for _, text in shown]


def test_states_of_one_part_and_of_many_continue_each_other(har, tmp_path):
    rng, devices = np.random.default_rng(36), 2100
    nights = [samples(rng, [6] * devices), samples(rng, [8] * 3), samples(rng, [9] * devices)]
    parts = []
    for each in range(3):  # the orders of a night follow those of the night before
        first = nights[each - 1]["order"].to_numpy().max() + 6 if each else 0
        order = pa.array(nights[each]["order"].to_numpy() + first)
        nights[each] = nights[each].set_column(1, "order", order)
        write(nights[each], tmp_path / "in" / f"{each}.parquet")
        since = tmp_path / "out" if each else None
        run(tmp_path / "in", har.path, tmp_path / "out", events=True, since=since)
        parts.append(len(list((tmp_path / "out" / "_state").iterdir())))
    assert parts == [4, 1, 4]
    run(tmp_path / "in", har.path, tmp_path / "long", events=True)
    assert_same(contents(tmp_path / "out"), contents(tmp_path / "long"))


@pytest.fixture
def codes(har, tmp_path):
    """A file that takes whole numbers, int32."""
    made = onnx.load(har.path)
    (data,) = (value for value in made.graph.input if value.name == "x")
    data.type.tensor_type.elem_type = onnx.TensorProto.INT32
    for node in made.graph.node:
        node.input[:] = ["x_float" if name == "x" else name for name in node.input]
    made.graph.node.insert(0, onnx.helper.make_node("Cast", ["x"], ["x_float"], to=onnx.TensorProto.FLOAT))
    entry = next(each for each in made.metadata_props if each.key == "lstm_edge")
    manifest = Manifest.from_json(entry.value)
    inputs = tuple(spec._replace(dtype="int32") if spec.name == "x" else spec for spec in manifest.inputs)
    entry.value = manifest._replace(inputs=inputs, golden=None).to_json()
    onnx.save(made, tmp_path / "codes.onnx")
    return tmp_path / "codes.onnx"


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint16(), pa.int64(), pa.uint64(), pa.float64()], ids=str)
@pytest.mark.parametrize("takes", ["float32", "int32"])
def test_whole_numbers_reach_the_file_as_they_are(har, codes, tmp_path, kind, takes):
    model = har.path if takes == "float32" else codes
    table = samples(np.random.default_rng(3), [9, 5])
    whole = [pa.array(np.abs(np.rint(table[name].to_numpy()))).cast(kind) for name in AXES]
    for name, column in zip(AXES, whole, strict=True):
        table = table.set_column(table.column_names.index(name), name, column)
    write(table, tmp_path / "data" / "rows.parquet")
    run(tmp_path / "data", model, tmp_path / "out")
    plain = table
    for name in AXES:
        plain = plain.set_column(
            plain.column_names.index(name), name, pa.array(plain[name].to_numpy().astype(takes))
        )
    found = read(tmp_path / "out" / "rows.parquet").sort_by([("series", "ascending"), ("order", "ascending")])
    wanted = expected(model, plain)[np.lexsort((table["order"].to_numpy(), table["series"].to_pylist()))]
    np.testing.assert_allclose(numbers(found), softmax(wanted), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "cell"),
    [(pa.int64(), 2**32 + 3), (pa.uint64(), 2**64 - 1), (pa.int64(), -(2**31) - 1), (pa.float64(), 2.5)],
)
def test_a_number_that_the_file_cannot_hold_is_refused_and_wraps_to_no_other(codes, tmp_path, kind, cell):
    table = samples(np.random.default_rng(3), [9, 5])
    column = pa.array([1] * 7 + [cell] + [1] * 6, type=kind)
    for name in AXES:
        table = table.set_column(table.column_names.index(name), name, column)
    write(table, tmp_path / "data" / "rows.parquet")
    with pytest.raises(LstmEdgeError, match=rf"row 8, column 'ax' is {cell}, expected a finite int32 number"):
        run(tmp_path / "data", codes, tmp_path / "out")


@pytest.mark.parametrize("name", ["late", "strided"])
def test_a_row_has_the_frame_that_its_sample_completes_and_the_others_have_none(name, tmp_path):
    model, table = DATA / f"{name}.onnx", samples(np.random.default_rng(40), [33, 2, 50])
    order = table["order"].to_numpy()
    for part, rows in (("a", order < 52), ("b", order >= 52)):  # within a frame of 4 samples
        write(table.filter(pa.array(rows)), tmp_path / "in" / f"{part}.parquet")
    run(tmp_path / "in", model, tmp_path / "whole", events=True)
    write(read(tmp_path / "in" / "a.parquet"), tmp_path / "days" / "a.parquet")
    run(tmp_path / "days", model, tmp_path / "nights", events=True)
    write(read(tmp_path / "in" / "b.parquet"), tmp_path / "days" / "b.parquet")
    run(tmp_path / "days", model, tmp_path / "nights", events=True, since=tmp_path / "nights")
    assert_same(contents(tmp_path / "whole"), contents(tmp_path / "nights"))
    whole = contents(tmp_path / "whole")
    rows = pa.concat_tables([whole["a.parquet"], whole["b.parquet"]]).to_pylist()
    found, frames = {(row["series"], row["order"]): row for row in rows}, 0
    for one in ("dev 0", "dev 1", "dev 2"):
        own, stream = table.filter(pyarrow.compute.equal(table["series"], one)), load(model).stream()
        for row in own.sort_by("order").to_pylist():
            result, written = stream.step([row[axis] for axis in AXES]), found[one, row["order"]]
            logits = result["logits"] if isinstance(result, dict) else result
            assert (written["label"] is None) == (logits is None)
            if logits is not None:
                frames += 1
                assert [written[f"p_{each}"] for each in ("rest", "walk", "run")] == softmax(logits).tolist()
    assert sum(event["samples"] for event in whole["events"].to_pylist()) == frames > 15


def test_several_frames_at_a_time_do_not_fit_a_row(monkeypatch, tmp_path):
    write(samples(np.random.default_rng(41), [9]), tmp_path / "in" / "a.parquet")
    monkeypatch.setattr(Manifest, "frames_a_unit", property(lambda _: {"logits": 4}))
    with pytest.raises(UnsupportedError, match="4 frames at a time"):
        run(tmp_path / "in", DATA / "strided.onnx", tmp_path / "out")
