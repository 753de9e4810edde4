"""The golden cases: they must be those that the reference gives, and the file must pass them."""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import zip_longest

import numpy as np

from lstm_edge_runtime.errors import CheckFailedError, LstmEdgeError, ManifestError, counted, first_line
from lstm_edge_runtime.manifest import Array, Golden
from lstm_edge_runtime.selftest import check_golden_case, golden_limits, replay_golden
from lstm_edge_runtime.tolerance import Comparison

from ...numerics.cases import Feeds, case_size
from ...numerics.compare import DRAWS, Expected, Measured, channel_limits, compare_within
from ...numerics.verify import record_golden
from ..config import ValidateConfig
from ..reference import ModelFile, ReferenceModel
from ..report import Check, answered, judged
from ..subject import Subject
from .claims import comparable

_SLACK = 2.0
"""How many times the limits and floors found here may be those recorded: other machines round otherwise."""
_FLOAT_ERRORS = 100.0
"""Relative rounding errors of the inputs' dtype that the outputs of a float parent may be away."""


def check_recorded(subject: Subject) -> Iterator[Check]:
    """Check the recorded cases: number, sizes, coverage, values and limits must be the reference's."""
    first = subject.file.manifest.golden
    recorded = () if first is None else (first, *first.more)
    yield _coverage(subject, recorded)
    wrong: list[str] = []
    for place, golden in enumerate(recorded):
        name = f"golden case{f' {place + 1}' if place else ''} is the reference's"

        def compare(golden: Golden = golden, name: str = name) -> Check:
            try:
                check_golden_case(subject.file.manifest, golden)
            except (CheckFailedError, ManifestError) as error:
                return Check(name, "failed", f"it does not fit the file: {error}")
            measured = subject.measure(lambda _: golden.outputs, golden.inputs, draws=DRAWS)
            wrong.extend(_wrong_limits(subject, golden, measured))
            by_parent = subject.budgets and subject.reference.computation is not subject.graph
            exact = measured.known.ref64
            return judged(name, compare_recorded(golden, exact) if by_parent else measured.records)

        yield subject.ask(name, compare)
    yield answered("limits of the golden case", "; ".join(wrong))


def other_weights(file: ModelFile, reference: ReferenceModel, config: ValidateConfig) -> str:
    """Return how a module with other weights than the exported ones differs on the golden case, else ``""``.

    Weights may have other names and give the same.
    """
    exported, golden = file.manifest.provenance.get("weights_sha256"), file.manifest.golden
    if (
        golden is None
        or not exported
        or reference.weights in ("", exported)
        or not comparable(file, reference)
    ):
        return ""
    found = Subject(file, reference, config).check("golden case", golden.inputs)
    return found.message if found.status == "failed" else ""


def _coverage(subject: Subject, recorded: Sequence[Golden]) -> Check:
    """Compare number, sizes and inputs with the cases that the reference's export records."""
    expected = _regenerated(subject)
    least = max(1, len(expected))
    wrong = [f"the file has {counted(len(recorded), 'case')}, expected {least}"]
    if len(recorded) >= least:
        wrong = [
            f"case {place}: {each}"
            for place, (golden, wanted) in enumerate(zip_longest(recorded, expected), 1)
            for each in _lacks(subject, golden, wanted)
        ]
    return answered("coverage of the golden cases", "; ".join(wrong))


def _regenerated(subject: Subject) -> tuple[Golden, ...]:
    """Return the cases that are to be expected; none for a file made elsewhere."""
    golden = subject.reference.manifest.golden

    def expect(feeds: Feeds) -> Expected:  # the noise floors are not asked
        outputs = subject.reference.computation.run64(feeds)
        return Expected(outputs, {name: np.zeros([1] * array.ndim) for name, array in outputs.items()})

    if golden is None and subject.reference.regenerates:
        with contextlib.suppress(CheckFailedError):
            golden = record_golden(expect, subject.manifest, subject.cases, [*subject.cases.cases()])
    return () if golden is None else (golden, *golden.more)


def _lacks(subject: Subject, golden: Golden, expected: Golden | None) -> Iterator[str]:
    if expected is None or {*golden.inputs} != {*expected.inputs}:  # the cases themselves are compared, too
        return
    (rows, steps), (least, most) = (case_size(subject.manifest, each.inputs) for each in (golden, expected))
    if rows < least or steps < most:
        yield f"the file has N={rows}, L={steps}, expected N={least}, L={most}"
    limited = golden.limit if subject.budgets else golden.limits
    for name in expected.limits:
        if name not in limited:
            yield f"{name} has no limits"
    for name, array in expected.inputs.items():
        here, there = (np.unique(each[name]).size for each in (golden.inputs, expected.inputs))
        if 2 * here < there or (there > 1 and here == 1):
            yield f"{name} has {counted(here, 'distinct value')}, expected about {there} as in {array.shape}"


def compare_recorded(golden: Golden, exact: Feeds) -> tuple[Comparison, ...]:
    """Compare the outputs of a case with what they were recorded from, but for rounding."""
    floats = [array.dtype for array in golden.inputs.values() if array.dtype.kind == "f"]
    relative = _FLOAT_ERRORS * max((float(np.finfo(dtype).eps) for dtype in floats), default=0.0)
    return compare_within(golden.outputs, exact, channel_limits(exact, relative))


def _wrong_limits(subject: Subject, golden: Golden, measured: Measured) -> Iterator[str]:
    """Compare each channel's limit and each output's floor with what is found here."""
    budgets: dict[str, float] = {}
    if subject.budgets:
        from ...quantization.judge import device_limits

        alone = subject.file.manifest._replace(golden=golden._replace(more=()))
        replays = replay_golden(alone, subject.run)
        budgets = device_limits([each for replay in replays for each in replay.comparisons], golden.outputs)
    for name, exact in measured.known.ref64.items():
        if exact.dtype.kind != "f":
            continue
        largest = float(measured.known.floors[name].max(initial=0.0))
        if budgets:
            limits = np.asarray(budgets[name])
        elif (held := golden.limits.get(name)) is not None:
            limits = measured.limits[name]
            if held.ndim == limits.ndim:  # of a state's units the largest
                over = tuple(axis for axis, size in enumerate(held.shape) if size == 1)
                limits = limits.max(axis=over, keepdims=True)
        else:  # one an output, as lifted files and those made before have
            limits = golden_limits(golden._replace(floor={name: largest}, limit={}), name)
        yield from loose(f"limit of {name}", golden_limits(golden, name), limits)
        if not budgets:
            yield from loose(f"floor of {name}", np.asarray(golden.floor.get(name, 0.0)), np.asarray(largest))


def loose(name: str, recorded: Array, found: Array) -> Iterator[str]:
    """Return where recorded limits are wider than needed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.nan_to_num(recorded / found, nan=0.0, posinf=np.inf)  # both may be 0
    worst = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    if ratio[worst] > _SLACK:
        has, most = (np.broadcast_to(each, ratio.shape)[worst] for each in (recorded, _SLACK * found))
        yield f"{name}: the file has {has:.3g}, expected at most {most:.3g}"


def check_golden(file: ModelFile) -> Iterator[Check]:
    """Replay the case in the file as a device's self-test does."""
    assert file.model is not None
    if file.manifest.golden is None:
        yield Check("golden", "skipped", "the file carries no golden case")
        return
    try:
        found = file.model.selftest()
    except LstmEdgeError as error:
        yield Check("the file's own case", "failed", first_line(error))
        return
    for how, records in (("", found.whole), (" in chunks, states carried", found.chunked)):
        if records:
            yield judged(f"the file's own case{how}", records)
