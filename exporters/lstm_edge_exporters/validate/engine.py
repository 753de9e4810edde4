"""``validate``: every group of checks on one file, put together as a report."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lstm_edge_runtime.errors import InputError

from ..versions import versions
from ._file import ModelFile, open_file
from ._subject import Against, Subject
from .checks import contract, decisions, golden, inputs, lengths, providers, sizes, states, streaming
from .config import ValidateConfig
from .report import Check, Figures, Group, Report

__all__ = ["Progress", "validate"]

Progress = Callable[[str, int, int], None]
"""Called before each group with its title, its number from 0 and how many there are."""

_VERSIONS = ("lstm-edge", "torch", "onnx", "onnxruntime", "numpy")
_GROUPS = {
    "sizes": sizes,
    "states": states,
    "lengths": lengths,
    "streaming": streaming,
    "inputs": inputs,
    "providers": providers,
    "decisions": decisions,
}
"""The groups that need a reference."""
_GOLDEN_POLICY = "limit = 8 x the recorded noise floor + 8 ULP, or the record's own budget"


def validate(
    file: ModelFile | str | os.PathLike[str],
    against: Against | None = None,
    config: ValidateConfig | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check that a file computes what its reference does, in every way it will be used.

    Args:
        file: the ONNX file.
        against: what it must equal (see ``against_module`` and ``against_file``); None checks its contract
            and replays golden vectors only.
        config: see ``ValidateConfig``.
        progress: told of each group as it begins.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated, foreign or unsafe to read.
        InputError: there is nothing to compare the file with, or the data does not fit it.
    """
    config = config or ValidateConfig()
    file = file if isinstance(file, ModelFile) else open_file(file)
    if against is None and config.golden is None and file.model and file.contract.golden is None:
        raise InputError(
            f"{file.path} carries no golden case and there is nothing to compare it with; "
            "give --against a reference, or --golden vectors"
        )
    run = _Run(file, against, config, progress)
    groups = tuple(run.groups())
    judge = run.subject.judge if run.subject else None
    figures = Figures()
    if run.subject and judge:
        figures = Figures(**run.subject.figures, histogram=judge.histogram)
    return Report(
        model=file.path.name,
        sha256=file.sha256,
        reference=against.about if against else "its golden vectors",
        precision=file.contract.precision if file.model else "unknown",
        policy=judge.policy if judge else _GOLDEN_POLICY,
        seed=config.seed,
        quick=config.quick,
        groups=groups,
        figures=figures,
        redrawn=judge.redrawn if judge else 0,
        notes=_notes(file, against),
        versions=versions(*_VERSIONS),
    )


@dataclass
class _Run:
    file: ModelFile
    against: Against | None
    config: ValidateConfig
    progress: Progress | None
    subject: Subject | None = None

    def groups(self) -> Iterator[Group]:
        count = len(_GROUPS) + 2
        self._tell(contract.TITLE, 0, count)
        first = Group("contract", contract.TITLE, tuple(contract.check(self.file, self.against)))
        yield first
        reason = self._unfit(first)
        if self.against and not reason:
            self.subject = Subject(self.file, self.against, self.config)
        for place, (key, module) in enumerate(_GROUPS.items(), start=1):
            self._tell(module.TITLE, place, count)
            if self.subject:
                yield Group(key, module.TITLE, tuple(module.check(self.subject)))
            else:
                yield Group(key, module.TITLE, (Check(key, "skipped", reason or "no reference was given"),))
        self._tell(golden.TITLE, count - 1, count)
        if self.file.model is not None:
            yield Group("golden", golden.TITLE, tuple(golden.check(self.file, self.config)))

    def _unfit(self, first: Group) -> str:
        """Say why the file can't be fed what the reference is fed."""
        if self.file.model is None:
            return "the state contract is broken"
        names = [
            check for check in first.checks if "the reference's" in check.name and check.status == "failed"
        ]
        return "inputs or outputs are not the reference's" if names else ""

    def _tell(self, title: str, place: int, count: int) -> None:
        if self.progress:
            self.progress(title, place, count)


def _notes(file: ModelFile, against: Against | None) -> tuple[str, ...]:
    if file.model is None or against is None:
        return ()
    made_from = file.contract.provenance.get("checkpoint_sha256")
    if made_from and against.sha256 and made_from != against.sha256:
        return (
            f"the file says it was made from checkpoint {str(made_from)[:12]}, the reference is "
            f"{against.sha256[:12]}: export again if the checkpoint is newer",
        )
    return ()
