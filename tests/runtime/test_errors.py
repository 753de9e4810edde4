import inspect

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lstm_edge_runtime import errors, load
from lstm_edge_runtime.errors import (
    CheckFailedError,
    LstmEdgeError,
    NotFoundError,
    printable,
)

LEAVES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, LstmEdgeError)
]


@pytest.mark.parametrize("error", LEAVES)
def test_a_message_never_carries_what_a_terminal_obeys(error):
    message = str(
        error("labels \x1b[2J\x07 of \u202egnp.exe and \udce9, expected text")
    )
    assert (
        message == "labels \\x1b[2J\\x07 of \\u202egnp.exe and \\udce9, expected text"
    )
    several = error is CheckFailedError
    assert str(error("läuft ✓ on two\nlines")) == (
        "läuft ✓ on two\nlines" if several else "läuft ✓ on two\\nlines"
    )
    assert len(str(error("x" * 9000))) == 500
    assert str(error("begin" + "x" * 9000 + "end")).startswith("begin")
    assert str(error("begin" + "x" * 9000 + "end")).endswith("end")


def test_a_file_name_can_not_write_to_the_terminal(tmp_path):
    with pytest.raises(
        NotFoundError, match=r"\\x1b\]0;title\\x07\.onnx does not exist"
    ):
        load(tmp_path / "\x1b]0;title\x07.onnx")


@example("a\n\x07")
@given(st.text(alphabet=st.characters()))
def test_what_is_printable_can_be_encoded_and_stays_as_it_is(text):
    safe = printable(text)
    safe.encode()
    assert printable(safe) == safe
    assert all(character.isprintable() or character == "\n" for character in safe)
    assert safe.count("\n") == text.count("\n")
