import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge.data.config import DataConfig, ReadConfig
from lstm_edge.data.read import read_recordings
from lstm_edge.data.recordings import ModelFeatures
from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError

GOOD = {"x": np.arange(48, dtype=np.float32).reshape(4, 6, 2), "y": np.array(["b", "a", "b", "a"])}


@pytest.fixture
def npz(tmp_path):
    def write(config=None, **arrays):
        path = tmp_path / "data.npz"
        np.savez(path, **{name: value for name, value in {**GOOD, **arrays}.items() if value is not None})
        return read_recordings(path, config)

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
        ({"x": None}, r"data\.npz has no array 'x' \(it has y\)"),
        ({"y": None}, r"data\.npz has no array 'y' \(it has x\)"),
        ({"x": np.zeros((4, 6))}, r"x is float64 \(4, 6\), expected numbers of shape \(samples, L, I\)"),
        ({"x": np.zeros((0, 6, 2))}, r"contains no samples: x is \(0, 6, 2\)"),
        ({"x": np.full((4, 6, 2), "a")}, r"x is <U1 .*expected numbers"),
        ({"x": np.where(np.arange(48).reshape(4, 6, 2) == 17, np.nan, 1)}, r"x\[1, 2, 1\] is nan"),
        ({"x": np.full((4, 6, 2), 1e300)}, r"x\[0, 0, 0\] is 1e\+300, expected a finite number"),
        ({"y": np.array([1, 2, 3])}, r"y is \(3,\), expected one row for each of x's 4 samples"),
        ({"y": np.array([1, np.inf, 1, 1])}, r"y\[1, 0\] is inf"),
        ({"y": np.full((4, 2), 2)}, r"expected integer or text classes \(samples,\), or float values"),
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


def test_arrays_of_other_names_are_taken_when_they_are_named(npz):
    found = npz(
        ReadConfig(label="activity", group="person"),
        y=None,
        activity=np.array([3, 5, 3, 5]),
        person=[1, 1, 2, 2],
    )
    assert found.labels == ("3", "5")
    assert [one.group for one in found.series] == ["1", "1", "2", "2"]
    assert npz(ReadConfig(targets=("y", "z")), y=np.arange(4), z=np.ones((4, 2))).targets == ("y", "z0", "z1")


def test_named_features_are_picked_by_name(npz):
    found = npz(ReadConfig(features=("b",)), features=np.array(["a", "b"]))
    np.testing.assert_array_equal(found.series[0].x, GOOD["x"][0][:, 1:])
    with pytest.raises(InputError, match=r"has no feature names"):
        npz(ReadConfig(features=("b",)))


@pytest.mark.parametrize(
    ("config", "arrays", "message"),
    [
        (ReadConfig(label="clas"), {"class": np.arange(4)}, r"no array 'clas' .*; did you mean 'class'\?"),
        (
            ReadConfig(group="subjet"),
            {"subject": np.arange(4)},
            r"no array 'subjet' .*did you mean 'subject'",
        ),
        (ReadConfig(series="id"), {}, r"no array 'id' \(it has x, y\)"),
        (ReadConfig(order="t"), {}, "--order needs a table"),
        (ReadConfig(targets=("y",)), {}, r"y is <U1 \(4,\), expected numbers"),
        (
            ReadConfig(features=("ay",)),
            {"features": np.array(["ax", "az"])},
            r"no feature 'ay' \(it has ax, az\)",
        ),
    ],
)
def test_a_name_that_is_not_in_an_npz_is_refused_with_the_nearest_one(npz, config, arrays, message):
    with pytest.raises(InputError, match=message):
        npz(config, **arrays)


def test_samples_channels_time_is_asked_for_and_read(npz):
    x = np.arange(4 * 2 * 9, dtype=np.float32).reshape(4, 2, 9)
    with pytest.raises(InputError, match=r"x is \(4, 2, 9\), 2 steps of 9 features, .*--layout NCL if so"):
        npz(x=x)
    np.testing.assert_array_equal(npz(ReadConfig(layout="NCL"), x=x).series[1].x, x[1].T)
    np.testing.assert_array_equal(npz(ReadConfig(layout="NLC"), x=x).series[1].x, x[1])
    assert npz(x=x, features=np.array(list("abcdefghi"))).series[0].x.shape == (2, 9)


