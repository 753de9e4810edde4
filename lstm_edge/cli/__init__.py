"""The command line: one module a verb, imported only when that verb is called.

A verb ends with an exit code and, where it did not do its work, one line on standard error: 0 done; 1 a check
failed; 2 wrong usage or input; 130 Ctrl-C; 143 SIGTERM; 141 whoever read the output has left, as for programs
that SIGPIPE ends. A shell gives the last three for the signals themselves.
"""

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

import click

from lstm_edge_runtime import LstmEdgeError, __version__
from lstm_edge_runtime.errors import CheckFailedError, InputError, one_line

__all__ = ["cli", "main", "run"]

_BY_SIGNAL, _SIGPIPE = 128, 13
_NAMES: dict[int, str] = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}

_VERBS = {
    "demo": "Train, export, verify and run on real sensor data.",
    "train": "Train an LSTM1 on your data.",
    "report": "Write the page of a trained run: curves, confusion matrix, mistakes, data.",
    "export": "Turn a trained network into one verified ONNX file.",
    "lift": "Give any recurrent ONNX file its states as inputs and outputs.",
    "validate": "Verify that a file computes what its reference computes.",
    "quantize": "Make a file smaller and faster: int8 or fp16, behind an accuracy gate.",
    "convert": "Turn a file into another format: ORT format for minimal builds of onnxruntime.",
    "predict": "Run a file on data.",
    "score": "Run a file on a Parquet data set of any size, in one process or on a cluster.",
    "stream": "Run a file on samples as they arrive.",
    "inspect": "Show what a file takes, gives, costs and comes from.",
    "selftest": "Verify on this device that a file computes what it should.",
    "bench": "Measure files on this machine, side by side.",
    "doctor": "Show what this machine can run, and what to install for what it can't.",
}
"""Each verb's module is ``lstm_edge.cli.<verb>`` and holds a click command named ``command``."""


class _LazyGroup(click.Group):
    """Knows its verbs by name; imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _VERBS:
            return None
        command: click.Command = import_module(f"{__name__}.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] == "tune":
            raise InputError("tune is gone; lstm-edge bench MODELS prints the fastest engine and threads")
        if args and args[0] not in _VERBS and not args[0].startswith("-"):
            close = get_close_matches(args[0], _VERBS, n=1)
            advice = f"did you mean {close[0]!r}?" if close else f"the verbs are {', '.join(_VERBS)}"
            raise InputError(f"no verb {args[0]!r}; {advice}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(_VERBS.items()))


@click.group(
    cls=_LazyGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 110,
        "show_default": True,
    },
)
@click.version_option(__version__, prog_name="lstm-edge")
def cli() -> None:
    """Take a recurrent PyTorch network to the edge: train, export, verify, run.

    \b
    Example:
      lstm-edge demo
      lstm-edge export runs/har -o har.onnx
    """  # noqa: D301


def main() -> None:
    """Run the command line."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller: the next file opened would take its number
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115
    if "_LSTM_EDGE_COMPLETE" in os.environ:
        cli.main()
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(
            signal.SIGINT, signal.SIG_DFL
        )  # before and after ``run``: no traceback of Python's start
    sys.exit(run(cli, sys.argv[1:]))


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
