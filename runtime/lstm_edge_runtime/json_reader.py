"""Read and check JSON; used for every JSON file."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from .errors import FileFormatError, LstmEdgeError, first_line

_MALFORMED = (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError)


def read_json(content: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not JSON, or contains NaN, infinity or an unpaired surrogate.
        RecursionError: it is nested too deeply to be printed.
    """
    value = json.loads(content if isinstance(content, str) else content.decode("utf-8-sig"))
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # raises for all but the first
    return value


@contextlib.contextmanager
def malformed_as(error_type: type[FileFormatError], what: str, advice: str) -> Iterator[None]:
    """Turn whatever reading and checking JSON raises into one error.

    Args:
        error_type: the error to raise.
        what: how its message begins: ``the manifest is malformed``.
        advice: what to do.
    """
    try:
        yield
    except LstmEdgeError:
        raise
    except KeyError as error:
        raise error_type(f"{what} (no {error}); {advice}") from error
    except _MALFORMED as error:
        raise error_type(f"{what} ({first_line(error)}); {advice}") from error
