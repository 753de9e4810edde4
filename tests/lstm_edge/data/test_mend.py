"""Missing values, timestamps, folders and Parquet."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge.data.config import DataConfig, ReadConfig
from lstm_edge.data.read import read_recordings
from lstm_edge.data.training import read_training_data
from lstm_edge_runtime.errors import FileFormatError, InputError

GAPS = "series,a,b,label\n1,0,5,x\n1,,6,x\n1,4,nan,x\n2,1,NA,y\n2,2,3,y\n"


def test_missing_cells_are_refused_with_the_choice_unless_it_was_made(table):
    with pytest.raises(InputError, match=r"row 3, column 'a' is '', .*; --missing interpolate or drop-row"):
        table(GAPS)
    filled = table(GAPS, missing="interpolate")
    np.testing.assert_array_equal(filled.series[0].x, [[0, 5], [2, 6], [4, 6]])
    np.testing.assert_array_equal(filled.series[1].x, [[1, 3], [2, 3]])
    assert filled.notes == (
        "3 of 10 feature values were missing and interpolated; a device has to fill in its own",
    )
    dropped = table(GAPS, missing="drop-row")
    assert [one.x.tolist() for one in dropped.series] == [[[0, 5]], [[2, 3]]]
    assert [len(one.y) for one in dropped.series] == [1, 1]
    assert dropped.notes == ("3 steps with missing features were dropped",)


def test_gaps_of_a_column_to_forecast_are_mended_as_those_of_every_feature(table):
    text = "order,a,b\n0,0,1\n1,,2\n2,4,3\n3,6,4\n"
    with pytest.raises(InputError, match=r"row 3, column 'a' is '', .*; --missing interpolate or drop-row"):
        table(text, forecast=("a",))
    (filled,) = table(text, forecast=("a",), missing="interpolate").series
    assert (filled.x.tolist(), filled.y.tolist()) == ([[0, 1], [2, 2], [4, 3]], [[2], [4], [6]])
    (dropped,) = table(text, forecast=("a",), missing="drop-row").series
    assert (dropped.x.tolist(), dropped.y.tolist()) == ([[0, 1], [4, 3]], [[4], [6]])


def test_a_gap_that_no_option_mends_recommends_none(table):
    for text, options in (("a,b\n1,2\n1,\n", {"targets": ("b",)}), ("order,a,label\n1,2,x\n,3,x\n", {})):
        with pytest.raises(InputError, match=r"row 3, column '\w+' is '', expected a finite number$"):
            table(text, missing="interpolate", **options)


@pytest.mark.parametrize("cell", ["inf", "abc", "1e39"])
def test_a_cell_that_is_wrong_is_no_gap(table, cell):
    with pytest.raises(InputError, match=f"row 2, column 'a' is '{cell}', expected a finite number$"):
        table(f"a,label\n{cell},x\n1,y\n", missing="interpolate")


def test_a_series_without_one_value_of_a_feature_is_refused(table):
    for mode in ("interpolate", "drop-row"):
        with pytest.raises(
            InputError, match="series '2' has a feature, or all of its steps, with only missing values"
        ):
            table("series,a,label\n1,1,x\n2,,y\n2,,y\n", missing=mode)


def test_gaps_in_arrays_are_mended_as_well(tmp_path):
    x = np.arange(12.0).reshape(2, 6, 1)
    x[0, 2:4], x[1, 5] = np.nan, np.nan
    np.savez(tmp_path / "d.npz", x=x, y=np.array(["a", "b"]), lengths=np.array([6, 5]))
    with pytest.raises(InputError, match=r"x\[0, 2, 0\] is nan.*--missing interpolate"):
        read_recordings(tmp_path / "d.npz")
    found = read_recordings(tmp_path / "d.npz", ReadConfig(missing="interpolate"))
    np.testing.assert_allclose(found.series[0].x[:, 0], np.arange(6))
    assert found.notes[0].startswith("2 of 11 feature values")
    dropped = read_recordings(tmp_path / "d.npz", ReadConfig(missing="drop-row"))
    assert dropped.series[0].x[:, 0].tolist() == [0, 1, 4, 5]


def test_timestamps_order_the_rows_and_give_the_rate(table):
    rows = ["time,a,label"] + [f"2026-11-25T09:30:0{tick / 4:.2f}Z,{tick},x" for tick in (3, 0, 2, 1)]
    found = table("\n".join(rows), order="time")
    assert found.series[0].x[:, 0].tolist() == [0, 1, 2, 3]
    assert found.sampling_rate == 4
    assert found.notes == ()


def test_the_rate_of_timestamps_has_no_digits_that_floats_made_up(table):
    rows = ["order,a,label"] + [
        f"2026-11-25T09:{tick // 600:02}:{tick % 600 / 10:04.1f}Z,1,x" for tick in range(30)
    ]
    assert table("\n".join(rows)).sampling_rate == 10


def test_an_irregular_rate_is_noted_and_resampled_when_a_rate_is_asked_for(table):
    seconds = (0, 1, 2, 5, 6)
    text = "order,a,label\n" + "\n".join(
        f"2026-11-25 09:30:0{second},{second * 10},{'x' if second < 4 else 'y'}" for second in seconds
    )
    noted = table(text)
    assert noted.sampling_rate == 1
    assert noted.notes == (
        "1 of 4 intervals differ from the usual 1 s by more than 10%; --rate resamples to one rate",
    )
    found = table(text, sampling_rate=2.0)
    np.testing.assert_allclose(found.series[0].x[:, 0], np.arange(0, 61, 5))
    assert [found.labels[index] for index in found.series[0].y] == ["x"] * 10 + ["y"] * 3
    assert found.sampling_rate == 2
    assert found.notes == ("resampled from about 1 Hz to 2 Hz by their timestamps",)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(rate=st.floats(0.5, 40), gaps=st.lists(st.floats(0.02, 2), min_size=2, max_size=30))
def test_what_lies_on_a_line_still_does_at_any_rate(tmp_path_factory, rate, gaps):
    times = np.round(np.concatenate([[0], np.cumsum(gaps)]), 3)
    rows = [f"2026-11-25T10:{int(t // 60):02}:{t % 60:06.3f},{3 * t + 1:.6f},x" for t in times]
    path = tmp_path_factory.mktemp("rate") / "d.csv"
    path.write_text("order,a,label\n" + "\n".join(rows))
    found = read_recordings(path, ReadConfig(sampling_rate=rate))
    if "resampled" not in "".join(found.notes):
        assert len(found.series[0].x) == len(times)
        return
    grid = np.arange(len(found.series[0].x)) / rate
    assert times[-1] - 1 / rate < grid[-1] <= times[-1] + 1e-5
    np.testing.assert_allclose(found.series[0].x[:, 0], 3 * grid + 1, atol=1e-4)


def test_an_order_that_is_neither_number_nor_time_is_refused(table):
    with pytest.raises(InputError, match="column 'order' is 'noon', expected a number or an ISO timestamp"):
        table("order,a,label\nnoon,1,x\n")
    with pytest.raises(InputError, match="has order 2026-11-25 twice"):
        table("order,a,label\n2026-11-25,1,x\n2026-11-25,2,x\n")


@pytest.fixture
def folder(tmp_path):
    for name in ("walk/a.csv", "walk/b.csv", "run/a.csv"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("ax,ay\n" + "\n".join(f"{row},{len(name)}" for row in range(4)))
    return tmp_path / "data"


def test_a_folder_gives_a_series_for_each_file_with_its_sub_folder_for_class(folder):
    found = read_recordings(folder)
    assert [one.name for one in found.series] == ["run/a.csv", "walk/a.csv", "walk/b.csv"]
    assert [found.labels[one.y[0]] for one in found.series] == ["run", "walk", "walk"]
    assert found.features == ("ax", "ay")
    assert [one.x[0, 1] for one in found.series] == [9, 10, 10]


def test_a_pattern_or_a_column_gives_the_class_of_a_file(folder):
    found = read_recordings(folder, ReadConfig(label_pattern=r"/(\w)"))
    assert [found.labels[one.y[0]] for one in found.series] == ["a", "a", "b"]
    with pytest.raises(InputError, match=r"does not match run/a\.csv"):
        read_recordings(folder, ReadConfig(label_pattern="(b)"))
    for path, label in ((folder / "walk" / "a.csv", "z"), (folder / "walk" / "b.csv", "y")):
        path.write_text(f"ax,ay,kind\n1,2,{label}\n")
    (folder / "run" / "a.csv").unlink()
    found = read_recordings(folder, ReadConfig(label="kind"))
    assert [found.labels[one.y[0]] for one in found.series] == ["z", "y"]


def test_a_folder_of_unlike_files_or_none_is_refused(folder, tmp_path):
    (folder / "run" / "a.csv").write_text("ax,az\n1,2\n")
    with pytest.raises(
        InputError, match=r"walk/a\.csv has the features ax, ay, expected those of run/a\.csv: ax, az"
    ):
        read_recordings(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"contains no \.csv or \.parquet files"):
        read_recordings(tmp_path / "empty")
    with pytest.raises(InputError, match="--label-pattern requires a folder"):
        read_recordings(folder / "walk" / "a.csv", ReadConfig(label_pattern="(a)"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"missing": "guess"}, "missing is 'guess', expected error, interpolate, drop-row"),
        ({"label_pattern": "("}, "label_pattern '\\('"),
        ({"label_pattern": "a"}, "expected one group"),
        ({"label_pattern": "(a)", "label": "b"}, "and no label"),
        ({"layout": "LNC"}, "layout is 'LNC', expected NLC or NCL"),
    ],
)
def test_options_that_can_not_be_meant_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        ReadConfig(**options)


def test_a_changed_file_in_a_folder_changes_the_hash_of_the_data(folder):
    def sha256():
        return read_training_data(folder, DataConfig(test=0.0, validation=0.4), seed=0, batch_size=1).sha256

    (folder / "run" / "b.csv").write_text((folder / "run" / "a.csv").read_text())
    before = sha256()
    assert sha256() == before
    (folder / "run" / "b.csv").write_text("ax,ay\n1,2\n3,4\n")
    assert sha256() != before


def test_parquet_reads_like_the_csv_of_the_same_table(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import csv, parquet

    text = "series,order,n,v,label\n" + "\n".join(
        f"{row % 2},2026-11-25T09:30:{row:02},{row},{row / 3},{'ab'[row % 2]}" for row in range(8)
    )
    (tmp_path / "d.csv").write_text(text + "\n1,2026-11-25T09:30:09,,1,b\n")
    parquet.write_table(csv.read_csv(tmp_path / "d.csv"), tmp_path / "d.parquet")
    assert pa.types.is_timestamp(parquet.read_schema(tmp_path / "d.parquet").field("order").type)
    config = ReadConfig(missing="interpolate")
    found, expected = (read_recordings(tmp_path / name, config) for name in ("d.parquet", "d.csv"))
    for one, other in zip(found.series, expected.series, strict=True):
        assert one.name == other.name
        np.testing.assert_allclose(one.x, other.x)
        np.testing.assert_array_equal(one.y, other.y)
    assert (found.labels, found.features, found.sampling_rate, found.notes) == (
        expected.labels,
        expected.features,
        expected.sampling_rate,
        expected.notes,
    )
    with pytest.raises(InputError, match="row 9, column 'n' is 'nan', expected a finite number; --missing"):
        read_recordings(tmp_path / "d.parquet")
    (tmp_path / "d.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(FileFormatError, match=r"d\.parquet can't be read as Parquet"):
        read_recordings(tmp_path / "d.parquet")
