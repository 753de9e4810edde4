"""Arguments of operations: the table is what the header of the format describes."""

import re
from pathlib import Path

import pytest

from lstm_edge_exporters.targets.native.operations import (
    ACTIVATIONS,
    FIELDS,
    RECURRENT,
    Code,
    Operation,
    Role,
)
from lstm_edge_exporters.targets.native.program import Binary, Function

HEADER = Path(__file__).parents[4] / "native" / "include" / "lstm_edge_format.h"
MARKS = {"const ": {Role.CONSTANT}, "f ": {Role.FLOAT}}
NUMBERS = {"stored", "flags", "shared", "swap", "logarithm"}
"""Arguments that the header describes by a sentence."""


def described(name):
    """Return index, mark and words of each argument in the comment before a code."""
    text = HEADER.read_text()
    codes = text[text.index("Arguments, by index.") :]
    end = codes.index(f"LE_{name} =")
    comment = " ".join(codes[codes.rindex("/*", 0, end) : end].split())
    found = re.findall(r"(?<![\w.+-])(\d+) (const |f )?([A-Za-z_][\w ]*)?", comment)
    arguments: dict[int, tuple[str, str]] = {}
    for index, mark, words in found:  # numbers of explanations come later
        arguments.setdefault(int(index), (mark, words.strip()))
    return arguments


@pytest.mark.parametrize("code", [c for c in Code if c not in RECURRENT], ids=str)
def test_arguments_have_the_places_and_roles_that_the_header_gives(code):
    arguments = described(code.name)
    for index, field in enumerate(FIELDS[code]):
        mark, _ = arguments[index]
        is_buffer = field.role in (Role.READ, Role.WRITE)
        expected = MARKS.get(mark, {Role.READ, Role.WRITE, Role.NUMBER})
        assert field.role in expected, (index, field)
        assert not is_buffer or field.name not in NUMBERS
    written = [index for index, (_, words) in arguments.items() if words == "out"]
    writes = [i for i, field in enumerate(FIELDS[code]) if field.role is Role.WRITE]
    assert writes == written[:1]


def test_layers_have_the_arguments_that_the_header_gives():
    arguments = described("LSTM")
    names = [field.name for field in FIELDS[Code.LSTM]]
    by_index = {index: words for index, (_, words) in arguments.items()}
    words = ["x", "h", "c", "new h", "new c", "W", "R", "bias or NONE"]
    assert [by_index[index] for index in range(8)] == words
    assert names[:8] == ["x", "h", "c", "new_h", "new_c", "w", "r", "bias"]
    assert by_index[8].startswith("W scales")
    assert by_index[10] == "flags"
    text = " ".join(HEADER.read_text().split())
    assert "11 + 3i kind, 12 + 3i f alpha, 13 + 3i f beta" in text
    for number in range(ACTIVATIONS):
        first = 11 + 3 * number
        expected = [f"{name}_{number}" for name in ("kind", "alpha", "beta")]
        assert names[first : first + 3] == expected
    assert names[20:] == ["w_stored", "r_stored", "shared"]


@pytest.mark.parametrize(
    "kind", [Code, Function, Binary], ids=lambda kind: kind.__name__
)
def test_codes_have_the_numbers_of_the_header(kind):
    last = {Code: "le_code", Function: "le_function", Binary: "le_binary"}[kind]
    text = HEADER.read_text()
    start = text.rindex("typedef enum {", 0, text.index(f"}} {last};"))
    body = re.sub(r"/\*.*?\*/", "", text[start : text.index(f"}} {last};")], flags=re.S)
    names = re.findall(r"\bLE_(\w+)", body)
    counted = [name for name in names if name not in ("FUNCTIONS", "BINARIES")]
    assert counted == [member.name for member in kind]
    assert [member.value for member in kind] == list(
        range(int(kind is Code), len(kind) + int(kind is Code))
    )


def test_an_operation_names_its_arguments_and_buffers():
    none = 0xFFFFFFFF
    operation = Operation(Code.BINARY, (3, none, 7, 4, 1, 0, *[0] * 25))
    assert operation.argument("constant") == 7
    assert operation.reads == [3]
    assert operation.writes == [4]


def test_the_core_for_microcontrollers_and_the_library_share_no_names():
    native = HEADER.parents[1]
    core = [*(native / "core").glob("*.[ch]")]
    library = [*(native / "src").glob("*.[ch]"), *(native / "include").glob("*.h")]
    prefixes = {"lc": core, "le": library}
    for prefix, other in (("lc", library), ("le", core)):
        pattern = re.compile(rf"\b{prefix}_\w+", re.IGNORECASE)
        assert any(pattern.search(path.read_text()) for path in prefixes[prefix])
        found = {name for path in other for name in pattern.findall(path.read_text())}
        assert found == set()
