import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge.cli._samples import LineParser
from lstm_edge_runtime.errors import InputError

finite = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False, width=32)


@settings(max_examples=60, deadline=None)
@given(st.lists(finite, min_size=3, max_size=3))
def test_every_form_of_a_line_gives_the_same_sample(values):
    names = ["a", "b", "c"]
    lines = [
        ",".join(map(repr, values)),
        json.dumps(values),
        json.dumps(dict(reversed(list(zip(names, values, strict=True))))),
        f"  {values[0]!r} , {values[1]!r},{values[2]!r}\r\n",
    ]
    for line in lines:
        np.testing.assert_array_equal(LineParser(3, names).parse(line.encode()), values)


def test_a_header_picks_the_columns_by_the_feature_names():
    parser = LineParser(2, ["a", "b"])
    assert parser.parse(b'"t","b","a"\n') is None
    np.testing.assert_array_equal(parser.parse(b"99,1,2"), [2, 1])
    np.testing.assert_array_equal(parser.parse(b"not a time,1,2"), [2, 1])


def test_quoted_cells_may_hold_commas():
    parser = LineParser(2, ["a, left", 'b "x"'])
    assert parser.parse(b'"b ""x""", "a, left"\n') is None
    np.testing.assert_array_equal(parser.parse(b'1, "2"'), [2, 1])


@pytest.mark.parametrize("line", ["1.5,2", "256,2", "-1,2", "[1e30, 2]"])
def test_a_whole_number_is_not_made_of_what_is_none(line):
    parser = LineParser(2, dtype="uint8")
    np.testing.assert_array_equal(parser.parse(b"255,2.0"), np.array([255, 2], np.uint8))
    with pytest.raises(InputError, match="expected finite uint8 numbers"):
        parser.parse(line.encode())


def test_an_unknown_header_of_the_right_width_is_skipped_and_only_at_the_start():
    parser = LineParser(2, ["a", "b"])
    assert parser.parse("\ufeffp,q".encode()) is None
    np.testing.assert_array_equal(parser.parse(b"1,2"), [1, 2])
    with pytest.raises(InputError, match="expected numbers, got 'p'"):
        parser.parse(b"p,q")


def test_blank_lines_are_nothing():
    parser = LineParser(1)
    assert parser.parse(b"\n") is None
    assert parser.parse(b"h\n") is None
    np.testing.assert_array_equal(parser.parse(b"3"), [3])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1,2,3", "expected 2 numbers, got 3"),
        ("1", "expected 2 numbers, got 1"),
        ("1,x", "got 'x'"),
        ("1,", "got ''"),
        ("nan,1", "finite"),
        ("1e999,1", "finite"),
        ("[1, NaN]", "finite"),
        ("1e300,1", "finite float32 numbers, got 1e.300"),
        ("[1]", "got 1"),
        ("[1, true]", "got 'True'"),
        ('[1, "x"]', "got 'x'"),
        ("[1, [2]]", "got"),
        ("[1, 2", "not JSON"),
        ('{"a": 1}', "b missing"),
        ("[" * 100_000, "not JSON"),
        ("[" + "9" * 400 + ", 1]", "expected numbers"),
        ("[" + "9" * 5000 + ", 1]", "not JSON"),
        ("p,q,r", "the header has p, q, r; expected a, b"),
    ],
)
def test_a_malformed_line_says_how(line, words):
    with pytest.raises(InputError, match=words) as caught:
        LineParser(2, ["a", "b"]).parse(line.encode())
    assert len(str(caught.value)) < 300


def test_an_object_needs_feature_names():
    with pytest.raises(InputError, match="send a list"):
        LineParser(1).parse(b'{"a": 1}')


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_no_text_does_anything_but_give_a_sample_nothing_or_one_error(text):
    parser = LineParser(2)
    parser.parse(b"1,2")
    try:
        sample = parser.parse(text.encode())
    except InputError:
        return
    assert sample is None or (sample.shape == (2,) and np.isfinite(sample).all())


@pytest.mark.parametrize("line", ["1\t-2\t3.5", "1;-2;3.5", "1 -2  3.5", " 1 ; -2 ;3.5 ", '"1"\t"-2"\t"3.5"'])
def test_tabs_semicolons_and_spaces_separate_as_well(line):
    np.testing.assert_array_equal(LineParser(3).parse(line.encode()), [1, -2, 3.5])


def test_the_header_may_be_separated_by_what_its_names_do_not_hold():
    parser = LineParser(2, ["speed, left", "load"])
    assert parser.parse(b"load\tspeed, left\ttime") is None
    np.testing.assert_array_equal(parser.parse(b"1\t2\t3"), [2, 1])
