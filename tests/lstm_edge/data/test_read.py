"""Data files of every kind: values, notes and refusals."""

import struct
import sys
import wave

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge.data.config import DataConfig, ReadConfig
from lstm_edge.data.numbers import parse_number
from lstm_edge.data.read import read_data, resample
from lstm_edge_runtime.errors import (
    FileFormatError,
    InputError,
    MissingDependencyError,
    NotFoundError,
)

LOG = "series,order,a,b,label\n1,2,3,30,x\n1,1,2,20,x\n2,1,5,50,y\n2,2,6,60,y\n"


def table(folder, text, name="data.csv", encoding="utf-8", how="utf-8", **options):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return read_data(path, ReadConfig(encoding=how, **options))


def arrays(folder, config=None, features_of=(), **changes):
    content = {
        "x": np.arange(48.0).reshape(4, 6, 2),
        "y": np.array(["a", "b", "a", "b"]),
        **changes,
    }
    np.savez(
        folder / "data.npz",
        **{name: array for name, array in content.items() if array is not None},
    )
    return read_data(folder / "data.npz", config, features=features_of)


def values(data):
    return [series.x.tolist() for series in data.series], [
        series.y.tolist() for series in data.series
    ]


def test_a_table_gives_its_series_each_in_its_order(tmp_path):
    data = table(tmp_path, LOG)
    assert [series.name for series in data.series] == ["1", "2"]
    assert values(data) == ([[[2, 20], [3, 30]], [[5, 50], [6, 60]]], [[0, 0], [1, 1]])
    assert (data.classes, data.signal.features) == (("x", "y"), ("a", "b"))


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (LOG.replace(",", ";").replace("20", "20,0"), "utf-8"),
        (LOG.replace(",", "\t"), "utf-8"),
        (LOG, "utf-8-sig"),
        (LOG.replace("\n", "\r\n").replace(",", " , "), "utf-8"),
        (LOG.replace("x", '"x"').replace("\n2,1", "\n\n2,1"), "utf-8"),
    ],
)
def test_other_separators_decimal_commas_and_encodings_are_the_same_table(
    tmp_path, text, encoding
):
    assert values(table(tmp_path, text, encoding=encoding)) == values(
        table(tmp_path, LOG)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a;b;c\n1;2;3\n1.234;2,5;3\n",
            r"data.csv row 3, column 'a' is '1.234', and row 3, column 'b' is '2,5';",
        ),
        ("a;b\n1,5;2\n1.234;3\n", r"row 3, column 'a' is '1.234', and row 2"),
        ("a\tb\n1,5\t2.5\n", "expected one decimal mark in all numbers"),
        ("a;label\n1.234,5;x\n", "'1.234,5', expected a finite number"),
    ],
)
def test_two_decimal_marks_in_one_file_are_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        table(tmp_path, text)


def test_points_in_text_are_no_decimal_marks(tmp_path):
    data = table(tmp_path, "a;label\n1,5;v1.2.3\n2,5;v1.2.3\n")
    np.testing.assert_array_equal(data.series[0].x, [[1.5], [2.5]])


@pytest.mark.parametrize(
    "cell",
    ["1", " 1.5 ", "+.5", "5.", "1e5", "1E-3", "0x10", "1_0", "\uff11", "\u0663", "1 2",
     "true", "--1", "1d5", "1e"],
)  # fmt: skip
def test_files_and_standard_input_read_the_same_numbers(tmp_path, cell):
    number = parse_number(cell)
    if number is None:
        with pytest.raises(InputError, match="expected a finite number"):
            table(tmp_path, f"a,label\n{cell},x\n")
    else:
        assert table(tmp_path, f"a,label\n{cell},x\n").series[0].x.tolist() == [
            [np.float32(number)]
        ]


def test_one_column_may_have_decimal_commas(tmp_path):
    assert values(table(tmp_path, "a\n1,5\n2,5\n3\n", forecast=("a",))) == (
        [[[1.5], [2.5]]],
        [[[2.5], [3]]],
    )


