"""The file beside its reference: its graph in float64 on structured cases, then every engine in float32.

Groups: sizes, states, lengths, streaming, inputs; and providers and threads, which are the engines.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from lstm_edge_runtime.chunks import Runner, even_sizes, take_steps
from lstm_edge_runtime.errors import LstmEdgeError, UnsupportedError, counted, first_line
from lstm_edge_runtime.manifest import Array, AxisRange
from lstm_edge_runtime.ort import CPU, import_onnxruntime
from lstm_edge_runtime.tolerance import distance

from ...numerics.cases import (
    GRID,
    Feeds,
    in_chunks,
    last_steps,
    random_sizes,
    row_by_row,
    whole,
    with_padding,
)
from ...numerics.compare import REFUSALS, Measured
from ..report import Check, Curve
from ..subject import Subject

_SIZES, _STATES, _LENGTHS, _STREAMING, _INPUTS, _PROVIDERS = 1000, 2000, 4000, 5000, 6000, 7000
"""Offsets of each group's cases."""
_LONG = 100
"""Steps from which on one row has its full length, for a fault may begin late."""
# Of the full run, and with ``quick``:
_PRIMES = ((1, 2), (2, 1), (7, 3), (1, 97), (16, 31), (13, 13), (64, 5), (2, 257))
_GRID = (*GRID, *_PRIMES, (300, 7), (1, 3000)), (*GRID, (200, 2), (1, 600))
"""Beyond the export's own grid: a wide batch and a long sequence."""
_CUTS = 8, 3
_SINGLE_STEPS = 256, 40
_CHUNK = 100, 40
"""Steps a call in the long run."""
_EQUAL_STEPS = 3000, 600
_SAMPLES = 256, 16
_PROVIDER_SIZES = ((1, 1), (3, 20), (8, 64)), ((1, 1), (3, 20))
_LARGE = 10.0
"""Beyond what gates give: h stays within 1, c grows by at most 1 a step."""
_WARM_STEPS = 200
_SETTLED = {True: 8, False: 1}
"""Calls whose noise floors serve for the whole of a run, unless they turn out too small for it."""
_DENORMAL = 1e-40
_FEW_VALUES, _VALUES_A_ROW = 2000, 100
_BATCH = 16
_BEYOND = frozenset(
    {"a thousand times too large", "extreme (1e15)", "saturated gates, flipping", "one spike", "denormal"}
)
_BEYOND_BUDGET = "int8 and fp16 files are judged in the usual range: their ranges follow the largest value"
"""Why a file with a budget is not asked this."""
_REMOTE = ("AzureExecutionProvider",)
"""Providers that call a service instead of running here."""
_THREADS = (1, 2)
_NATIVE = "native engine"


def check_sizes(subject: Subject) -> Iterator[Check]:
    """Compare at each ``(N, L)``, one and primes among them, from reset and from random states in turn."""
    manifest = subject.manifest
    seen: dict[str, str] = {}
    for place, (n, length) in enumerate(_GRID[subject.config.quick]):
        sizes = {"N": n if manifest.batch else None, "L": length if manifest.sequence else None}
        name = ", ".join(f"{axis}={size}" for axis, size in sizes.items() if size) or "fixed sizes"
        if name in seen:
            continue
        offset, at_reset = _SIZES + place, place % 3 == 0
        feeds = subject.draw(n, length, offset, at_reset=at_reset, full=place % 2 == 0 or length >= _LONG)
        one = subject.check(f"{name}{', states at reset' if at_reset else ''}", feeds)
        seen[name] = one.status
        yield one
    if {*seen.values()} == {"skipped"}:
        yield Check("any size at all", "failed", "the reference refuses all of them")


