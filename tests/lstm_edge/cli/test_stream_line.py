"""Lines of samples: forms, headers, refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge.cli._lines import HeaderError, LineParser
from lstm_edge_runtime.errors import InputError

finite = st.floats(
    allow_nan=False, allow_infinity=False, allow_subnormal=False, width=32
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(finite, min_size=3, max_size=3),
    st.sampled_from([",", ";", "\t", " ", " , ", " ; "]),
)
def test_every_form_of_a_line_gives_the_same_sample(values, delimiter):
    line = delimiter.join(map(repr, values))
    for form in (
        line,
        f"  {line}\r\n",
        delimiter.join(f'"{value!r}"' for value in values),
    ):
        np.testing.assert_array_equal(LineParser(3).parse(form.encode()), values)


@pytest.mark.parametrize(
    ("names", "header", "line", "expected"),
    [
        (["a", "b"], '"t","b","a"', "99,1,2", [2, 1]),
        (["a", "b"], "t,b,a", "not a time,1,2", [2, 1]),
        (["", ""], "\ufeffp,q", "1,2", [1, 2]),
        (["speed, left", "load"], "load\tspeed, left\ttime", "1\t2\t3", [2, 1]),
        (["load"], "load", "3", [3]),
        (["speed, left", "load"], '"speed, left",load', "1,2", [1, 2]),
        (["a", "b"], "t,a,b", '"Mon, 3:00; ok", 1, 2', [1, 2]),
    ],
)
def test_a_header_selects_columns_by_the_names_or_is_skipped(
    names, header, line, expected
):
    parser = LineParser(len(names), names if any(names) else ())
    assert parser.parse(b" \n") is None
    assert parser.parse(header.encode()) is None
    np.testing.assert_array_equal(parser.parse(line.encode()), expected)
    with pytest.raises(InputError):
        parser.parse(header.encode())


@pytest.mark.parametrize("line", ["1.5,2", "256,2", "-1,2", "1e30,2"])
def test_an_integer_is_not_made_of_another_number(line):
    parser = LineParser(2, dtype="uint8")
    np.testing.assert_array_equal(
        parser.parse(b"255,2.0"), np.array([255, 2], np.uint8)
    )
    with pytest.raises(InputError, match="expected finite uint8 numbers"):
        parser.parse(line.encode())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1,2,3", "expected 2 numbers, got 3"),
        ("1", "expected 2 numbers, got 1"),
        ("1,x", "got 'x'"),
        ("1,", "got ''"),
        ("nan,1", "finite"),
        ("1e999,1", "finite"),
        ("1e300,1", "finite float32 numbers, got 1e.300"),
        ("1.5;2,5", "numbers with a decimal point, got '2,5'"),
        ("1,5;2,5", "numbers with a decimal point, got '1,5'"),
        ("1,5\t2,5", "numbers with a decimal point, got '1,5'"),
        ("1_0,2", "got '1_0'"),
        ("\uff11,2", "got '\uff11'"),
        ("p", "expected 2 numbers, got 1"),
    ],
)
def test_a_malformed_line_says_how(line, words):
    with pytest.raises(InputError, match=words):
        LineParser(2, ["a", "b"]).parse(line.encode())


@pytest.mark.parametrize(
    ("names", "header", "message"),
    [
        (["ax", "ay"], "gx,gy", r"no column 'ax' \(it has gx, gy\); .*--features"),
        (["ax", "ay"], "ax,az,t", "no column 'ay' .*the model's features are ax, ay"),
        (["ax", "ay"], "ax,ay,ax", "several columns 'ax'"),
        ([], "p,q,r", "expected 2 columns; choose columns, such as --features q,r"),
    ],
)
def test_a_header_without_the_columns_is_refused_not_read_by_position(
    names, header, message
):
    for before in (b"", b"# sensor 7\n", b"\xff\n"):
        parser = LineParser(2, names)
        if before:
            with pytest.raises(InputError):
                parser.parse(before)
        with pytest.raises(HeaderError, match=message):
            parser.parse(header.encode())


def test_text_after_the_first_sample_is_a_malformed_line_and_no_header():
    parser = LineParser(2, ["a", "b"])
    parser.parse(b"b,a")
    np.testing.assert_array_equal(parser.parse(b"1,2"), [2, 1])
    with pytest.raises(InputError, match="expected numbers, got 'y'") as caught:
        parser.parse(b"x,y")
    assert not isinstance(caught.value, HeaderError)
    np.testing.assert_array_equal(parser.parse(b"1,2"), [2, 1])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_no_bytes_do_anything_but_give_a_sample_nothing_or_one_error(line):
    parser = LineParser(2)
    parser.parse(b"1,2")
    try:
        sample = parser.parse(line)
    except InputError:
        return
    assert sample is None or (sample.shape == (2,) and np.isfinite(sample).all())
