"""Ranges of ``--input``."""

import pytest

from lstm_edge.cli._factory import parse_range
from lstm_edge_runtime.errors import InputError


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("16..", {1: 16, 16: 16, 999: 999}),
        ("16..4096:4", {1: 16, 17: 20, 18: 20, 5000: 4096}),
        ("3..10:4", {1: 4, 9: 8, 8: 8}),
        ("1..200", {1: 1, 201: 200}),
    ],
)
def test_a_range_reads_its_own_text_and_gives_the_nearest_size(text, sizes):
    limits = parse_range(text)
    assert str(limits) == text
    assert {size: limits.nearest(size) for size in sizes} == sizes


@pytest.mark.parametrize("text", ["", "16", "..9", "a..b", "9..8", "5..7:4", "1..:0", "-1.."])
def test_a_text_that_is_no_range_is_refused(text):
    with pytest.raises(InputError, match="expected LEAST"):
        parse_range(text)