def test_another_encoding_is_named_and_then_read(tmp_path):
    text = LOG.replace("x", "é")
    with pytest.raises(FileFormatError, match=r"not utf-8 text .*--encoding latin-1"):
        table(tmp_path, text, encoding="latin-1")
    path = tmp_path / "data.csv"
    assert read_data(path, ReadConfig(encoding="latin-1")).classes == ("y", "é")
    with pytest.raises(FileFormatError, match="is not klingon text"):
        read_data(path, ReadConfig(encoding="klingon"))
    assert values(table(tmp_path, LOG, encoding="utf-16", how="utf-16")) == values(
        table(tmp_path, LOG)
    )


def test_parquet_text_that_is_not_utf_8_is_refused(tmp_path):
    path = tmp_path / "data.parquet"
    frame = pd.DataFrame({"a": [1.0, 2.0], "label": ["walk", "rest"]})
    frame.to_parquet(path, compression=None)
    path.write_bytes(path.read_bytes().replace(b"walk", b"\xffalk"))
    with pytest.raises(FileFormatError, match=r"can't be read as Parquet"):
        read_data(path, ReadConfig(label="label"))


def test_parquet_and_a_folder_give_what_the_table_gives(tmp_path):
    expected = table(tmp_path, LOG)
    pd.read_csv(tmp_path / "data.csv").to_parquet(tmp_path / "data.parquet")
    assert values(read_data(tmp_path / "data.parquet")) == values(expected)
    for name, lines in (("x", "2,20\n3,30\n"), ("y", "5,50\n6,60\n")):
        labeled = lines.replace("\n", f",{name}\n")
        table(tmp_path / "all", f"a,b,label\n{labeled}", f"{name}.csv")
        table(tmp_path / "by", f"a,b\n{lines}", f"{name}/1.csv", targets=("a",))
    for folder in ("all", "by"):
        data = read_data(tmp_path / folder)
        assert (values(data), data.classes) == (values(expected), ("x", "y"))
    assert [series.name for series in read_data(tmp_path / "by").series] == [
        "x/1.csv",
        "y/1.csv",
    ]


