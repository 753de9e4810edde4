"""Labels, flags and counts on devices: programs and C compute what the module does."""

import numpy as np
import pytest
import torch
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.targets.c import to_c
from lstm_edge_exporters.targets.native.convert import to_native
from lstm_edge_runtime import State, load
from lstm_edge_runtime.errors import UnsupportedError

X = {"x": ("N", "L", 3)}


class Decides(nn.Module):
    """Results that follow from the outputs of a GRU."""

    def __init__(self, decide):
        super().__init__()
        self.gru = nn.GRU(3, 6, batch_first=True)
        self.decide = decide

    def forward(self, x):
        return self.decide(self.gru(x)[0])


class Loops(nn.Module):
    """A loop with a state of 6 flags or counts."""

    def __init__(self, step, dtype):
        super().__init__()
        self.w = nn.Linear(3, 6)
        self.step = step
        self.dtype = dtype

    def forward(self, x):
        state = torch.zeros(x.size(0), 6, dtype=self.dtype)
        outs = []
        for t in range(x.size(1)):
            state, out = self.step(state, self.w(x[:, t]))
            outs.append(out)
        return torch.stack(outs, 1)


def clamped(h, y):
    h = torch.tanh(h) + y
    h[h < -0.5] = -0.5
    h[h.mean(-1) > 0.3] = h.new_tensor([0.3, 0, 0, 0, 0, 0])
    return h, h


def latched(fired, y):
    fired = fired | (y > 0.6)
    return fired, torch.where(fired, y, -1.0)


def counted(count, y):
    count = torch.where(y > 0, count + 1, torch.zeros_like(count))
    return count, count.to(y.dtype) * y


