"""Run another program that ends with this process, however this one ends."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_WATCH = """
import os, signal, subprocess, sys, threading
program = subprocess.Popen(sys.argv[2:], start_new_session=True)
def watch():
    os.read(int(sys.argv[1]), 1)
    os.killpg(program.pid, signal.SIGKILL)
    os._exit(1)
threading.Thread(target=watch, daemon=True).start()
os._exit(program.wait() % 256)
"""
"""Ends the program and all that it started when the pipe in its first argument is closed, as it is where the
process at the other end is killed."""


def run_program(
    command: Sequence[str],
    given: bytes = b"",
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> "subprocess.CompletedProcess[bytes]":
    """Run a program to its end and return its exit code and what it wrote.

    A killed or interrupted process leaves no program running (on POSIX systems).

    Args:
        command: the program and its arguments.
        given: its standard input.
        folder: where it runs; here if None.
        environment: its environment; this process's if None.

    Raises:
        OSError: it can't be started.
    """
    if os.name != "posix":
        return subprocess.run(  # noqa: S603
            command, input=given, capture_output=True, check=False, cwd=folder, env=environment
        )
    if shutil.which(command[0], path=(environment or os.environ).get("PATH")) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command[0])
    readable, writable = os.pipe()
    try:
        watched = subprocess.Popen(  # noqa: S603  our own interpreter and program
            [sys.executable, "-ISc", _WATCH, str(readable), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(readable,),
            cwd=folder,
            env=environment,
        )
    except BaseException:
        os.close(writable)
        raise
    finally:
        os.close(readable)
    with watched:
        try:
            out, err = watched.communicate(given)
        finally:
            os.close(writable)
    return subprocess.CompletedProcess(command, watched.returncode, out, err)
