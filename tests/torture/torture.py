"""Kill, interrupt and starve every verb that writes, at random moments, and look at what is left.

``python tests/torture/torture.py --kills 500`` runs each verb in a child process whose target holds an older
result, and ends it: by SIGKILL, SIGINT or SIGTERM at a random moment, by a reader of its output that has
left, by a full disk, by a full standard output, in a folder that can't be written. Afterwards the target
must be whole, the old result or the new one; no child may be left; the exit code and what is printed must be
what the manual says; and after the next undisturbed run no temporary file may be left beside it. The seed is
printed.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from lstm_edge.cli import cli, run

Check = Callable[[Path], None]
"""Raises where a target is not whole."""
PATIENCE = 120.0
"""Seconds after which a child counts as hanging."""


@dataclass(frozen=True)
class Verb:
    """A verb that writes, its arguments with ``{out}`` for its folder, and what it writes there."""

    arguments: tuple[str, ...]
    targets: dict[str, Check]
    stdin: bytes = b""
    ends_cleanly: bool = False
    """Whether signals and readers that left are a normal end."""
    needs: str = ""
    """A program without which it is left out."""


@dataclass
class Tally:
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


# --- what is whole


def _model(path: Path) -> None:
    from lstm_edge_runtime import load

    with load(path) as model:
        model.selftest().require()


def _json(path: Path) -> None:
    json.loads(path.read_text(encoding="utf-8"))


def _ends(text: str) -> Check:
    def check(path: Path) -> None:
        found = path.read_text(encoding="utf-8")
        assert found.rstrip().endswith(text), f"{path} ends in {found[-40:]!r}"

    return check


def _lines(count: int) -> Check:
    def check(path: Path) -> None:
        found = path.read_text(encoding="utf-8")
        assert found.count("\n") == count, f"{path} has {found.count(chr(10))} lines, expected {count}"

    return check


def _run_folder(path: Path) -> None:
    from lstm_edge.checkpoint import load
    from lstm_edge.run_files import METRICS, MODEL, REPORT, RESUME
    from lstm_edge.training.train import read_configs

    if (path / RESUME).exists():
        read_configs(path)
    if (path / MODEL).exists():
        load(path)
    for name, check in ((METRICS, _json), (REPORT, _ends("</html>"))):
        if (path / name).exists():
            check(path / name)


def _c_folder(path: Path) -> None:
    names = {each.name for each in path.rglob("*")}
    assert {"CMakeLists.txt", "src"} <= names, names


def _state(path: Path) -> None:
    from lstm_edge_runtime import State

    State.load(path)


def _exists(path: Path) -> None:
    assert path.stat().st_size


# --- the files that verbs are run on


def prepare(folder: Path) -> dict[str, Verb]:
    """Make the inputs in ``folder`` and return the verbs."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 12, 3)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=np.array(["rest", "walk", "run"] * 8))
    data, model = str(folder / "data.npz"), str(folder / "model.onnx")
    train = ("train", data, "--hidden-size", "16", "--batch-size", "8", "--epochs")
    _undisturbed((*train, "3", "-o", str(folder / "run")))
    _undisturbed(("export", str(folder / "run"), "-o", model))
    _foreign(folder / "foreign.onnx")
    _undisturbed(("convert", model, "-o", str(folder / "model.lep")))
    onnx_target = {"m.onnx": _model}
    return {
        "train": Verb((*train, "40", "-o", "{out}/run"), {"run": _run_folder}),
        "train --overwrite": Verb(
            (*train, "40", "-o", "{out}/run", "--overwrite"), {"run": _run_folder}
        ),
        "report": Verb(("report", "{out}/run"), {"run": _run_folder}),
        "export": Verb(("export", str(folder / "run"), "-o", "{out}/m.onnx"), onnx_target),
        "lift": Verb(("lift", str(folder / "foreign.onnx"), "-o", "{out}/m.onnx"), {"m.onnx": _loads}),
        "quantize": Verb(
            ("quantize", model, "--weights-only", "--data", data, "-o", "{out}/m.onnx"), onnx_target
        ),
        "convert": Verb(("convert", model, "-o", "{out}/m.lep"), {"m.lep": _loads}),
        "convert --to c": Verb(
            ("convert", model, "--to", "c", "-o", "{out}/c", "--name", "har"),
            {"c": _c_folder}, needs="cc",
        ),
        "predict": Verb(("predict", model, data, "-o", "{out}/p.csv"), {"p.csv": _lines(25)}),
        "stream --state": Verb(
            ("stream", model, "--state", "{out}/s.npz", "--save-every", "0"),
            {"s.npz": _state}, stdin=b"1,2,3\n" * 300, ends_cleanly=True,
        ),
        "validate": Verb(
            ("validate", model, "--against", str(folder / "run"), "--quick", "--steps", "100",
             "--html", "{out}/v.html", "--junit", "{out}/v.xml"),
            {"v.html": _ends("</html>"), "v.xml": _ends("</testsuites>")},
        ),
    }  # fmt: skip


