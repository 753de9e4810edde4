"""Errors by cause: each inherits ``LstmEdgeError`` and a matching builtin, and says
what to do.
"""

import re

_LONGEST = 300
_LONGEST_LINE = 500
_LONGEST_READ = 2000
"""Number of characters of a foreign message that are searched for prefixes."""
_ONNXRUNTIME = (
    (r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", ""),
    (
        r"^.*Non-zero status.* running (\w+) node. Name:('.*?') Status Message: ",
        r"\1 \2: ",
    ),
    (r"\S*onnxruntime/core/\S+:\d+ [^()]*\([^()]*\)( const)? ", ""),
)
"""Prefixes of onnxruntime's messages, and their replacements."""


class LstmEdgeError(Exception):
    """Base class of all errors raised by this project; its message is safe to print."""

    def __str__(self) -> str:
        """Return the message as one line of at most 500 characters, with escape
        sequences escaped.
        """
        return shortened(printable(super().__str__()).replace("\n", "\\n"))


class InputError(LstmEdgeError, ValueError):
    """An argument, array or data file has the wrong name, rank, width, dtype or
    content.
    """


class FileFormatError(LstmEdgeError, ValueError):
    """A file is truncated, foreign or unsafe to read."""


class ManifestError(FileFormatError):
    """The manifest of a model file is required but missing, or malformed."""


class ContractError(LstmEdgeError, ValueError):
    """A model file does not keep its state contract, or its states can't be paired."""


class StateError(LstmEdgeError, ValueError):
    """A state does not belong to this model, or is used from two threads at once."""


class NotFoundError(LstmEdgeError, FileNotFoundError):
    """A path does not exist."""


class ProviderError(LstmEdgeError, RuntimeError):
    """A requested execution provider is not in use."""


class MissingDependencyError(LstmEdgeError, ImportError):
    """A package of an extra is missing; the message names the extra."""


class UnsupportedError(LstmEdgeError, ValueError):
    """A network can't be exported correctly; the message tells what to write
    instead.
    """


class CheckFailedError(LstmEdgeError, AssertionError):
    """A check failed: a file does not compute the expected results. The CLI exits with
    1.
    """

    def __str__(self) -> str:
        """Return the message, each line shortened and escaped; newlines are kept."""
        return "\n".join(map(shortened, printable(Exception.__str__(self)).split("\n")))


def counted(count: int, noun: str) -> str:
    """Return ``1 sample`` or ``1,000 samples``: a number and a noun whose plural ends
    in s.
    """
    is_singular = count == 1 or noun.endswith("s")
    return f"{count:,} {noun}" if is_singular else f"{count:,} {noun}s"


def install_command(extra: str) -> str:
    """Return the command that adds an extra; in a clone, ``./runtime`` and ``.`` are
    the two packages.
    """
    of_runtime = extra in ("cpu", "cuda", "native")
    package = "lstm-edge-runtime" if of_runtime else "lstm-edge"
    return f'pip install "{package}[{extra}]"'


def printable(text: str) -> str:
    """Return ``text`` with control, invisible and unpaired surrogate characters
    escaped; newlines stay.
    """
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def shortened(line: str) -> str:
    """Return a line of at most 500 characters: its beginning and its end."""
    if len(line) <= _LONGEST_LINE:
        return line
    return f"{line[:_LONGEST]} ... {line[_LONGEST - _LONGEST_LINE + 5 :]}"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, for use inside one of ours: at
    most 300 characters.

    An ``OSError`` gives its reason alone, onnxruntime's errors the operator and the
    node's name in front.
    """
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    # a file may have put millions of letters into it
    lines = text[:_LONGEST_READ].strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    for pattern, replacement in _ONNXRUNTIME:
        line = re.sub(pattern, replacement, line)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
