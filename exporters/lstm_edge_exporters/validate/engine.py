"""``validate``: every group of checks on one file, put together as a report."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from lstm_edge_runtime.errors import InputError

from ..isolation import isolated
from ..progress import Progress, ignore
from ..versions import versions
from .checks import comparisons
from .checks.claims import CHECKPOINT, check_claims, check_file, comparable, compare_facts, interface_of
from .checks.decisions import check_decisions
from .checks.golden import check_golden, check_recorded, other_weights
from .config import ValidateConfig
from .reference import ModelFile, ReferenceModel, open_file
from .report import OVERFLOW, Check, Fact, Group, Report
from .subject import Subject

GROUPS: dict[str, tuple[str, Callable[[Subject], Iterator[Check]]]] = {
    "sizes": ("Sizes", comparisons.check_sizes),
    "states": ("States", comparisons.check_states),
    "lengths": ("Lengths", comparisons.check_lengths),
    "streaming": ("Streaming", comparisons.check_streaming),
    "inputs": ("Inputs", comparisons.check_inputs),
    "providers": ("Providers and threads", comparisons.check_providers),
    "decisions": ("Decisions", check_decisions),
}
"""The groups that run the file beside its reference: title and checks by short name. The rest is asked of the
file."""
_VERSIONS = ("lstm-edge", "torch", "onnx", "onnxruntime", "numpy")
_OTHER_WEIGHTS = (
    "the file was exported with other weights; a factory that draws them needs a seed (torch.manual_seed), "
    "or give the exported ones with --weights"
)
_GOLDEN_POLICY = "limits as the golden case records them"


@isolated()
def validate(
    file: ModelFile | str | os.PathLike[str],
    against: ReferenceModel | None = None,
    config: ValidateConfig | None = None,
    *,
    on_progress: Progress | None = None,
) -> Report:
    """Check that a file computes what its reference does, in every way it will be used.

    Args:
        file: the ONNX file.
        against: what it must equal (see ``against_module`` and ``against_file``); None only replays its
            golden cases.
        config: see ``ValidateConfig``.
        on_progress: called with the fraction of the work that is done, and the group that begins.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated, foreign or unsafe to read, or onnxruntime ends on it.
        InputError: there is nothing to compare the file with, or the data does not fit it.
    """
    config = config or ValidateConfig()
    file = file if isinstance(file, ModelFile) else open_file(file)
    if against is None and file.model and file.manifest.golden is None:
        raise InputError(
            f"{file.path} carries no golden case and there is nothing to compare it with; "
            "give --against a reference"
        )
    return Validation(file, against, config, on_progress or ignore).report()


@dataclass
class Validation:
    """One validation as it goes: group by group, for who would stop at the first that fails."""

    file: ModelFile
    against: ReferenceModel | None
    config: ValidateConfig
    on_progress: Progress = ignore
    subject: Subject | None = None
    facts: tuple[Fact, ...] = ()
    _told: int = field(default=0, init=False)
    _why_not: str = field(default="", init=False)
    """Why file and reference were not run on the same inputs."""

    def report(self) -> Report:
        """Return the report of every group."""
        groups = tuple(self.groups())
        found = self.subject.tally.results() if self.subject else {}
        return Report(
            model=self.file.path.name,
            sha256=self.file.sha256,
            reference=self.against.about if self.against else "its golden case",
            precision=self.file.precision,
            policy=self.subject.policy if self.subject else _GOLDEN_POLICY,
            seed=self.config.seed,
            quick=self.config.quick,
            groups=groups,
            facts=self.facts,
            notes=tuple(self._notes(groups)),
            versions=versions(*_VERSIONS),
            **found,
        )

    def groups(self) -> Iterator[Group]:
        """Yield each group when it is done."""
        yield Group("contract", self._tell("Contract"), tuple(self._claims()))
        for key, (title, check) in GROUPS.items():
            self._tell(title)
            skipped = (Check(key, "skipped", self._why_not),)
            yield Group(key, title, tuple(check(self.subject)) if self.subject else skipped)
        if self.file.model is not None:
            yield Group("golden", self._tell("Golden cases"), tuple(check_golden(self.file)))

    def _claims(self) -> Iterator[Check]:
        if self.file.model is not None:
            self.facts = tuple(compare_facts(self.file, self.against))
            factory = self.against if self.against and not self.against.sha256 else None
            if factory and (differ := other_weights(self.file, factory, self.config)):
                self._why_not = "the reference has other weights than the file"
                yield Check("weights are the reference's", "failed", f"{_OTHER_WEIGHTS}; {differ}")
                return
        yield from check_file(self.file, self.facts)
        if self.file.model is None:
            self._why_not = "the manifest contradicts the graph"
            return
        reference = self.against
        if reference is None:
            self._why_not = "no reference was given"
        elif not comparable(self.file, reference):
            self._why_not = "inputs or outputs are not the reference's"
            mine, theirs = (interface_of(each.manifest) for each in (self.file, reference))
            about = f"the file has {mine}, the reference {theirs}"
            yield Check("inputs and outputs are the reference's", "failed", about)
        else:
            self.subject = Subject(self.file, reference, self.config)
            yield from check_claims(self.subject)
            if self.file.has_manifest:
                yield from check_recorded(self.subject)
            if self.subject.budgets:
                from .checks.quantized import check_weights

                yield from check_weights(self.subject)

    def _notes(self, groups: Sequence[Group]) -> Iterator[str]:
        """What a reader of a failure should know first, and what was not verified."""
        for fact in self.facts:
            if fact.name == CHECKPOINT and not fact.same:
                yield f"{fact.name}: {fact}; export again if the reference's is newer"
        unknown = [fact.name for fact in self.facts if fact.reference is None]
        if unknown:
            yield f"stated by the file alone, and not verified: {', '.join(unknown)}"
        if self.subject:
            yield from self._numbers_notes(self.subject)
        streaming = next(group.checks for group in groups if group.key == "streaming")
        for check in [each for each in streaming if each.message.startswith(OVERFLOW)][:1]:
            yield (
                f"{check.message} in {check.name}: a stream gives inf or NaN from there on; reset it "
                "before, with reset_every"
            )

    def _numbers_notes(self, subject: Subject) -> Iterator[str]:
        """What float64 showed, and what neither float64 nor float32 did."""
        equality = subject.tally.equality
        if equality.cases and equality.equal and self.against:
            yield f"equal to {self.against.about} {equality}"
        if equality.ill_conditioned:
            count = f"{equality.ill_conditioned} of {equality.cases}"
            yield f"float64 itself leaves few digits in {count} cases; differences there are its rounding"
        if subject.not_in_float64:
            yield f"{subject.not_in_float64}; compared in float32 alone"
        for name, limit in subject.tally.unverified.items():
            yield f"{name} is not verified in float32: its limit is {limit:.2g}, more than a tenth of it"
        for name, (used, known) in subject.tally.tokens.items():
            if known and used < known:
                yield f"{used:,} of {known:,} values of {name} were drawn; the others are not verified"

    def _tell(self, title: str) -> str:
        self.on_progress(self._told / (len(GROUPS) + 2), f"checking: {title}")
        self._told += 1
        return title