def debounced(count, y):
    count = torch.where(y > 0, torch.clamp(count + 1, max=3), -(count.abs() // 2))
    return count, count.clamp(-1, 2).to(y.dtype)


NETWORKS = {
    "a label": lambda: Decides(lambda y: y.argmax(-1)),
    "the last label": lambda: Decides(lambda y: y[:, -1].argmax(-1)),
    "a label or none": lambda: Decides(
        lambda y: torch.where(y.amax(-1) > 0.1, y.argmax(-1), -1)
    ),
    "flags": lambda: Decides(lambda y: y > 0),
    "values and a label": lambda: Decides(lambda y: (y, y.argmax(-1))),
    "sums of flags": lambda: Decides(lambda y: ((y > 0).sum(-1), (y > 0).any(-1))),
    "counts in another order": lambda: Decides(
        lambda y: torch.where(y > 0, (9 * y).int().flip(-1), (5 * y).int())
    ),
    "two digits": lambda: Decides(lambda y: 10 * y.argmax(-1) + (y > 0).sum(-1)),
    "a choice of two constants": lambda: Decides(
        lambda y: y * torch.where(y > 0, 1, 3)
    ),
    "casts": lambda: Decides(lambda y: y * (3 * y).int() + (3 * y).long().bool()),
    "a masked write": lambda: Loops(clamped, torch.float32),
    "a state of flags": lambda: Loops(latched, torch.bool),
    "a debounced state": lambda: Loops(debounced, torch.int64),
    "a state of counts": lambda: Loops(counted, torch.int64),
    "counts of all steps": lambda: Decides(lambda y: (y > 0).cumsum(1).float()),
}


def exported(name):
    torch.manual_seed(8)
    module = NETWORKS[name]().eval()
    return module, export(module, torch.randn(2, 6, 3), ExportConfig(inputs=X))


def arrays_of(results):
    """Return results as arrays of one row."""
    tensors = results if isinstance(results, tuple) else (results,)
    return [tensor[0].detach().numpy() for tensor in tensors]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_gives_the_types_and_values_of_the_module(name):
    module, artifact = exported(name)
    x = torch.randn(1, 20, 3)
    model = load(to_native(artifact.model))
    runs = [array[0] for array in model.run(x.numpy())[0].values()]
    stream = model.stream()
    chunks = [stream.process(chunk.numpy()) for chunk in x[0].split([3, 1, 16])]
    expected = arrays_of(module(x))
    for index, spec in enumerate(model.manifest.outputs):
        frames = [chunk[spec.name] if len(runs) > 1 else chunk for chunk in chunks]
        timed = model.manifest.time_axis(spec.axes) is not None
        in_chunks = np.concatenate(frames) if timed else frames[-1]
        for got in (runs[index], in_chunks):
            assert got.dtype == spec.dtype == expected[index].dtype
            np.testing.assert_allclose(got, expected[index], rtol=0, atol=1e-5)


def test_a_step_a_batch_and_a_window_give_labels():
    module, artifact = exported("a label")
    x = torch.randn(1, 9, 3)
    model = load(to_native(artifact.model))
    expected = module(x)[0]
    stream = model.stream()
    batch = model.streams(2)
    ids = [batch.add(), batch.add()]
    for step, sample in enumerate(x[0].numpy()):
        label = stream.step(sample)
        assert label.dtype == np.int64
        assert label == expected[step]
        rows = batch.step(np.stack([-sample, sample]), ids)
        assert rows.dtype == np.int64
        assert rows[1] == expected[step]


@pytest.mark.parametrize("name", ["a state of flags", "a state of counts"])
def test_a_saved_state_of_flags_or_counts_moves_between_both_files(name, tmp_path):
    module, artifact = exported(name)
    x = torch.randn(1, 20, 3)
    expected = module(x)[0].detach().numpy()
    models = [load(artifact.model), load(to_native(artifact.model))]
    for first, other in (models, models[::-1]):
        stream = first.stream()
        stream.process(x[0, :8].numpy())
        stream.state.save(tmp_path / "state")
        continued = other.stream()
        continued.restore(State.load(tmp_path / "state"))
        assert {k: v.dtype for k, v in continued.state.items()} == {
            state.input: state.dtype for state in first.manifest.states
        }
        got = continued.process(x[0, 8:].numpy())
        np.testing.assert_allclose(got, expected[8:], rtol=0, atol=1e-5)


@pytest.mark.system
@pytest.mark.parametrize("name", NETWORKS)
def test_c_is_compiled_and_equal_to_its_golden_cases(name):
    _, artifact = exported(name)
    assert to_c(artifact.model, "net").files


def test_an_output_of_bytes_is_refused_with_what_to_write():
    artifact = export(
        Decides(lambda y: (y > 0).byte()).eval(),
        torch.randn(2, 5, 3),
        ExportConfig(inputs=X),
    )
    with pytest.raises(UnsupportedError, match=r"uint8"):
        to_native(artifact.model)


def counting(count, y):
    count = count + (y > 0)
    return count, count


def test_states_of_int32_are_refused_as_they_would_not_wrap():
    artifact = export(
        Loops(counted, torch.int32).eval(),
        torch.randn(2, 5, 3),
        ExportConfig(inputs=X),
    )
    with pytest.raises(
        UnsupportedError, match=r"is int32, expected one of float32, int64"
    ):
        to_native(artifact.model)


def shifted(bits, y):
    bits = 2 * bits + (y > 0)
    return bits, bits.int() > 0


WRAPPING = {
    "a cast of a state": lambda: Loops(shifted, torch.int64),
    "a multiple": lambda: Decides(lambda y: (9 * y).int() * 10**9 > 0),
}


@pytest.mark.parametrize("name", WRAPPING)
def test_int32_wraps_as_in_the_module(name):
    torch.manual_seed(3)
    module = WRAPPING[name]().eval()
    artifact = export(module, torch.randn(2, 5, 3), ExportConfig(inputs=X))
    x = torch.randn(1, 70, 3)
    (got,) = load(to_native(artifact.model)).run(x.numpy())[0].values()
    np.testing.assert_array_equal(got, module(x)[-1] if got.ndim < 3 else module(x))


class Casts(nn.Module):
    """A cast of the input beside a GRU."""

    def __init__(self, cast):
        super().__init__()
        self.gru = nn.GRU(3, 2, batch_first=True)
        self.cast = cast

    def forward(self, x):
        small = torch.nan_to_num(x).clamp(-4, 4)
        return self.cast(x), self.gru(small)[0]


CASTS = {
    "int": lambda x: x.int(),
    "long": lambda x: x.long(),
    "bool": lambda x: x.bool(),
    "long int": lambda x: x.long().int(),
    "long int float": lambda x: x.long().int().float(),
    "long float int": lambda x: x.long().float().int(),
    "int float long": lambda x: x.int().float().long().float(),
    "long bool int": lambda x: x.long().bool().int(),
}
BYTES = {
    "short": lambda x: x.short(),
    "byte": lambda x: x.byte(),
    "long short": lambda x: x.long().short(),
    "long byte": lambda x: x.long().byte(),
    "long float byte": lambda x: x.long().float().byte(),
    "int short": lambda x: x.int().short(),
    "int float short": lambda x: x.int().float().short(),
    "int float int8": lambda x: x.int().float().to(torch.int8),
}


@pytest.mark.parametrize("name", [*CASTS, *BYTES])
def test_floats_beyond_a_whole_type_are_cast_as_pytorch_casts_them(name):
    module = Casts({**CASTS, **BYTES}[name]).eval()
    artifact = export(module, torch.randn(2, 5, 3), ExportConfig(inputs=X))
    numbers = [3e9, -3e9, np.inf, -np.inf, np.nan, 1e12, 1e19, -1e19, 2.9]
    x = torch.tensor([*numbers, 7e4, -129, 2.0**40 + 2**20]).reshape(1, 4, 3)
    files = [artifact.model]
    if name in CASTS:
        files.append(to_native(artifact.model))
    for file in files:
        got = next(iter(load(file).run(x.numpy())[0].values()))
        np.testing.assert_array_equal(got, module(x)[0])


class Tokens(nn.Module):
    """A GRU over tokens that are also compared, counted and added."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(30, 4)
        self.gru = nn.GRU(6, 5, batch_first=True)

    def forward(self, tokens, x):
        numbers = torch.stack([tokens % 3 + (tokens == 0), tokens.clamp(1, 9)], -1)
        parts = [self.table(tokens)[..., :3], numbers.to(x.dtype), x]
        return self.gru(torch.cat(parts, -1))[0], (tokens * 1000).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_tokens_are_numbers_too(dtype, tmp_path):
    torch.manual_seed(2)
    module = Tokens().eval()
    tokens = torch.randint(0, 30, (1, 20), dtype=dtype)
    x = torch.randn(1, 20, 1)
    inputs = {"tokens": ("N", "L"), "x": ("N", "L", 1)}
    artifact = export(module, (tokens, x), ExportConfig(inputs=inputs))
    feeds = {"tokens": tokens.numpy(), "x": x.numpy()}
    model = load(to_native(artifact.model))
    got = model.run(feeds)[0].values()
    for array, expected in zip(got, module(tokens, x), strict=True):
        np.testing.assert_allclose(array, expected.detach(), rtol=0, atol=1e-6)


BEYOND = {
    "a state": lambda: Loops(counting, torch.int64),
    "a constant": lambda: Decides(lambda y: torch.where(y > 0, 2**24 + 1, 0)),
    "a multiple": lambda: Decides(lambda y: y.argmax(-1) * 10**7),
    "a sum": lambda: Decides(lambda y: (9 * y).long().sum(-1)),
}


@pytest.mark.parametrize("name", BEYOND)
def test_outputs_that_may_be_beyond_float32_are_refused(name):
    artifact = export(
        BEYOND[name]().eval(), torch.randn(2, 5, 3), ExportConfig(inputs=X)
    )
    with pytest.raises(UnsupportedError, match=r"may be above 2\*\*24.*return .float"):
        to_native(artifact.model)