def check_states(subject: Subject) -> Iterator[Check]:
    """Start from reset, random, large and long-run states; then take rows out of their batch."""
    manifest, offset, (rows, steps) = subject.manifest, _STATES, (4, 9)
    if manifest.states:
        at_reset = subject.draw(rows, steps, offset, at_reset=True)
        yield subject.check("at reset", at_reset)
        feeds = subject.draw(rows, steps, offset + 1)
        yield subject.check("random", feeds)
        if subject.budgets is None:
            large = {
                name: state * state.dtype.type(_LARGE) for name, state in manifest.states_in(feeds).items()
            }
            yield subject.check("large", feeds | large)
        else:
            yield Check("large", "skipped", _BEYOND_BUDGET)
        for name, state in manifest.states_in(feeds).items():
            yield subject.check(f"only {name} away from reset", at_reset | {name: state})
        long, name = subject.draw(rows, _WARM_STEPS, offset + 2, at_reset=True), f"after {_WARM_STEPS} steps"

        def compare() -> Check:
            own = subject.exact(long)
            ends = {state.input: own[state.output].astype(state.dtype) for state in manifest.states}
            return subject.check(name, feeds | ends)

        yield subject.ask(name, compare, feeds)
    allowed = manifest.ranges.get(manifest.batch or "", AxisRange())
    if allowed.nearest(1) > 1:
        about = f"a call takes {allowed} rows"
        yield Check("rows of a batch are independent", "skipped", about)
    elif manifest.batch is not None:
        # short rows alone may give short outputs
        feeds = subject.full(subject.draw(rows, steps, offset + 3))
        yield subject.check(
            "rows of a batch are independent",
            feeds,
            lambda run, feeds: row_by_row(manifest, run)(feeds),
            whole,
        )


def check_lengths(subject: Subject) -> Iterator[Check]:
    """Compare at random, full and single-step lengths, in every order, and with garbage as padding."""
    name, rows, steps = subject.manifest.lengths, 5, 23
    if name is None:
        yield Check("lengths", "skipped", "the file takes no lengths")
        return
    feeds = subject.draw(rows, steps, _LENGTHS)
    kinds = {
        "random, one row full": feeds[name],
        "random, no row full": np.minimum(feeds[name], steps - 2),
        "all full": np.full(rows, steps),
        "all one": np.ones(rows),
        "falling": -np.sort(-feeds[name]),
        "rising": np.sort(feeds[name]),
    }
    for about, lengths in kinds.items():
        yield subject.check(about, feeds | {name: lengths.astype(feeds[name].dtype)})
    for about, garbage in (("NaN", np.nan), ("1e30", 1e30)):
        reached = _reached(subject, with_padding(subject.manifest, feeds, garbage))
        if reached and all(each.all() for each in reached.values()):
            yield Check(f"padding of {about}", "skipped", "it reaches every output of the reference itself")
            continue

        def padded(
            run: Runner, feeds: Feeds, garbage: float = garbage, reached: Mapping[str, Array] = reached
        ) -> Mapping[str, Array]:
            outputs = run(with_padding(subject.manifest, feeds, garbage))
            return {name: np.where(reached.get(name, False), 0, array) for name, array in outputs.items()}

        yield subject.check(f"padding of {about}", feeds, padded)


def _reached(subject: Subject, feeds: Feeds) -> dict[str, Array]:
    """Return where the reference itself gives NaN; empty where it refuses ``feeds``."""
    try:
        found = subject.reference.computation.run64(feeds)
    except REFUSALS:
        return {}
    return {name: np.isnan(array) for name, array in found.items() if array.dtype.kind == "f"}


