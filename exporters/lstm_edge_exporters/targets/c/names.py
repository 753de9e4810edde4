"""Valid C names for the names of a model."""

import re
import unicodedata
from collections.abc import Iterable, Iterator

from lstm_edge_runtime.errors import InputError

_KEYWORDS = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t char32_t class
co_await co_return co_yield compl concept const const_cast consteval constexpr constinit continue decltype
default delete do double dynamic_cast else enum explicit export extern false float for friend goto if inline
int long mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public
register reinterpret_cast requires restrict return short signed sizeof static static_assert static_cast
struct switch template this thread_local throw true try typedef typeid typename typeof typeof_unqual union
unsigned using virtual void volatile wchar_t while xor xor_eq
assert complex ctype errno fenv limits locale math setjmp signal stddef stdint stdio stdlib string time wchar
"""
"""The keywords of C23 and C++20, and headers."""
_OURS = ("lc", "lstm_edge_core")
"""Prefix and file of the core that comes with each network."""


def c_string(text: str) -> str:
    """Return a string of C, quotes included: UTF-8, all but plain characters by their
    octal codes.
    """
    unescaped = set(range(0x20, 0x7F)) - set(b'"\\?')
    return (
        '"'
        + "".join(
            chr(byte) if byte in unescaped else f"\\{byte:03o}"
            for byte in text.encode()
        )
        + '"'
    )


def c_identifiers(texts: Iterable[str]) -> Iterator[str]:
    """Yield an ending of an identifier for each text, all different.

    Accents are dropped and other characters that C doesn't allow become ``_``; the
    index of the text is appended if nothing is left or two texts have become the same.
    """
    used: set[str] = set()
    for index, text in enumerate(texts):
        ascii_text = (
            unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
        )
        ending = re.sub(r"[^A-Za-z0-9_]+", "_", ascii_text)
        if not ending.strip("_") or ending in used:
            ending = f"{ending}_{index}".lstrip("_")
        while ending in used:
            ending += "_"
        used.add(ending)
        yield ending


def member(ending: str) -> str:
    """Return the ending of an identifier as a name of its own."""
    if ending[0].isdigit():
        return f"_{ending}"
    return f"{ending}_" if ending in _KEYWORDS.split() else ending


def model_name(text: str) -> str:
    """Return the prefix for a model called ``text``, with ``-``, ``.`` and spaces as
    ``_``.

    Raises:
        InputError: it is not an identifier, or is a keyword or header of C or C++, or a name of
            the core.
    """
    name = re.sub(r"[-. ]", "_", text)
    why = None
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name, re.ASCII):
        why = "no C identifier (ASCII letters, digits and '_', a letter first)"
    elif name in _KEYWORDS.split():
        why = "a keyword or a header of C or C++"
    elif name in _OURS:
        why = "a name of the core that comes with it"
    if why is not None:
        raise InputError(
            f"the model's name is {name!r}, which is {why}; rename the file or give"
            " --name"
        )
    return name