def test_wav_is_read_as_samples(tmp_path):
    for name, width in (("a", 2), ("b", 1)):
        with wave.open(str(tmp_path / f"{name}.wav"), "wb") as file:
            file.setparams((2, width, 8000, 0, "NONE", ""))
            file.writeframes(struct.pack("<4h", 1, -2, 300, 4))
    data = read_data(tmp_path / "a.wav", targets="ignored")
    assert values(data)[0] == [[[1 / 32768, -2 / 32768], [300 / 32768, 4 / 32768]]]
    assert (data.signal.sampling_rate, data.signal.full_scale) == (8000, 1)
    samples = struct.pack("<4f", 0.5, -1, 0.25, 0)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 2, 8000, 64000, 8, 32)
    (tmp_path / "f.wav").write_bytes(
        b"RIFF1234WAVE" + form + b"data" + struct.pack("<I", 16) + samples
    )
    assert values(read_data(tmp_path / "f.wav", targets="ignored"))[0] == [
        [[0.5, -1], [0.25, 0]]
    ]
    assert read_data(tmp_path / "f.wav", targets="ignored").signal.full_scale == 1
    (tmp_path / "c.wav").write_bytes(b"RIFF1234WAVEjunk")
    (tmp_path / "d.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:-1])
    for name, message in (
        (
            "b",
            r"has 8-bit integers, expected 16-bit .*; convert it: ffmpeg -i .*b\.wav",
        ),
        ("c", r"c\.wav can't be read as WAV \("),
        ("d", r"d\.wav can't be read as WAV \("),
    ):
        with pytest.raises(FileFormatError, match=message):
            read_data(tmp_path / f"{name}.wav")


@pytest.mark.parametrize("tag", [1, 3])
def test_an_extensible_wav_is_read_as_its_subformat(tmp_path, tag):
    bits = {1: 16, 3: 32}[tag]
    width = bits // 8
    extension = struct.pack("<HHIH14s", 22, bits, 4, tag, b"\0" * 14)
    head = struct.pack(
        "<4sIHHIIHH", b"fmt ", 40, 0xFFFE, 1, 8000, 8000 * width, width, bits
    )
    samples = (
        struct.pack("<2h", 16384, -32768) if tag == 1 else struct.pack("<2f", 0.5, -1)
    )
    (tmp_path / "x.wav").write_bytes(
        b"RIFF1234WAVE"
        + head
        + extension
        + b"data"
        + struct.pack("<I", len(samples))
        + samples
    )
    data = read_data(tmp_path / "x.wav", targets="ignored")
    assert values(data)[0] == [[[0.5], [-1.0]]]


def test_sound_and_a_table_are_not_read_as_one_scale(tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(struct.pack("<4h", 1, -2, 300, 4))
    (tmp_path / "b.csv").write_text("audio\n300\n-200\n")
    with pytest.raises(InputError, match="different scales"):
        read_data(tmp_path, targets="ignored")


def test_a_missing_pyarrow_is_named_with_its_extra(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"lstm-edge\[parquet\]"):
        read_data(tmp_path / "x.parquet")


def test_a_suffix_may_be_in_capitals(tmp_path):
    expected = values(table(tmp_path, LOG))
    assert values(table(tmp_path, LOG, "S.CSV")) == expected
    assert len(read_data(tmp_path).series) == 4


@pytest.mark.parametrize(
    "positions",
    ["0 1 10", "2026-01-01T00:00:00 2026-01-01T00:00:01 2026-01-01T00:00:10"],
)
def test_a_gap_is_filled_between_its_neighbors_in_order_not_in_rows(
    tmp_path, positions
):
    rows = zip(positions.split(), ("0", "", "10"), strict=True)
    lines = "".join(f"{at},{cell}\n" for at, cell in rows)
    (tmp_path / "gap.csv").write_text(f"order,v\n{lines}")
    data = read_data(
        tmp_path / "gap.csv", ReadConfig(missing="interpolate"), targets="ignored"
    )
    assert values(data)[0] == [[[0], [1], [10]]]


def grown(*names, series=2, steps=8):
    """Return a table whose columns ``names`` grow, by chance equal in no other."""
    rng = np.random.default_rng(3)
    lines = []
    for key in "ab"[:series]:
        for step in range(steps):
            cells = {"series": key, "v": rng.normal(), "label": key}
            cells |= dict.fromkeys(names, 1.7e9 + 0.02 * step)
            lines.append(cells)
    return pd.DataFrame(lines).to_csv(index=False)


def test_a_column_that_only_grows_is_not_taken_for_a_feature(tmp_path):
    with pytest.raises(
        InputError,
        match=r"column 'time' grows at every row, .*--order time, .*--features v$",
    ):
        table(tmp_path, grown("time"))
    assert table(tmp_path, grown("time"), order="time").signal.features == ("v",)
    assert table(tmp_path, grown("time"), features=("v",)).signal.features == ("v",)
    data = table(tmp_path, grown("time"), features=("time", "v"))
    assert data.signal.features == ("time", "v")
    text = grown("time").replace("label", "group")
    assert table(tmp_path, text, forecast=("time",)).signal.features == ("v", "time")
    few = table(tmp_path, grown("time", series=2, steps=3))
    assert few.signal.features == ("v", "time")


def test_values_and_forecasts_are_targets(tmp_path):
    data = table(tmp_path, LOG, targets=("b",), features=("a",))
    assert values(data) == ([[[2], [3]], [[5], [6]]], [[[20], [30]], [[50], [60]]])
    data = table(tmp_path, LOG, forecast=("a",), features=("a", "b"))
    assert values(data) == ([[[2, 20]], [[5, 50]]], [[[3]], [[6]]])
    assert (data.task.kind, data.task.labels) == ("regression", ("a",))


def test_missing_cells_are_interpolated_and_counted_over_all_files(tmp_path):
    for name in "pq":
        table(
            tmp_path / "gaps",
            "a,label\n1,u\n,u\n3,u\n7,u\nNaN,u\n8,u\n",
            f"{name}.csv",
            missing="interpolate",
        )
    data = read_data(
        tmp_path / "gaps", ReadConfig(missing="interpolate"), targets="optional"
    )
    assert [step for (step,) in data.series[0].x.tolist()] == [1, 2, 3, 7, 7.5, 8]
    assert data.signal.missing == "4 of 12 feature values were missing and interpolated"
    assert data.notes == (data.signal.missing,)
    assert values(
        table(tmp_path, "a,b,label\n1,,u\n,5,u\n3,,u\n", missing="interpolate")
    )[0] == [[[1, 5], [2, 5], [3, 5]]]


def timed(rate, count=8):
    return "order,a,label\n" + "".join(
        f"{pd.Timestamp('2026-01-01') + pd.Timedelta(step / rate, 's')},{step},u\n".replace(
            " ", "T"
        )
        for step in range(count)
    )


def test_files_of_different_rates_are_refused_and_resampled_on_request(tmp_path):
    table(tmp_path / "rates", timed(50), "a.csv")
    table(tmp_path / "rates", timed(100), "b.csv")
    with pytest.raises(
        InputError,
        match=r"'a.csv' has 50 samples per second, 'b.csv' has 100; --rate 50",
    ):
        read_data(tmp_path / "rates")
    data = read_data(tmp_path / "rates", ReadConfig(sampling_rate=50))
    assert [len(series) for series in data.series] == [8, 4]
    np.testing.assert_allclose(data.series[1].x[:, 0], [0, 2, 4, 6], atol=1e-4)
    assert (data.signal.sampling_rate, data.notes) == (50, ())
    options = ReadConfig(sampling_rate=50, forecast=("a",), features=("a",))
    x, y = values(read_data(tmp_path / "rates" / "b.csv", options))
    np.testing.assert_allclose(x, [[[0], [2], [4]]], atol=1e-4)
    np.testing.assert_allclose(y, [[[2], [4], [6]]], atol=1e-4)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    rate=st.floats(5, 200),
    gaps=st.lists(st.floats(0.005, 0.05), min_size=3, max_size=40),
)
def test_a_line_is_a_line_at_any_rate(rate, gaps):
    times = np.cumsum([0, *gaps])
    x, _ = resample(3 * times[:, None] + 1, np.zeros(len(times), int), times, rate)
    np.testing.assert_allclose(x[:, 0], 3 * np.arange(len(x)) / rate + 1, atol=2e-3)


def test_a_class_holds_from_its_sample_to_the_next():
    times = np.array([0.0, 1, 2, 3])
    _, y = resample(times[:, None], np.array([4, 5, 6, 7]), times, 2)
    assert y.tolist() == [4, 4, 5, 5, 6, 6, 7]


def test_a_wrong_time_is_refused_instead_of_a_huge_series(tmp_path):
    lines = timed(50, 20).splitlines()
    lines[-1] = lines[-1].replace("2026", "2926")
    assert "2926" in lines[-1]
    with pytest.raises(InputError, match=r"has a gap of 2.84e.10 seconds"):
        table(tmp_path, "\n".join(lines), sampling_rate=30)


def test_irregular_timestamps_are_counted(tmp_path):
    lines = timed(50, 20).splitlines()
    assert table(tmp_path, "\n".join(lines[:5] + lines[9:])).notes == (
        (
            "1 of 15 intervals between samples differ from the usual one by more than"
            " 10%; --rate resamples to one rate"
        ),
    )


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "is empty"),
        ("a,label\n", {}, "is empty; expected a header and one row per time step"),
        ("1,2\n3,4\n", {}, "has no header: row 1 is 1, 2"),
        ("a,a,label\n1,2,x\n", {}, "has the column 'a' twice"),
        ("a,label\n1,x\n2\n", {}, "row 3, column 'label' is empty"),
        ("a,label\n1,x,\n", {}, "row 2 has 3 cells, expected 2 as in row 1"),
        ("a,label\n\n1,x\noops,y\n", {}, r"row 4, column 'a' is 'oops', expected a finite number; choose"),
        ("a,label\n1,x\n,y\n", {}, r"row 3, column 'a' is '', .*; --missing interpolate"),
        ("a,label\n2024_01,x\n1,x\n", {}, "row 2, column 'a' is '2024_01', expected a finite number"),
        ("a,label\ninf,x\n", {"missing": "interpolate"}, "row 2, column 'a' is 'inf'"),
        ('a,label\n"1,5",x\n2,x\n', {}, "row 2, column 'a' is '1,5', expected a finite number"),
        ("a,b\n1,2\n", {}, "has no column 'label' .*--label.*--target or --forecast"),
        ("a,label\n1,x\n", {"label": "lable"}, "has no column 'lable' .*did you mean 'label'"),
        ("a,t,label\n1,2026-01-01,x\n", {}, "column 't' is '2026-01-01', .*--order a time"),
        ("a,n,label\n1,hi,x\n", {}, "column 'n' is 'hi', .*choose columns with --features"),
        ("label\nx\n", {}, "has no feature column"),
        ("a,order,label\n1,1,x\n2,1,x\n", {}, "row 3, column 'order' is twice in series '0'"),
        ("a,order,label\n1,noon,x\n", {}, "'noon', expected a number or an ISO timestamp"),
        ("a,series,split,label\n1,s,dev,x\n", {}, "split of series 's' is 'dev', expected train, validation"),
        ("a,series,group,label\n1,s,p,x\n1,s,q,x\n", {}, "group of series 's' is both 'p' and 'q'"),
        ("a,label\n,x\n,x\n", {"missing": "interpolate"}, "with only missing values"),
        ("a,b\n1,1\n", {"forecast": ("b",), "features": ("a",)}, "to forecast 'b' it must be a feature"),
        ("a,series\n1,s\n", {"forecast": ("a",)}, "series 's' has one row; a forecast needs at least two"),
        (b"a,label\n\xff\xfe\n", {}, "is not utf-8 text"),
    ],
)  # fmt: skip
def test_a_table_that_can_not_be_learnt_from_is_refused_by_row_and_column(
    tmp_path, text, options, message
):
    with pytest.raises((InputError, FileFormatError), match=message) as caught:
        table(tmp_path, text, **options)
    assert "\n" not in str(caught.value)