@pytest.mark.parametrize(
    ("y", "labels"),
    [
        (np.array([1.0, 0, 1, 0]), ("0", "1")),
        (np.array([[1.0], [2], [1], [2]]), ("1", "2")),
        (np.eye(3)[[0, 2, 1, 0]], ("0", "1", "2")),
        (np.eye(3, dtype=int)[[0, 2, 1, 0]], ("0", "1", "2")),
    ],
)
def test_floats_and_one_hot_rows_that_look_like_classes_are_asked_about(npz, y, labels):
    with pytest.raises(InputError, match="use --label y to read it as classes, --target y"):
        npz(y=y)
    assert npz(ReadConfig(label="y"), y=y).labels == labels
    values = npz(ReadConfig(targets=("y",)), y=y)
    assert values.labels == ()
    np.testing.assert_array_equal([one.y[0] for one in values.series], y.reshape(4, -1))


def test_an_npz_that_is_truncated_pickled_or_foreign_is_refused(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, **GOOD)
    content = path.read_bytes()
    for text in (content[:100], b"hello", b"PK\x03\x04"):
        path.write_bytes(text)
        with pytest.raises(FileFormatError, match=r"data\.npz can't be read"):
            read_recordings(path)
    np.savez(path, x=np.array([object()], dtype=object), y=GOOD["y"])
    with pytest.raises(FileFormatError, match=r"can't be read .*pickle"):
        read_recordings(path)
    np.save(tmp_path / "p.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(FileFormatError):
        read_recordings(tmp_path / "p.npy", targets="ignored")


@settings(deadline=None, max_examples=60, derandomize=True)
@given(place=st.integers(0, 700), byte=st.integers(0, 255), end=st.integers(1, 2000))
def test_a_damaged_npz_is_refused_or_read_as_it_was(tmp_path_factory, place, byte, end):
    """The archive's checksums tell damaged arrays; what they do not cover changes nothing."""
    path = tmp_path_factory.mktemp("damaged") / "data.npz"
    np.savez_compressed(path, **GOOD)
    content = bytearray(path.read_bytes())
    whole = len(content) <= end
    content[place % len(content)] = byte
    path.write_bytes(bytes(content[:end]))
    try:
        found = read_recordings(path)
    except (FileFormatError, InputError):
        return
    assert whole
    np.testing.assert_array_equal([one.x for one in found.series], GOOD["x"])
    assert [found.labels[one.y[0]] for one in found.series] == list(GOOD["y"])


def test_without_classes_the_samples_alone_are_read(npz, tmp_path):
    np.savez(tmp_path / "d.npz", x=GOOD["x"])
    assert read_recordings(tmp_path / "d.npz", targets="optional").series[0].y is None
    np.savez(tmp_path / "d.npz", **{**GOOD, "y": np.zeros(3)})
    assert read_recordings(tmp_path / "d.npz", targets="ignored").series[0].y is None


@pytest.mark.parametrize("shape", [(5, 3), (1, 5, 3)])
def test_npy_holds_one_series_or_many(tmp_path, shape):
    x = np.ones(shape)
    np.save(tmp_path / "d.npy", x)
    (one,) = read_recordings(tmp_path / "d.npy", targets="ignored").series
    np.testing.assert_array_equal(one.x, x.reshape(5, 3))


def test_arrays_of_another_width_than_the_models_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 6, 4)))
    with pytest.raises(InputError, match=r"x is \(2, 6, 4\), expected \(samples, L, 3\) for this model"):
        read_recordings(tmp_path / "d.npz", targets="ignored", model=ModelFeatures((), 3))
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 3, 4)))
    with pytest.raises(InputError, match="--layout NCL"):
        read_recordings(tmp_path / "d.npz", targets="ignored", model=ModelFeatures((), 3))