def _loads(path: Path) -> None:
    from lstm_edge_runtime import load

    load(path).close()


def _foreign(path: Path) -> None:
    """Write an LSTM as others export it: its states start from zeros inside the graph."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(2)
    stored = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32) / 8, name)
        for name, shape in (("W", (1, 64, 3)), ("R", (1, 64, 16)), ("K", (16, 2)))
    ]
    stored.append(numpy_helper.from_array(np.array([0]), "axis"))
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["t", "W", "R"], ["", "h"], hidden_size=16),
        helper.make_node("Squeeze", ["h", "axis"], ["last"]),
        helper.make_node("MatMul", ["last", "K"], ["logits"]),
    ]
    ends = (("x", ["N", "L", 3]), ("logits", ["N", 2]))
    given, told = (helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name, axes in ends)
    graph = helper.make_graph(nodes, "g", [given], [told], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def _undisturbed(arguments: tuple[str, ...], stdin: bytes = b"") -> float:
    """Run a verb to its end in a child process; returns its seconds."""
    began = time.monotonic()
    child = Child(arguments, stdin)
    code, out, err = child.wait()
    if code:
        raise RuntimeError(f"{arguments}: exit {code}: {out[-500:]}{err[-500:]}")
    return time.monotonic() - began


class Child:
    """A verb in a forked process: everything is imported, so that the moments fall into its work."""

    def __init__(
        self,
        arguments: tuple[str, ...],
        stdin: bytes = b"",
        *,
        stdout: int | None = None,
        file_size: int | None = None,
    ) -> None:
        self.said = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  closed in wait
        given = tempfile.TemporaryFile()  # noqa: SIM115
        given.write(stdin)
        given.seek(0)
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                os.setsid()
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.dup2(given.fileno(), 0)
                os.dup2(self.said[0].fileno() if stdout is None else stdout, 1)
                os.dup2(self.said[1].fileno(), 2)
                sys.stdin, sys.stdout, sys.stderr = (
                    io.TextIOWrapper(os.fdopen(number, mode), encoding="utf-8", line_buffering=number == 2)
                    for number, mode in ((0, "rb"), (1, "wb"), (2, "wb"))
                )
                if file_size is not None:
                    import resource

                    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
                    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                code = run(cli, list(arguments))
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 98
            except BaseException:  # noqa: BLE001
                os.write(2, traceback.format_exc().encode())
            finally:
                with contextlib.suppress(Exception):
                    sys.stdout.flush()
                os._exit(code)

    def wait(self) -> tuple[int, str, str]:
        """Return its exit code, negative for a signal, and what it printed."""
        until = time.monotonic() + PATIENCE
        while not (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                return 97, "", "it hung"
            time.sleep(0.002)
        texts = []
        for file in self.said:
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
            file.close()
        return os.waitstatus_to_exitcode(ended[1]), texts[0], texts[1]

    def left_behind(self) -> list[str]:
        """Return the commands of processes that are left of its session."""
        found = []
        for _ in range(100):  # they may take a moment
            listed = subprocess.run(
                ["ps", "-eo", "sid=,stat=,args="], capture_output=True, text=True, check=True
            ).stdout.splitlines()
            found = [
                line for line in listed if int(line.split()[0]) == self.pid and "Z" not in line.split()[1]
            ]
            if not found:
                break
            time.sleep(0.05)
        return found


# --- the torture


class Torture:
    """Runs verbs in one folder and notes what is wrong."""

    def __init__(self, place: Path, verbs: dict[str, Verb], seed: int) -> None:
        self.place, self.verbs, self.random = place, verbs, Random(seed)
        self.tally = Tally()
        self.seconds: dict[str, float] = {}
        self.outs: dict[str, Path] = {}

    def _fault(self, what: str) -> None:
        self.tally.faults.append(what)
        print(f"FAULT {what}", flush=True)

    def _arguments(self, name: str, out: Path) -> tuple[str, ...]:
        return tuple(each.replace("{out}", str(out)) for each in self.verbs[name].arguments)

    def _out(self, name: str) -> Path:
        """Return the folder of a verb with an earlier, whole result in it."""
        if name not in self.outs:
            out = self.place / name.replace(" ", "_")
            out.mkdir()
            if name == "report":
                shutil.copytree(self.place / "run", out / "run")
            self.seconds[name] = _undisturbed(self._arguments(name, out), self.verbs[name].stdin)
            self.outs[name] = out
        return self.outs[name]

    def weight(self, name: str) -> float:
        """Return how often a verb is drawn: the more often the less it takes."""
        self._out(name)
        return self.seconds[name] ** -0.5

    def _look(self, name: str, out: Path, what: str) -> None:
        """Check that every target is whole."""
        for target, check in self.verbs[name].targets.items():
            path = out / target
            try:
                if not path.exists():
                    assert name == "train", "it is lost"  # a new run, killed before anything was written
                    continue
                if name == "train" and not (path / "model.safetensors").exists():
                    continue
                check(path)
            except Exception as error:  # noqa: BLE001  whatever it is, it is not whole
                self._fault(f"{name}, {what}: {target}: {error!r:.300}")

    def next_run(self, name: str) -> None:
        """Run a verb undisturbed and look for litter."""
        out = self._out(name)
        if name == "train":
            shutil.rmtree(out / "run", ignore_errors=True)
        _undisturbed(self._arguments(name, out), self.verbs[name].stdin)
        litter = [
            str(path.relative_to(out)) for path in out.rglob("*") if path.name.endswith((".tmp", ".old"))
        ]
        if litter:
            self._fault(f"{name}: litter after the next run: {litter}")
        self._look(name, out, "next run")
        self.tally.counts["next runs"] += 1

    def stop(self, name: str, number: signal.Signals) -> None:
        """Send a signal at a random moment."""
        out = self._out(name)
        verb = self.verbs[name]
        if name == "train":
            shutil.rmtree(out / "run", ignore_errors=True)
        child = Child(self._arguments(name, out), verb.stdin)
        time.sleep(self.random.random() * self.seconds[name])
        os.kill(child.pid, number)
        code, out_text, err = child.wait()
        what = number.name
        self.tally.counts[f"{what}, {'too late' if code == 0 and not verb.ends_cleanly else 'in time'}"] += 1
        if number != signal.SIGKILL:
            expected = {0, -number, 128 + number} if number == signal.SIGINT else {0, -number, 143}
            said = err.strip().splitlines()
            stopped = [line for line in said if line.startswith("stopped by ")]
            if code not in expected or "Traceback" in err or "Aborted" in err:
                self._fault(f"{name}, {what}: exit {code}: {out_text[-200:]!r} {err[-800:]!r}")
            elif code == 128 + number and len(stopped) != 1:
                self._fault(f"{name}, {what}: exit {code} and {stopped}: {err[-300:]!r}")
        if left := child.left_behind():
            self._fault(f"{name}, {what}: left running: {left}")
            for line in left:
                with contextlib.suppress(ProcessLookupError, ValueError):
                    os.killpg(int(line.split()[0]), signal.SIGKILL)
        self._look(name, out, what)

    def reader_left(self, name: str) -> None:
        """Close the reading end of standard output."""
        out = self._out(name)
        verb = self.verbs[name]
        if name == "train":
            shutil.rmtree(out / "run", ignore_errors=True)
        reading, writing = os.pipe()
        os.close(reading)
        child = Child(self._arguments(name, out), verb.stdin, stdout=writing)
        os.close(writing)
        code, _, err = child.wait()
        self.tally.counts["reader left"] += 1
        if code not in (0, 141) or "Traceback" in err:
            self._fault(f"{name}, reader left: exit {code}: {err[-500:]!r}")
        self._look(name, out, "reader left")

    def full_output(self, name: str) -> None:
        """Write standard output to a full device."""
        out = self._out(name)
        if name == "train":
            shutil.rmtree(out / "run", ignore_errors=True)
        full = os.open("/dev/full", os.O_WRONLY)
        child = Child(self._arguments(name, out), self.verbs[name].stdin, stdout=full)
        os.close(full)
        code, _, err = child.wait()
        self.tally.counts["full standard output"] += 1
        if code not in (0, 2) or "Traceback" in err or (code == 2 and err.count("error: ") != 1):
            self._fault(f"{name}, full output: exit {code}: {err[-500:]!r}")
        self._look(name, out, "full output")

    def full_disk(self, name: str, size: int) -> None:
        """Limit the size of files, as a full disk does."""
        out = self._out(name)
        if name == "train":
            shutil.rmtree(out / "run", ignore_errors=True)
        child = Child(self._arguments(name, out), self.verbs[name].stdin, file_size=size)
        code, _, err = child.wait()
        self._refused(name, out, f"full disk at {size}", code, err)

    def small_disk(self, name: str, mounted: Path) -> None:
        """Write to a file system with no room left, beside an earlier result."""
        out = mounted / "out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(self._out(name), out)
        if name == "train":
            shutil.rmtree(out / "run", ignore_errors=True)
        filler = mounted / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(4096))
        child = Child(self._arguments(name, out), self.verbs[name].stdin)
        code, _, err = child.wait()
        filler.unlink()
        self._refused(name, out, "disk full", code, err)

    def read_only(self, name: str, mounted: Path) -> None:
        """Write to a file system that takes nothing."""
        out = mounted / "out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(self._out(name), out)
        subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
        try:
            code, _, err = Child(self._arguments(name, out), self.verbs[name].stdin).wait()
        finally:
            subprocess.run(["mount", "-o", "remount,rw", str(mounted)], check=True)
        self._refused(name, out, "read-only", code, err)

    def _refused(self, name: str, out: Path, what: str, code: int, err: str) -> None:
        self.tally.counts[what] += 1
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        if code not in (0, 1, 2) or "Traceback" in err or (code and len(errors) != 1):
            self._fault(f"{name}, {what}: exit {code}: {err[-600:]!r}")
        litter = [str(path) for path in out.rglob("*") if path.name.endswith(".tmp")]
        if litter:
            self._fault(f"{name}, {what}: litter {litter}")
        self._look(name, out, what)


@contextlib.contextmanager
def mounted(place: Path, size: str) -> Iterator[Path | None]:
    """Mount a small file system, or give None where this user may not."""
    folder = place / "mounted"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True
    )
    if done.returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def import_all() -> None:
    """Import once, before children are made, what the verbs import."""
    import torch

    import lstm_edge_exporters.targets.native.convert  # noqa: F401
    from lstm_edge_runtime.ort import import_onnxruntime

    torch.set_num_threads(1)
    import_onnxruntime()
    for verb in cli.list_commands(None):  # type: ignore[arg-type]
        cli.get_command(None, verb)  # type: ignore[arg-type]


def torture(
    kills: int,
    seed: int,
    *,
    names: list[str] | None = None,
    starve: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> Tally:
    """Kill ``kills`` times and, where ``starve``, do all else once or twice for each verb."""
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        place = Path(folder).resolve()
        import_all()
        verbs = prepare(place)
        chosen = [
            name for name in (names or verbs) if not verbs[name].needs or shutil.which(verbs[name].needs)
        ]
        found = Torture(place, verbs, seed)
        weights = [found.weight(name) for name in chosen] if kills else []
        for turn in range(kills):
            name = found.random.choices(chosen, weights)[0]
            number = found.random.choice(
                (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
            )
            found.stop(name, number)
            if turn % 10 == 9:
                found.next_run(name)
            if turn % 20 == 19:
                tell(f"{turn + 1} of {kills}, {len(found.tally.faults)} faults")
        for name in chosen if starve else ():
            found.reader_left(name)
            found.full_output(name)
            for size in (700, 3000, 20000):  # what is printed must fit
                found.full_disk(name, size)
            tell(f"{name}: pipes and full disks, {len(found.tally.faults)} faults")
        with mounted(place, "24m") as disk:
            for name in chosen if disk and starve else ():
                found.small_disk(name, disk)
                found.read_only(name, disk)
        for name in chosen:
            found.next_run(name)
        return found.tally


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--kills-only", action="store_true", help="leave out full disks and closed pipes")
    parser.add_argument("--verb", action="append", help="only this one; repeatable")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else int.from_bytes(os.urandom(3), "little")
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    found = torture(
        given.kills,
        seed,
        names=given.verb,
        starve=not given.kills_only,
        tell=lambda text: print(text, flush=True),
    )
    for what, count in sorted(found.counts.items()):
        print(f"{count:>5}  {what}")
    runs = sum(found.counts.values())
    print(f"{runs:,} runs, {len(found.faults)} faults, seed {seed}, {time.monotonic() - began:,.0f} s")
    sys.exit(bool(found.faults))


if __name__ == "__main__":
    main()
