"""One shape of call, bound once: its buffers stay where they are from step to step.

A state is kept in two sets of buffers. A call reads the front set and writes the back set, and flips them
when it has succeeded: nothing is copied or bound again per call, and a call that fails leaves the front as it
was.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from .axes import check_output, resolve
from .manifest import Array, Manifest
from .ort import CPU, CUDA, import_onnxruntime, run_by_name, run_error

WORKSPACE = 8
"""More than an LSTM call allocates at once, as a multiple of its states' bytes times its steps."""
_LARGEST = 31 * 1024 * 1024
"""glibc learns from blocks below 32 MiB."""


def retain_heap(size: int) -> None:
    """Let glibc see a block of ``size`` bytes allocated and freed, untouched.

    Its allocator adapts to the largest such block: up to that size memory is kept for the next call instead
    of being given back to the kernel after each one, to be mapped and cleared again. A tick of 1,000 sources
    takes 0.7 of the time for that, a chunk of 256 steps 0.96. Other C libraries ignore it.
    """
    np.empty(min(size, _LARGEST), dtype=np.uint8)


class StateSets:
    """The two sets of a stream's states, on the device that computes."""

    def __init__(self, session: Any, start: Mapping[str, Array]) -> None:
        """Use the arrays of ``start`` as the front set, and allocate the back one."""
        ort = import_onnxruntime()
        self.device = "cuda" if session.get_providers()[0] == CUDA else "cpu"
        self.front = 0
        self.nbytes = sum(array.nbytes for array in start.values())
        self._host = [dict(start), {name: np.empty_like(array) for name, array in start.items()}]
        self.values = [
            {name: ort.OrtValue.ortvalue_from_numpy(array, self.device, 0) for name, array in host.items()}
            for host in self._host
        ]

    def read(self) -> dict[str, Array]:
        """Return the front states; arrays that the next call may overwrite."""
        if self.device == "cpu":
            return self._host[self.front]
        return {name: value.numpy() for name, value in self.values[self.front].items()}

    def write(self, arrays: Mapping[str, Array]) -> None:
        """Make ``arrays`` the front states."""
        for name, array in arrays.items():
            if self.device == "cpu":
                self._host[self.front][name][...] = array
            else:
                self.values[self.front][name].update_inplace(array)


class BoundCall:
    """A call of one shape: write its ``inputs``, ``run`` it, read its ``outputs``."""

    def __init__(
        self,
        session: Any,
        manifest: Manifest,
        states: StateSets,
        inputs: Mapping[str, Array],
        sizes: Mapping[str, int],
        feeds: Mapping[str, Array],
    ) -> None:
        """Allocate the buffers of the data inputs, as copies of ``inputs``, and of the outputs.

        ``feeds`` has the inputs that never change (``lengths``). Where the outputs' shapes are not known,
        the file is run once to learn them: on ``inputs``, as it may take another branch or fail on zeros.

        Raises:
            ContractError: onnxruntime rejects that run, or returns an output of another shape than declared.
        """
        self._session, self._manifest, self.states = session, manifest, states
        self.inputs = {name: np.array(array, order="C") for name, array in inputs.items()}
        self._feeds = {**self.inputs, **feeds}
        self.outputs = self._output_buffers(sizes)
        self._on_device: dict[str, Any] = {}
        if session.get_providers()[0] not in (CPU, CUDA):
            self.runs: list[Callable[[], None]] = [self._run_copying, self._run_copying]
        else:
            bound = [_runner(session, self._bind(front)) for front in (0, 1)]
            self.runs = [partial(self._send_and, run) for run in bound] if self._on_device else bound

    def run(self) -> None:
        """Compute from the front states into the back ones, then flip them."""
        states = self.states
        try:
            self.runs[states.front]()
        except Exception as error:
            raise run_error(error) from error
        states.front = 1 - states.front

    def _output_buffers(self, sizes: Mapping[str, int]) -> dict[str, Array]:
        buffers = {}
        for spec in self._manifest.outputs:
            shape = resolve(spec.axes, sizes)
            if shape is None:
                shape = self._shape_of(spec.name)
                check_output(spec.name, spec.axes, shape, sizes)
            buffers[spec.name] = np.zeros(shape, dtype=spec.dtype)
        return buffers

    def _shape_of(self, output: str) -> tuple[int, ...]:
        try:
            return run_by_name(self._session, self._feeds | self.states.read(), [output])[output].shape
        except Exception as error:
            raise run_error(error) from error

    def _bind(self, front: int) -> Any:
        ort = import_onnxruntime()
        binding = self._session.io_binding()
        for name, array in self._feeds.items():
            value = ort.OrtValue.ortvalue_from_numpy(array, self.states.device, 0)
            if self.states.device != "cpu":
                value = self._on_device.setdefault(name, value)
            binding.bind_ortvalue_input(name, value)
        for name, array in self.outputs.items():
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        for spec in self._manifest.states:
            binding.bind_ortvalue_input(spec.input, self.states.values[front][spec.input])
            binding.bind_ortvalue_output(spec.output, self.states.values[1 - front][spec.input])
        return binding

    def _send_and(self, run: Callable[[], None]) -> None:
        """Bring the samples to the device first: what is bound there is a copy."""
        for name, value in self._on_device.items():
            value.update_inplace(self._feeds[name])
        run()

    def _run_copying(self) -> None:
        """Run without binding: another provider may keep its own copy of what is bound."""
        names = [*self.outputs, *(spec.output for spec in self._manifest.states)]
        results = self._session.run(names, self._feeds | self.states.read())
        found = dict(zip(names, results, strict=True))
        back = self.states.values[1 - self.states.front]
        for name, array in self.outputs.items():
            array[...] = found[name]
        for spec in self._manifest.states:
            back[spec.input].update_inplace(found[spec.output])


def _runner(session: Any, binding: Any) -> Callable[[], None]:
    """Return the bound call itself; past onnxruntime's Python wrapper a step is 0.3 us quicker."""
    try:
        return partial(session._sess.run_with_iobinding, binding._iobinding, None)
    except AttributeError:
        return partial(session.run_with_iobinding, binding)
