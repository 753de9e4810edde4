"""The file that streams a network which looks ahead or has strides: made, and verified.

In float64 its frames are those of the full sequence, however it is cut: at once, at random, unit by unit, for
many rows, for chunks beyond 128 steps and for loud inputs. onnxruntime is within an engine's limits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir

from lstm_edge_runtime.errors import CheckFailedError, InputError, first_line
from lstm_edge_runtime.manifest import Array, AxisRange, Golden, Manifest, StateSpec
from lstm_edge_runtime.ort import open_session, run_by_name

from ..chunks import Runner, behind, join_chunks, run_chunks
from ..export.cast import widened
from ..graph import END, Builder
from ..verify.cases import Case, CaseGenerator, Feeds, InputSpec, Procedure, random_sizes
from ..verify.compare import Pair, compare_all
from ..verify.float64 import Graph64
from ..verify.golden import golden_case
from ..verify.report import judged
from .flow import NotStreamableError
from .stream import Streamed, stream

_STEPS, _UNITS, _LONG = 24, 12, 130
"""Steps and units that are compared at least, and the steps of a long case."""
_REACHES, _MOST_REACHED = 3, 512
_LOUD = 100.0
"""Factor of a loud input."""
_GOLDEN_UNITS, _GOLDEN_STEPS = 3, 6
_BYTES = 12_000
"""Size of a golden case of two rows; a larger one has one row."""

Write = Callable[[ir.Model, Manifest], bytes]


@dataclass(frozen=True)
class StreamFile:
    """A verified file that streams."""

    model: bytes
    manifest: Manifest


def stream_file(model: ir.Model, manifest: Manifest, cases: CaseGenerator, write: Write) -> StreamFile:
    """Return the file that streams a network.

    Args:
        model: the graph of the full sequence.
        manifest: its contract.
        cases: generates its inputs.
        write: gives a graph and its manifest as a file.

    Raises:
        InputError: the ordinary file streams.
        NotStreamableError: a part of the graph can't be fed in chunks; the message names it.
        CheckFailedError: chunks are not the full sequence.
    """
    found = stream(model, manifest.states, manifest.batch, manifest.sequence)
    if found.ordinary:
        raise InputError(
            "this network only looks back, so that its ordinary file streams; leave --stream out"
        )
    streamed = _describe(found, manifest)
    content = write(found.model, streamed)
    whole = Graph64(widened(ir.to_proto(_take_early(model, found.early))))
    pair = Pair(streamed, Graph64(widened(onnx.load_from_string(content))), whole, _engine(content))
    states = tuple(map(_state_input, streamed.states))
    data = tuple(each for each in cases.inputs if each.role != "state")
    cases = replace(cases, inputs=(*data, *states), ranges=streamed.ranges, held=frozenset())
    work = _Verification(pair, manifest, cases, found.reach)
    work.verify()
    streamed = streamed._replace(golden=work.golden())
    return StreamFile(write(found.model, streamed), streamed)


def _describe(found: Streamed, manifest: Manifest) -> Manifest:
    """Return the manifest of the stream, without a golden case.

    Raises:
        NotStreamableError: rows have lengths, or an input has an axis that is kept up to a unit and takes any
            size.
    """
    if manifest.lengths is not None:
        raise NotStreamableError("it takes lengths, which a file that lags or has strides can't have")
    for spec in manifest.data_inputs:
        if other := [
            a for a in spec.axes if isinstance(a, str) and a not in (manifest.batch, manifest.sequence)
        ]:
            raise NotStreamableError(f"axis {other[0]} of {spec.name} takes any size; fix it by a number")
    sequence, unit = manifest.sequence or "", found.unit
    ranges = {name: sizes for name, sizes in manifest.ranges.items() if name != sequence}
    if unit > 1:
        ranges[sequence] = AxisRange(unit, None, unit)
    return manifest._replace(
        outputs=tuple(spec._replace(axes=found.axes[spec.name]) for spec in manifest.outputs),
        states=found.states,
        unit=unit,
        delays={name: delay for name, delay in found.delays.items() if delay},
        ranges=ranges,
        unstreamable="",
        golden=None,
    )


def _state_input(state: StateSpec) -> InputSpec:
    return InputSpec(state.input, state.dtype, state.axes, "state", reset=state.reset)


def _engine(content: bytes) -> Runner:
    """Return a function that runs a file, and raises ``CheckFailedError`` if onnxruntime refuses it."""
    session = open_session(content)

    def run(feeds: Feeds) -> Feeds:
        try:
            return run_by_name(session, feeds)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise CheckFailedError(f"the stream does not run: {first_line(error)}") from error

    return run


@dataclass(frozen=True)
class _Verification:
    """A stream compared with the full sequence."""

    pair: Pair
    """The stream, whose reference is the graph of the full sequence."""
    manifest: Manifest
    """The full sequence's."""
    cases: CaseGenerator
    reach: int

    @property
    def streamed(self) -> Manifest:
        return self.pair.manifest

    def verify(self) -> None:
        """Compare every case in every way; raise ``CheckFailedError`` for the first difference."""
        steps, long, rng = self._steps(), self._fitted(self._settled + _LONG), np.random.default_rng(0)
        unit, plan = self.streamed.unit, self._random(steps, rng)
        cuts = [[steps], plan, [unit] * (steps // unit)]
        for rows, size, loud, ways in (
            (2, steps, 1.0, cuts),
            (5, long, 1.0, [[long], self._random(long, rng)]),
            (2, steps, _LOUD, [plan]),
        ):
            feeds = self._feeds(rows, size, loud)
            want = self._frames(feeds)
            for sizes in ways:
                self._require(feeds, want, sizes)
            if loud == 1.0:
                self._require_engine(feeds, ways[-1])

    def golden(self) -> Golden:
        """Return a case from the reset states with complete frames, and one from random states."""
        unit = self.streamed.unit
        steps = self._fitted(self._settled + max(_GOLDEN_UNITS * unit, _GOLDEN_STEPS))
        first = self._feeds(2, steps, 1.0)
        if sum(array.nbytes for array in first.values()) > _BYTES:
            first = self._feeds(1, steps, 1.0)
        second = self.cases.case(1, 2 * unit, at_reset=False, offset=98, full=True)
        cases = [golden_case(self.pair, each) for each in (Case({}, first, at_reset=True), second)]
        if not _is_finite(cases[0]):
            raise CheckFailedError(
                "a stream from reset gives no finite numbers, so that none can be recorded"
            )
        return cases[0]._replace(more=tuple(filter(_is_finite, cases[1:])))

    @property
    def _settled(self) -> int:
        """Steps after which every output has a frame, in whole units."""
        unit = self.streamed.unit
        return -(-self.streamed.delay_steps // unit) * unit

    def _steps(self) -> int:
        unit = self.streamed.unit
        reached = min(_REACHES * self.reach, max(_MOST_REACHED, _UNITS * unit))
        return self._fitted(self._settled + max(_STEPS, _UNITS * unit) + reached)

    def _fitted(self, steps: int) -> int:
        """Return whole units near ``steps`` that the full sequence takes.

        Raises:
            CheckFailedError: it takes none with complete frames.
        """
        unit, taken = self.streamed.unit, self.manifest.ranges.get(self.manifest.sequence or "", AxisRange())
        step = int(np.lcm(unit, taken.multiple))
        most = steps if taken.most is None else min(steps, taken.most)
        fitted = max(most // step * step, -(-taken.least // step) * step)
        if fitted < self._settled + unit or taken.nearest(fitted) != fitted:
            raise CheckFailedError(f"the network takes {taken} steps, too few for a stream's first frames")
        return fitted

    def _feeds(self, rows: int, steps: int, loud: float) -> Feeds:
        case = self.cases.case(rows, steps, at_reset=True, offset=rows, full=True)
        data = {each.name for each in self.streamed.data_inputs if np.dtype(each.dtype).kind == "f"}
        return {
            name: array * array.dtype.type(loud) if name in data else array
            for name, array in case.feeds.items()
        }

    def _random(self, steps: int, rng: np.random.Generator) -> list[int]:
        unit = self.streamed.unit
        return [unit * units for units in random_sizes(steps // unit, rng)]

    def _in_chunks(self, sizes: Sequence[int]) -> Procedure:
        """Return a procedure that runs the stream, and gives the frames from the first one on."""

        def procedure(run: Runner, feeds: Feeds) -> Feeds:
            joined = join_chunks(self.streamed, list(run_chunks(run, self.streamed, feeds, sizes)))
            return {spec.name: self._real(spec.name, joined[spec.name]) for spec in self.streamed.outputs}

        return procedure

    def _real(self, name: str, array: Array) -> Array:
        axis = self.streamed.time_axes.get(name)
        return array if axis is None else behind(array, axis, self.streamed.delays.get(name, 0))

    def _frames(self, feeds: Feeds) -> Feeds:
        """Return the frames of the full sequence that a stream gives."""
        outputs = self.pair.reference({name: feeds[name] for name in self.manifest.input_names})
        units, frames = self.manifest.steps(feeds) // self.streamed.unit, self.streamed.frames_a_unit
        found = dict(outputs)
        for name, axis in self.streamed.time_axes.items():
            if name in frames:
                count = units * frames[name] - self.streamed.delays.get(name, 0)
                found[name] = outputs[name].take(range(min(count, outputs[name].shape[axis])), axis)
        return {spec.name: found[spec.name] for spec in self.streamed.outputs}

    def _require(self, feeds: Feeds, want: Feeds, sizes: Sequence[int]) -> None:
        """Check that the stream's frames are those of the full sequence in float64."""
        in_chunks = self._in_chunks(sizes)

        def procedure(run: Runner, feeds: Feeds) -> Feeds:
            got = dict(in_chunks(run, feeds))
            for name, array in want.items():
                if (
                    axis := self.streamed.time_axes.get(name)
                ) is not None:  # the full sequence may have fewer
                    got[name] = got[name].take(range(min(array.shape[axis], got[name].shape[axis])), axis)
            return got

        got = procedure(self.pair.graph, feeds)
        check = judged("", self.pair.within(got, want, feeds, procedure))
        if check.status == "failed":
            raise CheckFailedError(f"a stream in chunks of {_in_words(sizes)}: {check.message}")

    def _require_engine(self, feeds: Feeds, sizes: Sequence[int]) -> None:
        """Check that onnxruntime is within its limits of the stream in float64."""
        procedure = self._in_chunks(sizes)
        got, exact = procedure(self.pair.engine, feeds), procedure(self.pair.graph, feeds)
        check = judged("", compare_all(got, exact, self.pair.limits(feeds, procedure)))
        if check.status == "failed":
            raise CheckFailedError(f"a stream on onnxruntime: {check.message}")


def _is_finite(case: Golden) -> bool:
    return all(np.isfinite(array).all() for array in (*case.outputs.values(), *case.limits.values()))


def _in_words(sizes: Sequence[int]) -> str:
    kinds = sorted(set(sizes))
    return f"{kinds[0]} steps" if len(kinds) == 1 else f"{kinds[0]} to {kinds[-1]} steps"


def _take_early(model: ir.Model, early: Mapping[str, int]) -> ir.Model:
    """Return a copy of ``model`` in which the last frames are taken some frames earlier.

    A stream that lags is compared with it: the last frame of a full sequence needs padding that the newest
    frame of a stream does not.

    Args:
        model: the graph of the full sequence.
        early: number of frames by the name of a value that is computed from the last ones.
    """
    model = model.clone()
    nodes = {value.name: (node, place) for node in model.graph for place, value in enumerate(node.outputs)}
    for name, frames in early.items():
        if frames:
            _take_frame(*nodes[name], frames)
    return model


def _take_frame(node: ir.Node, place: int, frames: int) -> None:
    """Let a node take its last frames ``frames`` earlier."""
    build = Builder(node, "early")
    if node.op_type in ("Slice", "Gather"):
        number = node.inputs[1]
        less = build.constant(np.array(frames if node.op_type == "Gather" else [frames]), "frames")
        node.replace_input_with(1, build.node("Sub", [number, less])[0])
        if node.op_type == "Slice":
            node.replace_input_with(2, build.constant(np.array([-frames or END]), "end"))
        return
    axis = 1 if node.attributes.get_int("layout", 0) else 0
    read, *others = node.inputs
    assert read is not None
    twin = build.node(
        node.op_type,
        [build.slice(read, axis, 0, -frames), *others],
        node.attributes,
        outputs=len(node.outputs),
    )
    ir.convenience.replace_all_uses_with(node.outputs[place], twin[place], replace_graph_outputs=True)
