import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge.cli._line import FrameParser, LineParser
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
        np.testing.assert_array_equal(LineParser(3, names).parse(line), values)


def test_a_header_picks_the_columns_by_the_feature_names():
    parser = LineParser(2, ["a", "b"])
    assert parser.parse('"t","b","a"\n') is None
    np.testing.assert_array_equal(parser.parse("99,1,2"), [2, 1])
    np.testing.assert_array_equal(parser.parse("not a time,1,2"), [2, 1])


def test_quoted_cells_may_hold_commas():
    parser = LineParser(2, ["a, left", 'b "x"'])
    assert parser.parse('"b ""x""", "a, left"\n') is None
    np.testing.assert_array_equal(parser.parse('1, "2"'), [2, 1])


@pytest.mark.parametrize("line", ["1.5,2", "256,2", "-1,2", "[1e30, 2]"])
def test_a_whole_number_is_not_made_of_what_is_none(line):
    parser = LineParser(2, dtype="uint8")
    np.testing.assert_array_equal(parser.parse("255,2.0"), np.array([255, 2], np.uint8))
    with pytest.raises(InputError, match="expected finite uint8 numbers"):
        parser.parse(line)


def test_an_unknown_header_of_the_right_width_is_skipped_and_only_at_the_start():
    parser = LineParser(2, ["a", "b"])
    assert parser.parse("\ufeffp,q") is None
    np.testing.assert_array_equal(parser.parse("1,2"), [1, 2])
    with pytest.raises(InputError, match="expected numbers, got 'p'"):
        parser.parse("p,q")


def test_blank_lines_are_nothing():
    parser = LineParser(1)
    assert parser.parse("\n") is None
    assert parser.parse("h\n") is None
    np.testing.assert_array_equal(parser.parse("3"), [3])


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
        ("[1, true]", "got true"),
        ('[1, "2"]', 'got "2"'),
        ("[1, [2]]", "got"),
        ("[1, 2", "not JSON"),
        ('{"a": 1}', "b missing"),
        ("[" * 100_000, "not JSON"),
        ("[" + "9" * 400 + ", 1]", "too large"),
        ("[" + "9" * 5000 + ", 1]", "not JSON"),
        ("p,q,r", "the header has p, q, r; expected a, b"),
    ],
)
def test_a_malformed_line_says_how(line, words):
    with pytest.raises(InputError, match=words) as caught:
        LineParser(2, ["a", "b"]).parse(line)
    assert len(str(caught.value)) < 300


def test_an_object_needs_feature_names():
    with pytest.raises(InputError, match="send a list"):
        LineParser(1).parse('{"a": 1}')


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_no_text_does_anything_but_give_a_sample_nothing_or_one_error(text):
    parser = LineParser(2)
    parser.parse("1,2")
    try:
        sample = parser.parse(text)
    except InputError:
        return
    assert sample is None or (sample.shape == (2,) and np.isfinite(sample).all())


@pytest.mark.parametrize("line", ["1\t-2\t3.5", "1;-2;3.5", "1 -2  3.5", " 1 ; -2 ;3.5 ", '"1"\t"-2"\t"3.5"'])
def test_tabs_semicolons_and_spaces_separate_as_well(line):
    np.testing.assert_array_equal(LineParser(3).parse(line), [1, -2, 3.5])


def test_the_header_may_be_separated_by_what_its_names_do_not_hold():
    parser = LineParser(2, ["speed, left", "load"])
    assert parser.parse("load\tspeed, left\ttime") is None
    np.testing.assert_array_equal(parser.parse("1\t2\t3"), [2, 1])


def test_binary_data_are_named_and_read_when_said_so():
    raw = np.array([1.5, -2, 3], np.float32).tobytes()
    with pytest.raises(InputError, match="binary data, expected text; use --binary float32"):
        LineParser(3).parse_bytes(raw)
    parser = FrameParser(3, "float32")
    np.testing.assert_array_equal(parser.parse_bytes(raw), [1.5, -2, 3])
    np.testing.assert_array_equal(
        FrameParser(2, "int16", "int64").parse_bytes(np.array([7, -7], np.int16).tobytes()), [7, -7]
    )
    with pytest.raises(InputError, match="expected 12 bytes, 3 of float32, got 11"):
        parser.parse_bytes(raw[:-1])
    with pytest.raises(InputError, match="expected finite float32 numbers, got nan"):
        parser.parse_bytes(np.array([1, np.nan, 2], np.float32).tobytes())
