"""Names from a model, as they are written in file names and in each language of a target.

Names in an ONNX file may be any text. HTML is escaped where pages are made (``render``), XML in JUnit's
report, and a terminal's lines in ``errors.printable``.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from lstm_edge_runtime.errors import InputError

if TYPE_CHECKING:
    from jinja2 import Environment

_KEYWORDS = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t char32_t class
co_await co_return co_yield compl concept const const_cast consteval constexpr constinit continue decltype
default delete do double dynamic_cast else enum explicit export extern false float for friend goto if inline
int long mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public
register reinterpret_cast requires restrict return short signed sizeof static static_assert static_cast
struct switch template this thread_local throw true try typedef typeid typename typeof typeof_unqual union
unsigned using virtual void volatile wchar_t while xor xor_eq
"""
"""The keywords of C23 and C++20."""
_HEADERS = """
arduino assert complex ctype errno fenv float inttypes iso646 limits locale main math setjmp signal stdalign
stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time uchar wchar
wctype
"""
"""Names of headers that there are already, and of the example."""
_CMAKE_TARGETS = """
all all_build clean edit_cache help install package package_source preinstall rebuild_cache run_tests test
zero_check
"""
"""Names of targets that CMake keeps for itself (policy CMP0037)."""


def text_templates(package: str) -> "Environment":
    """Return a package's templates of text other than HTML, in which names go through this module."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(  # noqa: S701
        loader=PackageLoader(package),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def json_text(document: Any) -> str:
    """Return JSON in ASCII, which JavaScript reads as an expression too."""
    return json.dumps(document, ensure_ascii=True, allow_nan=False)


def c_string(text: str) -> str:
    """Return a string of C, quotes included: UTF-8, all but plain characters by their octal codes."""
    plain = set(range(0x20, 0x7F)) - set(b'"\\?')
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode()) + '"'


def c_identifiers(texts: Iterable[str]) -> Iterator[str]:
    """Yield an ending of an identifier for each text, all different.

    Accents are dropped and other characters that C doesn't allow become ``_``; the index of the text is
    appended if nothing is left or two texts have become the same.
    """
    used: set[str] = set()
    for place, text in enumerate(texts):
        plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
        ending = re.sub(r"[^A-Za-z0-9_]+", "_", plain)
        if not ending.strip("_") or ending in used:
            ending = f"{ending}_{place}".lstrip("_")
        while ending in used:
            ending += "_"
        used.add(ending)
        yield ending


def c_identifier(name: str, what: str, advice: str) -> str:
    """Return ``name`` if it is an identifier of C and C++.

    Raises:
        InputError: it is not, or a keyword.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name, re.ASCII):
        raise InputError(
            f"{what} is {name!r}, which is no C identifier (ASCII letters, digits and '_', a letter first); "
            f"{advice}"
        )
    if name in _KEYWORDS.split():
        raise InputError(f"{what} is {name!r}, which is a keyword of C or C++; {advice}")
    return name


def check_project_name(name: str, advice: str) -> None:
    """Refuse an identifier that can't be the name of a header and of a target of CMake.

    Raises:
        InputError: a header or a target has it already.
    """
    if name.lower() in _HEADERS.split():
        raise InputError(f"the model's name is {name!r}, and {name}.h is taken; {advice}")
    if name.lower() in _CMAKE_TARGETS.split():
        raise InputError(f"the model's name is {name!r}, which CMake reserves for its own target; {advice}")