def test_the_models_features_are_picked_by_name_wherever_they_are_named(tmp_path):
    model = ModelFeatures(("b", "a"), 2)
    x = np.arange(18.0).reshape(1, 6, 3)
    np.savez(tmp_path / "d.npz", x=x, features=np.array(["a", "b", "c"]))
    (tmp_path / "d.csv").write_text("a,label,b,c\n" + "\n".join(f"{a},x,{b},{c}" for a, b, c in x[0]))
    for name in ("d.npz", "d.csv"):
        (one,) = read_recordings(tmp_path / name, targets="ignored", model=model).series
        np.testing.assert_array_equal(one.x, x[0][:, [1, 0]])
    np.savez(tmp_path / "d.npz", x=x[:, :, :2], features=np.array(["a", "c"]))
    with pytest.raises(InputError, match=r"no feature 'b' .*the model's features are b, a"):
        read_recordings(tmp_path / "d.npz", targets="ignored", model=model)


def test_files_that_are_not_what_they_say_are_refused(tmp_path):
    with pytest.raises(NotFoundError, match="does not exist"):
        read_recordings(tmp_path / "none.npz")
    with pytest.raises(InputError, match=r"contains no \.csv or \.parquet files"):
        read_recordings(tmp_path)
    (tmp_path / "d.txt").write_text("1")
    with pytest.raises(InputError, match=r"ends in '\.txt'; expected a \.npz"):
        read_recordings(tmp_path / "d.txt")


LONG = "series,order,ax,ay,label\nb,1,10,20,run\na,2,3,4,walk\na,1,1,2,walk\nb,2,30,40,run\n"


def test_a_quoted_header_is_read_like_any_other(table):
    found = table('"ax","label"\n1,a\n2,b\n')
    assert (found.features, found.labels) == (("ax",), ("a", "b"))


def test_a_group_and_a_set_are_read_for_each_series(table):
    found = table("series,who,split,ax,label\n1,a,train,1,x\n2,b,test,1,y\n", group="who")
    assert [(one.group, one.split) for one in found.series] == [("a", "train"), ("b", "test")]
    assert found.features == ("ax",)


