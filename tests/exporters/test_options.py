"""Options of configurations: ranges, choices and axes, each refused in one line."""

from dataclasses import dataclass

import pytest

from lstm_edge_exporters.options import check_options, option, parse_axes, parse_input
from lstm_edge_runtime.errors import InputError


@dataclass(frozen=True)
class Config:
    """One option of each kind."""

    share: float = option(0.5, "A share.", above=0, below=1)
    steps: int = option(2, "Steps.", low=1, high=9)
    kind: str = option("a", "A kind.", choices=("a", "b"))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("share", 0, "share is 0, expected more than 0, less than 1"),
        ("share", 1.0, "share is 1.0, expected more than 0, less than 1"),
        ("steps", 0, "steps is 0, expected 1 or more, at most 9"),
        ("steps", 10, "steps is 10, expected 1 or more, at most 9"),
        ("steps", "2", "steps is '2', expected 1 or more, at most 9"),
        ("kind", "c", "kind is 'c', expected a or b"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_range(field, value, message):
    with pytest.raises(InputError) as refusal:
        check_options(Config(**{field: value}))
    assert str(refusal.value) == message


@pytest.mark.parametrize("value", [1, 9])
def test_the_ends_of_a_range_are_in_it(value):
    check_options(Config(steps=value))


def test_axes_are_positive_numbers_and_names():
    assert parse_axes("N, L,8") == ("N", "L", 8)


@pytest.mark.parametrize("text", ["N,0", "N,-1", "N,,3", "N,a-b", "N,None", ""])
def test_axes_that_are_neither_are_refused(text):
    with pytest.raises(InputError, match="neither a positive number nor a valid name"):
        parse_axes(text)


@pytest.mark.parametrize(
    ("text", "axes", "sizes", "dtype"),
    [
        ("N, L,8", ("N", "L", 8), {}, ""),
        ("N:int64", ("N",), {}, "int64"),
        ("N,L:500,8:int8", ("N", "L", 8), {"L": 500}, "int8"),
        ("N,L : 500 : bool", ("N", "L"), {"L": 500}, "bool"),
    ],
)
def test_an_input_has_axes_sizes_of_the_example_and_a_dtype(text, axes, sizes, dtype):
    declared = parse_input(text)
    assert (declared.axes, declared.sizes, declared.dtype) == (axes, sizes, dtype)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "N,L-1",
        "N,4*L:8",
        "N:int64,L",
        "N,8:8",
        "N,L:0",
        "N,L:",
        ":int64",
        "N:int99",
    ],
)
def test_an_input_in_another_notation_is_refused(text):
    with pytest.raises(InputError, match=r"^axis .* valid name|.* is not an axis; exp"):
        parse_input(text)