def check_streaming(subject: Subject) -> Iterator[Check]:
    """Cut sequences with states carried, step by step and at random; then run for long."""
    reason = ""
    if not subject.manifest.states:
        reason = "neither the file nor its reference carries states"
    elif subject.manifest.sequence is None:
        reason = "the file takes one step, or one fixed number of steps, a call"
    elif subject.unstreamable:
        reason = f"the reference can't be streamed: {subject.unstreamable}"
    if reason:
        yield Check("streaming", "skipped", reason)
        return
    rows, unit, units = 3, subject.manifest.unit, 61
    feeds = subject.full(subject.draw(rows, units * unit, _STREAMING))
    quick = subject.config.quick
    cuts = [random_sizes(units, subject.rng(5, 1, place)) for place in range(_CUTS[quick])]
    for place, sizes in enumerate([unit * size for size in each] for each in ([1] * units, *cuts)):
        about = "step by step" if place == 0 else f"random cut {place} ({len(sizes)} chunks)"
        yield subject.check(f"{about} equals the whole", feeds, in_chunks(subject.manifest, sizes), whole)
    single, chunk = _SINGLE_STEPS[quick] * unit, _CHUNK[quick] * unit
    yield _long_run(subject, f"{single} steps one by one", single, unit, keep=True)
    long = max(1, subject.config.steps // 10) if quick else subject.config.steps
    long = -(-long // unit) * unit
    yield _long_run(subject, f"{long} steps in chunks of {chunk}", long, chunk, keep=False)
    if subject.budgets and subject.config.data is not None:
        from ...quantization.config import STEPS

        # as the gate of an int8 or fp16 file went through it
        steps = STEPS * unit
        procedure = last_steps(subject.manifest, even_sizes(steps, unit))
        name, feeds = f"{steps} single steps of the data", subject.timeline(steps)
        yield subject.check_engine(name, feeds, procedure=procedure, over_a_run=True)


def _long_run(subject: Subject, name: str, steps: int, chunk: int, *, keep: bool) -> Check:
    """Carry states over many calls; with ``keep`` the curve of errors is kept."""
    rows = 1 if keep else 2
    feeds = subject.full(subject.draw(rows, steps, _STREAMING + 2, at_reset=True))
    sizes = even_sizes(steps, chunk)

    def see(measured: Measured) -> None:
        if keep:
            subject.tally.figures.steps = _curve(measured, np.cumsum(sizes).tolist())

    first = sizes[: _SETTLED[keep]]
    start = subject.full(take_steps(subject.manifest.time_axes, feeds, 0, sum(first)))
    beginning = start, last_steps(subject.manifest, first)
    procedure = last_steps(subject.manifest, sizes)
    return subject.check_engine(name, feeds, procedure=procedure, beginning=beginning, see=see)


def _curve(measured: Measured, steps: list[int]) -> Curve:
    errors = []
    for name, exact in measured.known.ref64.items():
        away = distance(measured.got[name], exact)
        errors.append(away.reshape(len(exact), -1).max(axis=1, initial=0.0))
    limit = max(record.limit for record in measured.records)
    return Curve(tuple(steps), tuple(map(float, np.max(errors, axis=0))), limit)


def check_inputs(subject: Subject) -> Iterator[Check]:
    """Compare on real data if given, and on zeros, constants, and magnitudes that saturate or vanish."""
    if subject.config.data is not None:
        for part, feeds in subject.sample_batches(_SAMPLES[subject.config.quick], _BATCH):
            name = f"data, {counted(len(part), 'sample')} from {part[0]}"
            yield subject.check_engine(name, feeds, subject.run_alone)
            if not subject.budgets:
                yield subject.check(f"{name}, in float64", feeds)
    rows, steps = 3, 31
    feeds = subject.draw(rows, steps, _INPUTS)
    yield subject.check("random", feeds)
    yield from _every_value(subject)
    data = subject.manifest.data_inputs
    names = [spec.name for spec in data if np.dtype(spec.dtype).kind == "f"]
    if not names:
        return
    signs = subject.rng(6, 1).choice([-1.0, 1.0], size=(rows, steps))
    kinds = {
        "zeros": lambda x: np.zeros_like(x),
        "ones": lambda x: np.ones_like(x),
        "constant": _equal,
        "denormal": lambda x: np.sign(x) * _DENORMAL,
        "a thousand times too large": lambda x: x * 1e3,
        "extreme (1e15)": lambda x: np.sign(x) * 1e15,
        "saturated gates, flipping": lambda x: _flip(x, signs),
        "one spike": _spike,
    }
    for about, change in kinds.items():
        if about in _BEYOND and subject.budgets:
            yield Check(about, "skipped", _BEYOND_BUDGET)
            continue
        changed = {name: np.asarray(change(feeds[name]), dtype=feeds[name].dtype) for name in names}
        yield subject.check(about, feeds | changed)
    if subject.manifest.sequence is not None:
        count = _EQUAL_STEPS[subject.config.quick]
        long = subject.full(subject.draw(1, count, _INPUTS + 1, at_reset=True))
        yield subject.check(f"{count} equal steps", long | {name: _equal(long[name]) for name in names})
    yield _nan_sample(subject, feeds, names)


def _nan_sample(subject: Subject, feeds: Feeds, names: list[str]) -> Check:
    """Compare with NaN in the middle of one row, in float64."""
    name = "a NaN sample"
    if subject.budgets or not subject.function.in_float64 or subject.reference.computation is subject.graph:
        about = "onnxruntime's LSTM, GRU and RNN ignore NaN, so float32 results are not compared"
        return Check(name, "skipped", about)
    return subject.check(name, {**feeds, **{each: _broken(feeds[each]) for each in names}})


def _every_value(subject: Subject) -> Iterator[Check]:
    """Feed every value of an input of indices once, as the rows of its table are; with ``quick`` of a few."""
    for spec in subject.manifest.data_inputs:
        count = subject.reference.values.get(spec.name, 0)
        if not count or (subject.config.quick and count > _FEW_VALUES):
            continue
        rows = -(-count // _VALUES_A_ROW)
        feeds = subject.full(subject.draw(rows, min(count, _VALUES_A_ROW), _INPUTS + 2))
        shape = feeds[spec.name].shape
        values = np.resize(subject.rng(6, 2).permutation(count), shape).astype(feeds[spec.name].dtype)
        yield subject.check(f"values of {spec.name}, each once", feeds | {spec.name: values})


def _equal(x: Array) -> Array:
    return np.broadcast_to(x.reshape(-1, x.shape[-1])[0], x.shape).astype(x.dtype)


def _flip(x: Array, signs: Array) -> Array:
    """Every feature at fifty times its size, all of one sign at a time, from step to step at random."""
    if x.shape[:2] != signs.shape:
        return np.asarray(x * 50.0)
    return np.asarray(np.abs(x) * 50.0 * signs.reshape(*signs.shape, *[1] * (x.ndim - 2)))


def _broken(x: Array) -> Array:
    broken = np.array(x)
    broken.reshape(-1)[x.size // 6] = np.nan  # in the first of three rows
    return broken


def _spike(x: Array) -> Array:
    spiked = np.array(x)
    spiked.reshape(-1)[x.size // 2] += 1e6
    return spiked


def check_providers(subject: Subject) -> Iterator[Check]:
    """Compare on each provider that really starts, with one and two threads, and on the native engine."""
    required = subject.config.engine == "native"
    for name, make in _engines(subject):
        try:
            run = make()
        except LstmEdgeError as error:
            failed = name == _NATIVE and (required or not isinstance(error, UnsupportedError))
            yield Check(name, "failed" if failed else "skipped", f"not usable here: {first_line(error)}")
            continue
        for place, (n, length) in enumerate(_PROVIDER_SIZES[subject.config.quick]):
            feeds = subject.draw(n, length, _PROVIDERS + place)
            yield subject.check_engine(f"{name}, N={n}, L={length}", feeds, run)


def _engines(subject: Subject) -> Iterator[tuple[str, Callable[[], Runner]]]:
    """Return every engine by name, and what opens it."""
    for provider in import_onnxruntime().get_available_providers():
        chain = (provider,) if provider == CPU else (provider, CPU)
        for threads in _THREADS if provider not in _REMOTE else ():
            name = f"{provider}, {threads} thread{'s' if threads > 1 else ''}"
            yield name, partial(subject.file.runner, threads, chain)
    engine = subject.config.engine
    if engine != "onnxruntime":
        from lstm_edge_runtime.native.library import installed

        if installed() or engine == "native":
            yield _NATIVE, subject.file.native_runner
