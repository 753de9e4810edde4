import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge.data.arrays import read_npz
from lstm_edge.data.tables import read_csv
from lstm_edge.training.config import DataConfig
from lstm_edge_runtime.errors import FileFormatError, InputError

DEFAULT = DataConfig()
GOOD = {"x": np.arange(48, dtype=np.float32).reshape(4, 6, 2), "y": np.array(["b", "a", "b", "a"])}


@pytest.fixture
def npz(tmp_path):
    def write(config=DEFAULT, **arrays):
        path = tmp_path / "data.npz"
        np.savez(path, **{name: value for name, value in {**GOOD, **arrays}.items() if value is not None})
        return read_npz(path, config)

    return write


@pytest.fixture
def table(tmp_path):
    def write(text, **options):
        path = tmp_path / "data.csv"
        path.write_text(text)
        return read_csv(path, DataConfig(**options))

    return write


def test_an_npz_gives_its_samples_with_sorted_labels(npz):
    found = npz(features=np.array(["ax", "ay"]), sampling_rate=np.array(50.0), lengths=np.array([6, 3, 1, 6]))
    assert found.labels == ("a", "b")
    assert [int(one.y[0]) for one in found.series] == [1, 0, 1, 0]
    assert [one.x.shape for one in found.series] == [(6, 2), (3, 2), (1, 2), (6, 2)]
    np.testing.assert_array_equal(found.series[1].x, GOOD["x"][1, :3])
    assert (found.features, found.sampling_rate, found.targets) == (("ax", "ay"), 50.0, ())


def test_integers_are_classes_and_floats_are_values(npz):
    assert npz(y=np.array([7, 7, 9, 9])).labels == ("7", "9")
    values = npz(y=np.array([[0.5, 1], [1.5, 2], [2.5, 3], [3.5, 4]]))
    assert (values.labels, values.targets) == ((), ("y0", "y1"))
    np.testing.assert_array_equal(values.series[2].y, np.full((6, 2), [2.5, 3]))


def test_what_lies_past_a_length_is_not_looked_at(npz):
    x = GOOD["x"].copy()
    x[1, 4:] = np.nan
    assert npz(x=x, lengths=np.array([6, 4, 6, 6])).series[1].x.shape == (4, 2)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": None}, r"data\.npz has no array x \(it has y\)"),
        ({"y": None}, r"data\.npz has no array y \(it has x\)"),
        ({"x": np.zeros((4, 6))}, r"x is float64 \(4, 6\), expected numbers of shape \(samples, L, I\)"),
        ({"x": np.zeros((0, 6, 2))}, r"holds no samples: x is \(0, 6, 2\)"),
        ({"x": np.full((4, 6, 2), "a")}, r"x is <U1 .*expected numbers"),
        ({"x": np.where(np.arange(48).reshape(4, 6, 2) == 17, np.nan, 1)}, r"x\[1, 2, 1\] is nan"),
        ({"x": np.full((4, 6, 2), 1e300)}, r"x\[0, 0, 0\] is 1e\+300, expected a finite number"),
        ({"y": np.array([1, 2, 3])}, r"y is \(3,\), expected one row for each of x's 4 samples"),
        ({"y": np.array([1, 1, 1, 1])}, "one class only, 1; expected two or more"),
        ({"y": np.array([1, np.inf, 1, 1])}, r"y\[1, 0\] is inf"),
        ({"y": np.zeros((4, 2), int)}, r"expected integer or text classes \(samples,\), or float values"),
        ({"lengths": np.array([6, 7, 1, 1])}, r"lengths\[1\] is 7, expected 1 to 6"),
        ({"lengths": np.array([6.0, 1, 1, 1])}, r"lengths is float64 \(4,\), expected integers \(4,\)"),
        (
            {"split": np.array(["train", "dev", "", ""])},
            r"split\[1\] is 'dev', expected train, validation, test",
        ),
        ({"features": np.array(["a"])}, r"features is \(1,\), expected \(2,\)"),
        ({"x": np.full((4, 6, 2), np.inf, np.float16)}, r"x\[0, 0, 0\] is inf"),
        ({"sampling_rate": np.array("fast")}, "sampling_rate is fast, expected one positive number"),
        ({"sampling_rate": np.array([])}, r"sampling_rate is \[\], expected one positive number"),
        ({"sampling_rate": np.array(np.nan)}, "sampling_rate is nan"),
        ({"sampling_rate": np.array(-5)}, "sampling_rate is -5"),
    ],
)
def test_an_npz_that_can_not_be_learnt_from_is_refused_by_array_and_index(npz, arrays, message):
    with pytest.raises(InputError, match=message):
        npz(**arrays)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_sampling_rate_that_is_none_is_refused(rate):
    with pytest.raises(InputError, match="sampling_rate is"):
        DataConfig(sampling_rate=rate)


def test_columns_named_for_an_npz_are_refused(npz):
    with pytest.raises(InputError, match=r"columns are named in \.csv files only"):
        npz(DataConfig(label="activity"))


def test_an_npz_that_is_truncated_pickled_or_foreign_is_refused(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, **GOOD)
    content = path.read_bytes()
    for text in (content[:100], b"hello", b"PK\x03\x04"):
        path.write_bytes(text)
        with pytest.raises(FileFormatError, match=r"data\.npz can't be read as \.npz"):
            read_npz(path, DataConfig())
    np.savez(path, x=np.array([object()], dtype=object), y=GOOD["y"])
    with pytest.raises(FileFormatError, match=r"can't be read as \.npz .*pickle"):
        read_npz(path, DataConfig())
    with path.open("wb") as file:
        np.save(file, GOOD["x"])
    with pytest.raises(FileFormatError, match="holds one array, not an archive"):
        read_npz(path, DataConfig())


