"""The command line: one module a verb, imported only when that verb is called."""

import os
import signal
import sys
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

import click

from lstm_edge_runtime import __version__
from lstm_edge_runtime.errors import InputError

from ._ending import run

__all__ = ["cli", "main"]

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
    "tune": "Find the settings that serve a goal on this machine.",
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
        if args and args[0] not in _VERBS and not args[0].startswith("-"):
            close = get_close_matches(args[0], _VERBS, n=1)
            advice = f"did you mean {close[0]!r}?" if close else f"the verbs are {', '.join(_VERBS)}"
            raise InputError(f"no verb {args[0]!r}; {advice}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(_VERBS.items()))


@click.group(
    cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
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
    """Run the command line; see ``_ending`` for what its exit codes are."""
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