def test_arrays_give_classes_values_lengths_and_facts(tmp_path):
    data = arrays(
        tmp_path,
        lengths=np.array([1, 2, 3, 6]),
        features=np.array(["a", "b"]),
        sampling_rate=50.0,
    )
    assert [len(series) for series in data.series] == [1, 2, 3, 6]
    assert (data.classes, data.signal.features, data.signal.sampling_rate) == (
        ("a", "b"),
        ("a", "b"),
        50,
    )
    assert arrays(tmp_path, y=np.array([10, 9, 10, 9])).classes == ("9", "10")
    data = arrays(tmp_path, y=np.array([0.5, 1.5, 2, 3]))
    assert (data.task.labels, data.series[1].y[0].tolist()) == (("y",), [1.5])
    assert arrays(tmp_path, y=np.arange(8.0).reshape(4, 2)).task.labels == ("y0", "y1")
    data = arrays(
        tmp_path,
        ReadConfig(targets=("p", "q0", "q1")),
        p=np.arange(4),
        q=np.arange(8.0).reshape(4, 2),
    )
    assert (data.task.labels, data.series[3].y[0].tolist()) == (
        ("p", "q0", "q1"),
        [3, 6, 7],
    )
    assert arrays(
        tmp_path, ReadConfig(label="z"), z=np.array(list("efef"))
    ).classes == ("e", "f")
    np.save(tmp_path / "one.npy", np.zeros((1, 6, 2)))
    assert [
        s.x.shape for s in read_data(tmp_path / "one.npy", targets="ignored").series
    ] == [(6, 2)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"x": np.zeros((4, 6))},
            r"x is float64 \(4, 6\), expected numbers .*save x\[:, :, None\]",
        ),
        ({"x": np.full((4, 6, 2), "a")}, "expected numbers"),
        (
            {"x": np.full((4, 6, 2), 1e300)},
            r"sample 0, step 0, column 'x0' is '1e\+300', expected a finite number",
        ),
        (
            {"x": np.full((4, 6, 2), np.nan)},
            "sample 0, step 0, column 'x0' is '', .*--missing interpolate",
        ),
        (
            {"y": np.arange(3)},
            r"y is int64 \(3,\), expected integer or text classes \(4,\)",
        ),
        ({"y": np.eye(4, dtype=int)}, r"save y\.argmax\(1\) of one-hot rows"),
        ({"features": np.array(["y", "a"])}, "has the column 'y' twice"),
        ({"y": np.array([np.inf, 0.5, 1, 2])}, "sample 0, step 0, column 'y' is 'inf'"),
        ({"lengths": np.array([6, 7, 1, 1])}, "lengths has other values than 1 to 6"),
        (
            {"split": np.array(["train", "dev", "test", "test"])},
            "split of series '1' is 'dev'",
        ),
        (
            {"features": np.array(["a"])},
            r"features is <U1 \(1,\), expected text \(2,\)",
        ),
        ({"features": np.zeros(2, "V5")}, r"features is \|V5 \(2,\), expected text"),
        ({"features": np.array([b"\xe9", b"b"])}, "expected text"),
        ({"lengths": np.zeros(4, [("a", "f4")])}, "lengths has other values than"),
        ({"lengths": np.array([6 + 1j, 1, 1, 1])}, "lengths has other values than"),
        (
            {"sampling_rate": np.array(-1)},
            "sampling_rate is -1, expected one positive number",
        ),
    ],
)
def test_arrays_that_can_not_be_learnt_from_are_refused_by_name_and_index(
    tmp_path, changes, message
):
    with pytest.raises(InputError, match=message):
        arrays(tmp_path, **changes)


