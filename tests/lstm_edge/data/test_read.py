import numpy as np
import pytest

from lstm_edge.cli._series import read_series
from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError


def test_npz_series_are_cut_at_their_lengths_and_padding_may_hold_anything(tmp_path):
    x = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    x[1, 2:] = np.nan
    path = tmp_path / "d.npz"
    np.savez(path, x=x, lengths=np.array([4, 2]), y=np.zeros(2))
    first, second = read_series(path, 3)
    np.testing.assert_array_equal(first.x, x[0])
    np.testing.assert_array_equal(second.x, x[1, :2])
    assert [first.name, second.name] == ["0", "1"]


@pytest.mark.parametrize("shape", [(5, 3), (1, 5, 3)])
def test_npy_holds_one_series_or_many(tmp_path, shape):
    x = np.ones(shape)
    np.save(tmp_path / "d.npy", x)
    (one,) = read_series(tmp_path / "d.npy", 3)
    np.testing.assert_array_equal(one.x, x.reshape(5, 3))


def test_csv_rows_are_gathered_by_series_sorted_by_order_and_columns_picked_by_name(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("series,order,b,label,a\nu,2,5,walk,6\nv,1,9,rest,8\nu,1,3,walk,4\n")
    u, v = read_series(path, 2, ["a", "b"])
    assert (u.name, v.name) == ("u", "v")
    np.testing.assert_array_equal(u.x, [[4, 3], [6, 5]])
    np.testing.assert_array_equal(v.x, [[8, 9]])


def test_csv_without_series_column_is_one_series_and_nameless_features_are_taken_in_order(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("\ufeffp,q\n1,2\n\n3,4\n")
    (only,) = read_series(path, 2)
    np.testing.assert_array_equal(only.x, [[1, 2], [3, 4]])


def test_named_series_and_order_columns_are_used(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("id,t,a\nu,2,5\nu,1,3\nw,1,7\n")
    u, w = read_series(path, 1, ["a"], series="id", order="t")
    np.testing.assert_array_equal(u.x, [[3], [5]])
    np.testing.assert_array_equal(w.x, [[7]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("a,b\n", "no samples"),
        ("a,b\n1,2\n3\n", "row 3 has 1 columns"),
        ("a,b\n1,x\n", "row 2, column 'b' is 'x'"),
        ("a,b\n1,nan\n", "row 2, column 'b' is 'nan'"),
        ("a,c\n1,2\n", "b missing"),
        ('a,b\n1,"2\n', "not CSV"),
    ],
)
def test_a_bad_csv_gets_one_line_that_names_the_place(tmp_path, text, words):
    path = tmp_path / "d.csv"
    path.write_text(text)
    with pytest.raises((InputError, FileFormatError), match=words) as caught:
        read_series(path, 2, ["a", "b"])
    assert "\n" not in str(caught.value)
    assert "d.csv" in str(caught.value)


def test_a_csv_of_another_width_a_missing_column_and_other_encodings_are_refused(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("p,q\n1,2\n")
    with pytest.raises(InputError, match="expected 3"):
        read_series(path, 3)
    with pytest.raises(InputError, match="no column 'id'"):
        read_series(path, 2, series="id")
    path.write_bytes(b"p,q\n\xff,2\n")
    with pytest.raises(FileFormatError, match="UTF-8"):
        read_series(path, 2)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"z": np.zeros((1, 2, 3))}, "array named x"),
        ({"x": np.zeros((1, 2, 4))}, r"shape \(1, 2, 4\); expected \(samples, L, 3\)"),
        ({"x": np.zeros(3)}, "shape"),
        ({"x": np.zeros((1, 0, 3))}, "shape"),
        ({"x": np.zeros((0, 2, 3))}, "no samples"),
        ({"x": np.array([["a"]])}, "dtype"),
        ({"x": np.array([[[1, np.inf, 2]]])}, r"x\[0, 0, 1\] is inf"),
        ({"x": np.zeros((2, 2, 3)), "lengths": np.array([1])}, "lengths"),
        ({"x": np.zeros((2, 2, 3)), "lengths": np.array([1, 3])}, r"expected 1..2"),
        ({"x": np.zeros((2, 2, 3)), "lengths": np.array([1.0, 2.0])}, "whole numbers"),
    ],
)
def test_bad_arrays_are_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(InputError, match=words):
        read_series(tmp_path / "d.npz", 3)


def test_files_that_are_not_what_they_say_are_refused_and_no_pickle_is_opened(tmp_path):
    with pytest.raises(NotFoundError):
        read_series(tmp_path / "none.npz", 3)
    (tmp_path / "d.txt").write_text("1")
    with pytest.raises(InputError, match=r"expected \.npz"):
        read_series(tmp_path / "d.txt", 3)
    (tmp_path / "d.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(FileFormatError):
        read_series(tmp_path / "d.npz", 3)
    np.save(tmp_path / "p.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(FileFormatError):
        read_series(tmp_path / "p.npy", 3)
    np.savez(tmp_path / "q.npz", x=np.array([{}], dtype=object))
    with pytest.raises(FileFormatError):
        read_series(tmp_path / "q.npz", 3)