def test_a_table_without_the_models_features_says_what_the_model_takes(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("accel_x,ay\n1,2\n")
    with pytest.raises(
        InputError, match=r"no column 'ax' .*the model's features are ax, ay; name other columns with"
    ):
        read_recordings(path, targets="ignored", model=ModelFeatures(("ax", "ay"), 2))
    config = ReadConfig(features=("accel_x", "ay"))
    (one,) = read_recordings(path, config, targets="ignored", model=ModelFeatures(("ax", "ay"), 2)).series
    np.testing.assert_array_equal(one.x, [[1, 2]])
    with pytest.raises(InputError, match=r"got 2 features \(accel_x, ay\), expected 3"):
        read_recordings(path, targets="ignored", model=ModelFeatures((), 3))


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
    found = table("series,t,v\na,1,9\na,2,9\na,3,9\nb,7,8\nb,6,8\n", forecast=("t",))
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
        ("series,order,ax,label\n", {}, r"data\.csv is empty; expected a header and one row per time step"),
        ("ax,ay\n1,2\n", {}, r"data\.csv has no column 'label' \(it has ax, ay\)"),
        ("ax,label\n1,a\n", {"targets": ("power",)}, "no column 'power'"),
        ("ax,label\n1,a\n", {"forecast": ("bx",)}, "no column 'bx'"),
        ("label,order\na,1\nb,2\n", {}, "has no feature column"),
        ("ax,label\n1,a\n2\n", {}, r"data\.csv row 3 has 1 column, expected the header's 2"),
        ("ax,label\n1,a\n2,b,c\n", {}, "row 3 has 3 columns"),
        ("ax,label\n1,a\nabc,b\n", {}, r"row 3, column 'ax' is 'abc', expected a finite number"),
        ("ax,label\n1,a\nnan,b\n", {}, r"row 3, column 'ax' is 'nan'"),
        ("ax,label\n1,a\n,b\n", {}, r"row 3, column 'ax' is ''"),
        ("ax,label\n1e39,a\n1,b\n", {}, r"row 2, column 'ax' is '1e39'"),
        ("ax,label\n1,a\n1,\n", {}, r"row 3, column 'label' is empty"),
        ("ax,ax,label\n1,2,a\n", {}, "has the column 'ax' twice"),
        ("ax,order,label\n1,1,a\n2,1,b\n", {}, r"series '0' has order 1 twice \(row 3\)"),
        ("run_id,ax,label\n1,1,a\n", {"series": "runid"}, r"no column 'runid' .*; did you mean 'run_id'\?"),
        ("timestamp,ax,label\n1,1,a\n", {"order": "tiemstamp"}, "did you mean 'timestamp'"),
        ("timestamp,temperature,label\n1,1,a\n", {"order": "temp"}, "did you mean 'temperature'"),
        ("ax,label\n1,a\n", {"group": "who"}, r"no column 'who' \(it has ax, label\)"),
        ("1.5,2,x\n2.5,3,x\n", {}, r"data\.csv has no header: row 1 is 1\.5, 2, x; add a row"),
        ("5,2,7\n2,3,4\n", {"targets": ("7",)}, "has no header"),
        ('ax,label\n"1,5",a\n', {}, "'1,5', expected a finite number; write a decimal point, or"),
        (
            "timestamp,ax,label\n2026-01-01T00:00:00,1,a\n2026-01-01T00:00:01,1,a\n",
            {},
            r"column 'timestamp' contains times, .*; sort by it with --order timestamp, or .*: --features ax",
        ),
        ("who,ax,label\nann,1,a\nbob,1,a\n", {}, r"'who' contains text, such as 'ann'.*: --features ax"),
        ("ax,kind\n1,a\n", {}, "name the class column with --label, or the value columns"),
        (
            "series,who,ax,label\n1,a,1,x\n1,b,1,y\n",
            {"group": "who"},
            "who of series '1' is both 'a' and 'b'",
        ),
        (
            "series,split,ax,label\n1,dev,1,x\n",
            {},
            "split of series '1' is 'dev', expected train, validation, test",
        ),
        ("ax,label\n\n1,a\n\n2,x\n3\n", {}, "row 6 has 1 column"),
        ("series,ax\na,1\nb,2\n", {"forecast": ("ax",)}, "series 'a' has one row"),
        (
            "a,b\n1,2\n",
            {"forecast": ("a",), "features": ("b",)},
            "it must be a feature",
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
        read_recordings(path)


@pytest.mark.parametrize(
    "text",
    ["a;b;label\n1,5;2;x\n-2,5e1;3;y\n", "a\tb\tlabel\n1.5\t2\tx\n-2.5e1\t3\ty\n"],
    ids=["semicolons", "tabs"],
)
def test_other_separators_and_decimal_commas_are_read(table, text):
    found = table(text)
    assert (found.features, found.labels) == (("a", "b"), ("x", "y"))
    np.testing.assert_array_equal(found.series[0].x, [[1.5, 2], [-25, 3]])


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("ax,label\n1,a\n2,b\n", encoding="utf-8-sig")
    assert read_recordings(path).features == ("ax",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window is 0"),
        ({"stride": 2}, "a stride requires a window"),
        ({"label": "a", "targets": ("b",)}, "label and targets were both given"),
        ({"forecast": ("a",)}, "a forecast requires a window"),
        ({"validation": 0.0}, "must leave data"),
        ({"validation": 0.6, "test": 0.5}, "must leave data"),
        ({"test": 1.5}, "test is 1.5"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        DataConfig(**options)


def test_timestamps_in_nanoseconds_sort_a_series(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    order = pa.array([3_000_001, 1_000_001, 2_000_001]).cast(pa.timestamp("ns"))
    table = pa.table({"order": order, "ax": [3.0, 1.0, 2.0], "label": ["a", "a", "a"]})
    parquet.write_table(table, tmp_path / "data.parquet")
    found = read_recordings(tmp_path / "data.parquet")
    np.testing.assert_array_equal(found.series[0].x, [[1], [2], [3]])
