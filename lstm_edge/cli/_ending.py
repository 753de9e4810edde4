"""How a verb ends: its exit code and, where it did not do its work, one line on standard error.

0 done; 1 a check failed; 2 wrong usage or input; 130 Ctrl-C; 143 SIGTERM; 141 whoever read the output has
left, as for programs that SIGPIPE ends. A shell gives the last three for the signals themselves.
"""

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence

import click

from lstm_edge_runtime import LstmEdgeError
from lstm_edge_runtime.errors import CheckFailedError, one_line

__all__ = ["run"]

_BY_SIGNAL, _SIGPIPE = 128, 13
_NAMES: dict[int, str] = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


def run(group: click.Group, arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code; must be called on the main thread."""
    came: list[int] = []

    def stop(number: int, _: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _NAMES}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as nohup and a shell's & leave it
            signal.signal(number, stop)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _note
            code, line = _run(group, arguments)
    except BaseException:
        if not came:
            raise
        code, line = 0, ""
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:  # whatever a library made of the exception
        line = f"stopped by {_NAMES[came[0]]}" + (f": {line}" if code == _BY_SIGNAL and line else "")
        code = _BY_SIGNAL + came[0]
    if line:
        with contextlib.suppress(OSError):
            click.echo(one_line(line), err=True)
    return code


def _note(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning as one line."""
    click.echo(one_line(f"note: {message}"), err=True)


def _run(group: click.Group, arguments: Sequence[str]) -> tuple[int, str]:
    """Return the exit code and what to say; ``_BY_SIGNAL`` for KeyboardInterrupt, with its message."""
    try:
        try:
            with group.make_context("lstm-edge", list(arguments)) as context:
                group.invoke(context)
        finally:
            sys.stdout.flush()  # here a full disk is an error like others; at Python's end it would be noise
    except click.exceptions.Exit as error:
        return error.exit_code, ""
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2, ""
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "lstm-edge"
        return 2, f"error: {error.format_message().rstrip('.')}; see {path} --help"
    except LstmEdgeError as error:
        return 1 if isinstance(error, CheckFailedError) else 2, f"error: {error}"
    except KeyboardInterrupt as error:
        return _BY_SIGNAL, str(error)
    except MemoryError:
        return 2, "error: there is not enough memory; free some, or give less at once"
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still in the buffer has nowhere to go
        return (_BY_SIGNAL + _SIGPIPE, "") if isinstance(error, BrokenPipeError) else (2, f"error: {error}")
    return 0, ""
