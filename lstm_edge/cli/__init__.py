"""The command line: one module per verb, imported only when that verb is called.

A verb ends with an exit code and, if it failed, one line on standard error: 0 success;
1 a check failed; 2 wrong usage or input; 130 Ctrl-C; 143 SIGTERM; 141 broken pipe. The
last three are the exit codes that a shell reports for SIGINT, SIGTERM and SIGPIPE.
"""

import contextlib
import errno
import gc
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import click

from lstm_edge_exporters.suggest import did_you_mean
from lstm_edge_runtime import LstmEdgeError, __version__
from lstm_edge_runtime.errors import CheckFailedError, InputError

from ._output import echo_prose

__all__ = ["cli", "main", "run"]

_BY_SIGNAL = 128
_SIGPIPE = 13
_OF_WRITING = (errno.ENOSPC, errno.EBADF)
"""A full disk, and a closed file."""
_NAMES: dict[int, str] = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}

_VERBS = {
    "demo": "Train, export, verify and run on real sensor data.",
    "train": "Train an LSTM1 on your data.",
    "export": "Export a PyTorch network to one verified ONNX file.",
    "lift": "Turn the hidden states of a recurrent ONNX file into inputs and outputs.",
    "validate": "Verify that a file computes the same as its reference.",
    "quantize": "Quantize a file to int8 or fp16, with an accuracy gate.",
    "convert": "Convert a file to another format: native, C, web page.",
    "predict": "Run a model on data.",
    "score": "Run a model on a folder of Parquet files of any size.",
    "stream": "Run a model on samples as they arrive.",
    "inspect": "Show a file's inputs, outputs, states and provenance.",
    "selftest": "Verify a file's results on this device.",
    "bench": "Measure the time of a step on this machine.",
    "doctor": "Check this machine and installation, and list what to install.",
}
"""Each verb's module is ``lstm_edge.cli.<verb>`` and defines a click command named
``command``."""


class _LazyGroup(click.Group):
    """A group that imports a verb's module when the verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of all verbs."""
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the module of a verb and return its command."""
        if cmd_name not in _VERBS:
            advice = did_you_mean(cmd_name, _VERBS) or "see lstm-edge --help"
            raise InputError(f"no verb {cmd_name!r}; {advice}")
        command: click.Command = import_module(f"{__name__}.{cmd_name}").command
        return command

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        """List the verbs in the help without importing their modules."""
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
    """Export a PyTorch LSTM, GRU or RNN to ONNX with explicit states, verify it, and
    run streaming inference.

    \b
    Example:
      lstm-edge demo
      lstm-edge export runs/har -o har.onnx
    """  # noqa: D301


def main() -> None:
    """Run the command line."""
    # closed by the caller: the next file opened would get its number
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115
    if sys.stdout is None:  # writing fails, as on any closed file
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    if "_LSTM_EDGE_COMPLETE" in os.environ:  # set by the shell's completion
        cli.main()
    gc.set_threshold(
        50_000
    )  # importing torch and onnx makes objects by the million, and none is garbage
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(
            signal.SIGINT, signal.SIG_DFL
        )  # around ``run``: no traceback as Python starts or ends
    sys.exit(run(cli, sys.argv[1:]))


def run(group: click.Group, arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code; must be called on the main
    thread.
    """
    received: list[int] = []

    def stop(number: int, _: object) -> None:
        """Remember the signal; ``KeyboardInterrupt`` ends the verb."""
        received.append(number)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _NAMES}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as nohup and a shell's & leave it
            signal.signal(number, stop)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: echo_prose(
                f"note: {message}"
            )
            code, line = _run(group, arguments)
    except BaseException:
        if not received:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:  # even if a library caught the exception
        code = _BY_SIGNAL + received[0]
        line = f"stopped by {_NAMES[received[0]]}"
    if line:
        with contextlib.suppress(OSError):
            echo_prose(line)
    return code


def _run(group: click.Group, arguments: Sequence[str]) -> tuple[int, str]:
    """Return the exit code and the message."""
    try:
        try:
            with group.make_context("lstm-edge", list(arguments)) as context:
                group.invoke(context)
        finally:
            # a full disk is an ordinary error here, but would print a traceback at exit
            sys.stdout.flush()
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
    except MemoryError:
        return 2, "error: not enough memory; free some, or use smaller inputs"
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # discard the rest of the buffer
        return (
            (_BY_SIGNAL + _SIGPIPE, "")
            if isinstance(error, BrokenPipeError)
            else (2, f"error: {_about(error)}")
        )
    return 0, ""


def _about(error: OSError) -> str:
    """Return an error of the system; one of writing without a name is standard
    output's.
    """
    is_output = error.errno in _OF_WRITING and error.filename is None
    return (
        f"can't write to standard output: {error.strerror}" if is_output else str(error)
    )
