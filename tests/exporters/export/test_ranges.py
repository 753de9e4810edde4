"""Axes that take some sizes only: found from the tracer's guards and by running, stated, and held to."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.export.ranges import DIFFERS, REFUSED, SAME, find_range
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import ContractError, InputError, UnsupportedError
from lstm_edge_runtime.manifest import AxisRange


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(4, 5, batch_first=True)
        self.wide = nn.Conv1d(4, 4, 16)
        self.down = nn.Conv1d(4, 4, 4, stride=4)
        self.up = nn.ConvTranspose1d(5, 4, 4, stride=4)


class Doubles(Net):
    """Does something else for long inputs."""

    def forward(self, x):
        y = self.rnn(x)[0]
        return y * 2 if x.shape[1] > 200 else y


class Wide(Net):
    """A kernel of 16 in front of the layer."""

    def forward(self, x):
        return self.rnn(self.wide(x.transpose(1, 2)).transpose(1, 2))[0]


class Reflects(Net):
    """Padding by 3 needs 4 steps."""

    def forward(self, x):
        return self.rnn(F.pad(x.transpose(1, 2), (3, 3), mode="reflect").transpose(1, 2))[0]


class Strides(Net):
    """Down and up again by 4, added to the input."""

    def forward(self, x):
        y = self.rnn(self.down(x.transpose(1, 2)).transpose(1, 2))[0]
        return self.up(y.transpose(1, 2)).transpose(1, 2) + x


class PadsTo4(Net):
    def forward(self, x):
        if x.shape[1] % 4:
            x = F.pad(x, (0, 0, 0, 4 - x.shape[1] % 4))
        return self.rnn(x)[0]


def _made(module, steps, **options):
    torch.manual_seed(0)
    x = torch.randn(2, steps, 4)
    return module().eval(), x, ExportConfig(**options)


def _agrees(artifact, module, steps):
    x = torch.randn(3, steps, 4)
    with torch.no_grad():
        expected = module(x).numpy()
    got = load(artifact.model).run(x.numpy())[0]["output"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "steps", "limits"),
    [
        (Doubles, 400, "201.."),
        (Doubles, 40, "1..200"),
        (Wide, 40, "16.."),
        (Reflects, 9, "4.."),
        (Strides, 24, "4..:4"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_an_axis_takes_the_sizes_at_which_the_file_computes_what_the_module_does(module, steps, limits):
    module, x, config = _made(module, steps)
    artifact = export(module, x, config)
    allowed = artifact.manifest.ranges["L"]
    assert str(allowed) == limits
    for size in {allowed.nearest(1), steps, allowed.nearest(150), allowed.nearest(1000)}:
        _agrees(artifact, module, size)
    for case in artifact.equivalence.cases:
        assert allowed.nearest(case.sizes["L"]) == case.sizes["L"]
    assert {case.sizes["L"] for case in artifact.equivalence.cases} >= {steps, allowed.nearest(1)}
    model = load(artifact.model)
    for size in {allowed.least - 1, (allowed.most or 0) + 1, 2 * allowed.multiple + 1} - {0}:
        if allowed.nearest(size) != size:
            with pytest.raises(InputError, match=rf"axis L .* is {size}, this file accepts {limits}"):
                model.run(np.zeros((1, size, 4), np.float32))
    model.warm_up()
    assert model.selftest().ok
    if allowed.nearest(1) > 1:
        reasons = f"a call takes {limits} steps", "pads by reflect", "--stream writes a file"
        assert any(reason in artifact.manifest.unstreamable for reason in reasons)
        with pytest.raises(ContractError, match="can't be streamed"):
            model.stream()


class Spectral(nn.Module):
    """A decay as long as the sequence, applied through spectra, which onnxruntime sums in float32."""

    def forward(self, x):
        steps = x.shape[1]
        decay = 12 * torch.exp(-0.01 * torch.arange(steps))[:, None]
        spectra = (torch.fft.rfft(each, n=2 * steps, dim=-2) for each in (decay, x))
        return torch.fft.irfft(next(spectra) * next(spectra), n=2 * steps, dim=-2)[:, :steps]


def test_rounding_of_float32_is_no_end_of_a_range():
    module, x, config = _made(Spectral, 20)
    made = export(module, x, config)
    expected = module(x := torch.randn(1, 301, 4)).numpy()
    got = load(made.model).run(x.numpy())[0]["output"]
    assert not np.allclose(got, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(got, expected, rtol=0, atol=0.1)
    assert made.manifest.ranges == {}


def test_a_split_range_is_noted_with_the_line_that_splits_it():
    module, x, config = _made(Doubles, 40)
    (note,) = export(module, x, config).notes
    assert re.fullmatch(
        r"at L=201 forward does something else than at the example "
        r"\(test_ranges.py:\d+: return y \* 2 if x.shape\[1\] > 200 else y\)",
        note,
    )


@pytest.mark.system
def test_sizes_that_are_no_range_are_refused_with_the_line():
    module, x, config = _made(PadsTo4, 42)
    with pytest.raises(UnsupportedError, match=r"L 41..43 only.*test_ranges.py:\d+: if x.shape\[1\] % 4:"):
        export(module, x, config)


class Pyramid(Net):
    """Two steps become one; an odd one is dropped, as in encoders of speech."""

    def forward(self, x):
        y = self.rnn(x)[0]
        if y.size(1) % 2:
            y = y[:, :-1]
        return y.reshape(y.size(0), y.size(1) // 2, -1)


@pytest.mark.system
def test_where_the_example_is_between_two_sizes_its_neighbor_is_exported():
    module, x, config = _made(Pyramid, 13)
    artifact = export(module, x, config)
    assert str(artifact.manifest.ranges["L"]) == "2..:2"
    assert re.search(
        r"example itself is out of range.*L=14.*test_ranges.py:\d+: if y.size\(1\) % 2", artifact.notes[-1]
    )
    _agrees(artifact, module, 40)


class Tables(Net):
    """Positions from a table of 64 rows, looked up or cut."""

    def __init__(self, cut):
        super().__init__()
        self.cut, self.positions = cut, nn.Embedding(64, 4)

    def forward(self, x):
        steps = x.size(1)
        added = self.positions.weight[:steps] if self.cut else self.positions(torch.arange(steps))
        return self.rnn(x + added)[0]


@pytest.mark.parametrize("cut", [False, True])
def test_a_table_of_positions_ends_the_range(cut):
    torch.manual_seed(0)
    artifact = export(Tables(cut).eval(), torch.randn(2, 9, 4), ExportConfig())
    assert str(artifact.manifest.ranges["L"]) == "1..64"
    assert re.match(r"at L=65 forward refuses its inputs \(test_ranges.py:\d+: .*\): ", artifact.notes[0])
    with pytest.raises(InputError, match=r"axis L .* is 65, this file accepts 1..64"):
        load(artifact.model).run(np.zeros((1, 65, 4), np.float32))


class OneSeries(nn.Module):
    """The tutorial of monthly passengers: ``input_seq (L,)``, and the state kept in an attribute."""

    def __init__(self):
        super().__init__()
        self.lstm, self.linear = nn.LSTM(1, 6), nn.Linear(6, 1)
        self.hidden_cell = (torch.zeros(1, 1, 6), torch.zeros(1, 1, 6))

    def forward(self, input_seq):
        steps = len(input_seq)
        out, self.hidden_cell = self.lstm(input_seq.view(steps, 1, -1), self.hidden_cell)
        return self.linear(out.view(steps, -1))[-1]


def test_a_module_that_keeps_its_state_is_run_from_the_same_state_at_every_size():
    torch.manual_seed(0)
    artifact = export(OneSeries(), torch.randn(12), ExportConfig())
    assert artifact.manifest.ranges == {}
    assert artifact.manifest.streamable
    assert load(artifact.model).stream().step(np.zeros(1, np.float32)).shape == (1,)


class Squeezes(Net):
    def forward(self, x):
        return self.rnn(x)[1][0][..., :1].squeeze()


def test_one_note_names_the_line_that_drops_an_axis_of_one():
    module, x, config = _made(Squeezes, 9)
    artifact = export(module, x, config)
    assert str(artifact.manifest.ranges["N"]) == "2.."
    (remedy,) = artifact.notes
    assert re.match(r"test_ranges.py:\d+: .*squeeze\(\) drops axis N where it is 1.*--input x=1,L,4", remedy)


class Padded(nn.Module):
    """Tokens with 0 for padding in front; a row of padding alone is refused, as packing does."""

    def __init__(self):
        super().__init__()
        self.embed, self.rnn = nn.Embedding(20, 4), nn.GRU(4, 5, batch_first=True)

    def forward(self, tokens):
        lengths = (tokens != 0).sum(1)
        packed = pack_padded_sequence(self.embed(tokens), lengths, batch_first=True, enforce_sorted=False)
        return self.rnn(packed)[1][-1]


def test_rows_that_are_drawn_empty_cost_no_size():
    torch.manual_seed(0)
    tokens = torch.randint(1, 20, (3, 9))
    tokens[1:, :4] = 0
    assert export(Padded(), tokens, ExportConfig()).manifest.ranges == {}


def test_a_range_by_hand_is_verified_stated_and_held_to():
    _, x, config = _made(Net, 8, ranges={"L": AxisRange(6, 40, 2)})
    artifact = export(nn.LSTM(4, 5, batch_first=True).eval(), x, config)
    assert artifact.manifest.ranges == {"L": AxisRange(6, 40, 2)}
    assert {case.sizes["L"] for case in artifact.equivalence.cases} <= set(range(6, 41, 2))
    with pytest.raises(InputError, match=r"use a multiple of 2, such as 8"):
        load(artifact.model).run(np.zeros((1, 7, 4), np.float32))


@pytest.mark.parametrize(
    ("module", "steps", "limits", "error", "message"),
    [
        (
            Doubles,
            40,
            AxisRange(2, 300),
            UnsupportedError,
            "1..200 is what the file takes; at L=201.*test_ranges",
        ),
        (Wide, 40, AxisRange(8), InputError, "8.. is asked for, 16.. is what the file takes.*module itself"),
    ],
)
def test_a_range_by_hand_that_does_not_hold_is_refused(module, steps, limits, error, message):
    module, x, config = _made(module, steps, ranges={"L": limits})
    with pytest.raises(error, match=message):
        export(module, x, config)


class Waves(Net):
    """Four samples of a wave for every frame."""

    def forward(self, wave, frames):
        return self.rnn(wave.reshape(frames.size(0), -1, 4) + frames)[0]


def test_an_axis_may_be_a_multiple_of_another():
    torch.manual_seed(0)
    module = Waves().eval()
    config = ExportConfig(inputs={"wave": ("N", "4*L"), "frames": ("N", "L", 4)})
    artifact = export(module, (torch.randn(2, 24), torch.randn(2, 6, 4)), config)
    assert artifact.manifest.outputs[0].axes == ("N", "L", 5)
    wave, frames = torch.randn(3, 44), torch.randn(3, 11, 4)
    model = load(artifact.model)
    with torch.no_grad():
        expected = module(wave, frames).numpy()
    got = model.run({"wave": wave.numpy(), "frames": frames.numpy()})[0]["output"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match=r"wave has shape \(3, 44\)|frames has shape \(3, 10, 4\)"):
        model.run({"wave": wave.numpy(), "frames": frames.numpy()[:, :10]})


class Joins(Net):
    """Two series one after the other, and a mask over both."""

    def forward(self, mask, past, future):
        return self.rnn(torch.cat([past, future], 1) * mask.unsqueeze(-1))[0]


def test_an_axis_may_be_the_sum_of_two():
    torch.manual_seed(0)
    config = ExportConfig(inputs={"mask": ("N", "L+P"), "past": ("N", "L", 4), "future": ("N", "P", 4)})
    module = Joins().eval()
    artifact = export(module, (torch.ones(2, 9), torch.randn(2, 5, 4), torch.randn(2, 4, 4)), config)
    model, feeds = load(artifact.model), (torch.ones(3, 10), torch.randn(3, 7, 4), torch.randn(3, 3, 4))
    with torch.no_grad():
        expected = module(*feeds).numpy()
    named = dict(zip(("mask", "past", "future"), (each.numpy() for each in feeds), strict=True))
    np.testing.assert_allclose(model.run(named)[0]["output"], expected, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match=r"mask has shape \(3, 9\), expected \(N, L\+P\) with N=3"):
        model.run(named | {"mask": named["mask"][:, :9]})


def _run(allowed, refused=()):
    return lambda size: SAME if size in allowed else REFUSED if size in refused else DIFFERS


EVERY = range(1, 10**7)


@pytest.mark.parametrize(
    ("size", "promised", "run", "limits", "ends"),
    [
        (9, range(2, 10**10), _run(EVERY), AxisRange(), ()),
        (9, range(2, 10**10), _run(range(2, 10**7)), AxisRange(2), (1,)),
        (40, range(17, 10**10), _run(range(16, 10**7), range(16)), AxisRange(16), ()),
        (400, range(201, 10**10), _run(range(201, 10**7)), AxisRange(201), (200,)),
        (40, range(1, 201), _run(range(1, 201)), AxisRange(1, 200), (201,)),
        (40, range(1, 5001), _run(range(1, 5001), range(5001, 10**7)), AxisRange(1, 5000), ()),
        (40, range(8, 10**10, 4), _run(range(4, 10**7, 4), EVERY), AxisRange(4, None, 4), ()),
        (40, range(4, 10**10, 4), _run(EVERY), AxisRange(), ()),
        (40, range(100), _run([40], EVERY), AxisRange(40, 40), ()),
        (40, [40, 41], _run([n for n in EVERY[:20_000] if n % 8 < 2], EVERY), AxisRange(8, None, 8), ()),
        (40, [40], _run(EVERY[7:20_000:8], EVERY), AxisRange(8, None, 8), ()),
        (42, [40, 41, 42], _run([40, 41, 42], EVERY), AxisRange(40, 42), ()),
        (40, [*range(1, 31), *range(32, 10**6 + 2)], _run(EVERY), AxisRange(), ()),
        (40, [40], _run(EVERY), AxisRange(), ()),
        (9, range(2, 10**10), _run(range(1, 101), EVERY), AxisRange(1, 100), ()),
        (9, range(2, 10**10), _run(range(1, 101)), AxisRange(1, 100), (101,)),
        (40, range(1, 700), _run(EVERY), AxisRange(), ()),
        (40, range(1, 50_000), _run(EVERY), AxisRange(), ()),
    ],
)
def test_a_range_is_what_the_tracer_promises_and_what_running_adds(size, promised, run, limits, ends):
    held = promised if isinstance(promised, range) else set(promised)
    found = find_range(size, lambda each: each in held, run)
    assert (found.range, found.ends) == (limits, ends)


def test_a_table_is_looked_for_where_no_guard_is():
    run = _run(range(1, 5001), EVERY)
    assert find_range(9, lambda _: True, run).range == AxisRange()
    found = find_range(9, lambda _: True, run, tables=[5000, 7000])
    assert (found.range, found.refused) == (AxisRange(1, 5000), (5001,))
    short = find_range(9, lambda _: True, _run(range(1, 51), EVERY), tables=[50])  # the guards promise more
    assert (short.range, short.refused) == (AxisRange(1, 50), (51,))


def test_a_bound_in_the_code_beyond_what_is_run_is_stated():
    def coded(size):
        return size <= 50_000

    assert find_range(9, coded, _run(EVERY), coded=coded).range == AxisRange(1, 50_000)


def test_no_size_is_run_that_only_an_operator_bounds():
    def run(size):
        assert size <= 300
        return SAME

    assert find_range(9, lambda size: size < 715, run, most_run=300).range == AxisRange()