@settings(deadline=None, max_examples=60, derandomize=True)
@given(place=st.integers(0, 700), byte=st.integers(0, 255), end=st.integers(1, 2000))
def test_a_damaged_npz_is_read_or_refused_and_nothing_else(tmp_path_factory, place, byte, end):
    path = tmp_path_factory.mktemp("damaged") / "data.npz"
    np.savez_compressed(path, **GOOD)
    content = bytearray(path.read_bytes())
    content[place % len(content)] = byte
    path.write_bytes(bytes(content[:end]))
    with contextlib.suppress(FileFormatError, InputError):
        read_npz(path, DEFAULT)


LONG = "series,order,ax,ay,label\nb,1,10,20,run\na,2,3,4,walk\na,1,1,2,walk\nb,2,30,40,run\n"


def test_a_csv_gives_its_series_each_in_its_order(table):
    found = table(LONG)
    assert [one.name for one in found.series] == ["b", "a"]
    np.testing.assert_array_equal(found.series[1].x, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(found.series[0].y, [0, 0])
    assert (found.labels, found.features) == (("run", "walk"), ("ax", "ay"))


def test_columns_can_be_named(table):
    found = table(
        "id,t,ax,note,kind\n1,1,5,7,x\n1,2,6,8,y\n", series="id", order="t", label="kind", features=("ax",)
    )
    np.testing.assert_array_equal(found.series[0].x, [[5], [6]])
    assert found.labels == ("x", "y")


def test_targets_are_values_and_no_features(table):
    found = table("ax,power,torque\n1,10,5\n2,20,6\n", targets=("power", "torque"))
    assert (found.features, found.targets, found.labels) == (("ax",), ("power", "torque"), ())
    np.testing.assert_array_equal(found.series[0].y, [[10, 5], [20, 6]])


def test_a_forecast_pairs_every_row_with_the_next_one_of_its_series(table):
    found = table("series,t,v\na,1,9\na,2,9\na,3,9\nb,7,8\nb,6,8\n", forecast=("t",), window=1)
    assert found.features == ("t", "v")
    np.testing.assert_array_equal(found.series[0].x, [[1, 9], [2, 9]])
    np.testing.assert_array_equal(found.series[0].y, [[2], [3]])
    np.testing.assert_array_equal(found.series[1].y, [[6]])


def test_without_series_and_order_the_file_is_one_series_as_it_stands(table):
    found = table("v,label\n3,a\n1,b\n")
    assert len(found.series) == 1
    np.testing.assert_array_equal(found.series[0].x, [[3], [1]])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, r"data\.csv is empty"),
        ("series,order,ax,label\n", {}, r"data\.csv is empty; expected a header and a row a time step"),
        ("ax,ay\n1,2\n", {}, r"data\.csv has no column 'label' \(it has ax, ay\)"),
        ("ax,label\n1,a\n", {"targets": ("power",)}, "no column 'power'"),
        ("ax,label\n1,a\n", {"forecast": ("bx",), "window": 2}, "no column 'bx'"),
        ("label,order\na,1\nb,2\n", {}, "has no feature column"),
        ("ax,label\n1,a\n2\n", {}, r"data\.csv row 3 has 1 columns, expected the header's 2"),
        ("ax,label\n1,a\n2,b,c\n", {}, "row 3 has 3 columns"),
        ("ax,label\n1,a\nabc,b\n", {}, r"row 3, column 'ax' is 'abc', expected a finite number"),
        ("ax,label\n1,a\nnan,b\n", {}, r"row 3, column 'ax' is 'nan'"),
        ("ax,label\n1,a\n,b\n", {}, r"row 3, column 'ax' is ''"),
        ("ax,label\n1e39,a\n1,b\n", {}, r"row 2, column 'ax' is '1e39'"),
        ("ax,label\n1,a\n1,\n", {}, r"row 3, column 'label' is empty"),
        ("ax,label\n1,a\n2,a\n", {}, "column 'label' holds one class only, 'a'"),
        ("ax,ax,label\n1,2,a\n", {}, "has the column 'ax' twice"),
        ("ax,order,label\n1,1,a\n2,1,b\n", {}, r"series 'all' has order 1 twice \(row 3\)"),
        ("ax,label\n\n1,a\n\n2,x\n3\n", {}, "row 6 has 1 columns"),
        ("series,ax\na,1\nb,2\n", {"forecast": ("ax",), "window": 1}, "series 'a' has one row"),
        (
            "a,b\n1,2\n",
            {"forecast": ("a",), "features": ("b",), "window": 1},
            "it must be among the features",
        ),
    ],
)
def test_a_csv_that_can_not_be_learnt_from_is_refused_by_row_and_column(table, text, options, message):
    with pytest.raises(InputError, match=message) as caught:
        table(text, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"ax,label\n\xff\xfe,a\n", b'ax,label\n"1,a\n', b"ax,label\n\x00,a\n"])
def test_a_csv_that_is_no_text_is_refused(tmp_path, content):
    path = tmp_path / "data.csv"
    path.write_bytes(content)
    with pytest.raises((FileFormatError, InputError), match=r"data\.csv"):
        read_csv(path, DataConfig())


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("ax,label\n1,a\n2,b\n", encoding="utf-8-sig")
    assert read_csv(path, DataConfig()).features == ("ax",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window is 0"),
        ({"stride": 2}, "a stride goes with a window"),
        ({"label": "a", "targets": ("b",)}, "label and targets were given together"),
        ({"forecast": ("a",)}, "a forecast needs a window"),
        ({"validation": 0.0}, "must leave data"),
        ({"validation": 0.6, "test": 0.5}, "must leave data"),
        ({"test": 1.5}, "test is 1.5"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        DataConfig(**options)