def test_the_features_of_a_model_are_picked_by_name(tmp_path):
    names = np.array(["a", "b"])
    assert arrays(tmp_path, features=names, features_of=("b", "a")).series[0].x[
        0
    ].tolist() == [1, 0]
    assert arrays(tmp_path, features_of=("b", "a")).series[0].x[0].tolist() == [0, 1]
    table(tmp_path, LOG)
    assert read_data(tmp_path / "data.csv", features=("b", "a")).series[0].x[
        0
    ].tolist() == [20, 2]
    with pytest.raises(
        InputError,
        match=r"no column 'ax' .*the model's features are ax; name other columns",
    ):
        read_data(tmp_path / "data.csv", features=("ax",))


def test_paths_that_are_no_data_are_refused(tmp_path):
    with pytest.raises(NotFoundError, match="does not exist"):
        read_data(tmp_path / "none.csv")
    with pytest.raises(
        InputError, match=r"contains no \.csv, \.parquet or \.wav files"
    ):
        read_data(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(InputError, match=r"is not a data file; expected a \.npz"):
        read_data(tmp_path / "a.txt")
    (tmp_path / "resume.safetensors").write_bytes(b"")
    with pytest.raises(
        InputError, match="is a trained run, not data; run lstm-edge export"
    ):
        read_data(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"label": "a", "targets": ("b",)},
            "give only one of label, targets and forecast",
        ),
        ({"missing": "guess"}, "missing is 'guess', expected error or interpolate"),
        ({"sampling_rate": 0.0}, "sampling_rate is 0.0, expected more than 0"),
        ({"stride": 2}, "require a window"),
        ({"forecast": ("a",)}, "require a window"),
        ({"window": 0}, "window is 0, expected 1 or more"),
        ({"forecast_difference": True}, "requires a forecast"),
        ({"folds": 1}, "--folds takes 2 or more"),
        ({"folds": 3, "test_data": "a.npz"}, "without --validation-data and"),
        ({"validation": 0.5, "test": 0.5}, "leave no data to train on"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        DataConfig(**options)
