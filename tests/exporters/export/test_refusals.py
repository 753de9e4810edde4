"""Where an export can't be right it is refused, and the message says what to write
instead."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import (
    CheckFailedError,
    ContractError,
    InputError,
    UnsupportedError,
)

X = torch.randn(3, 6, 5)
LENGTHS = torch.tensor([2, 6, 4])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(5, 6, batch_first=True)
        self.cell = nn.GRUCell(5, 6)
        self.head = nn.Linear(36, 2)


class LoopOfParts(nn.Module):
    """A layer of its own kind over tokens, which takes their axis apart as ``parts``
    does."""

    def __init__(self, parts):
        super().__init__()
        self.parts = parts
        self.embedding = nn.Embedding(9, 5)
        self.cell = nn.Linear(11, 6)

    def forward(self, x):
        x = self.embedding(x) if x.dtype == torch.int64 else x
        h = x.new_zeros(x.shape[0], 6)
        for part in self.parts(x):
            h = torch.tanh(self.cell(torch.cat([part, h], 1)))
        return h


class BranchesOnLengths(Net):
    def forward(self, x, lengths):
        output, _ = self.rnn(x)
        return output if lengths.max() > 3 else -output


class NeedsOneLength(Net):
    def forward(self, x):
        return self.head(self.rnn(x)[0].reshape(x.size(0), -1))


class NoSuchOperator(Net):
    def forward(self, x):
        output, _ = self.rnn(x)
        return torch.linalg.eigvalsh(output.transpose(1, 2) @ output)


class Median(Net):
    def forward(self, x):
        return self.rnn(x)[0].median(-1).values


class SecondSmallest(Net):
    def forward(self, x):
        return self.rnn(x)[0].kthvalue(2, -1).values


class Inverse(Net):
    def forward(self, x):
        return self.rnn(x)[0] @ torch.linalg.inv(torch.eye(6) * 2)


class Random(Net):
    def forward(self, x):
        h = torch.randn(1, x.size(0), 6)
        return self.rnn(x, (h, h))[0]


class SettingInABuffer(Net):
    """Some spiking neurons keep their reset mechanism so."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mechanism", torch.tensor(0))

    def forward(self, x):
        y = self.rnn(x)[0]
        if self.mechanism == 0:
            y = y * 2
        return y


class WeightsFromData(Net):
    def forward(self, x):
        flat = [self.rnn.weight_ih_l0 * x.mean(), *self.rnn._flat_weights[1:]]
        zeros = x.new_zeros(1, x.size(0), 6)
        return torch.lstm(x, (zeros, zeros), flat, True, 1, 0.0, False, False, True)[0]


class OwnStep(nn.Module):
    """One step of a cell of linear layers; what it keeps or draws is for subclasses."""

    def __init__(self):
        super().__init__()
        self.ih = nn.Linear(5, 6)
        self.hh = nn.Linear(6, 6)
        self.h = self.seen = None

    def step(self, x, h):
        self.seen = x  # kept, and never read
        return torch.tanh(self.ih(x) + self.hh(h))


class KeepsItsState(OwnStep):
    def forward(self, x):
        h = x.new_zeros(x.size(0), 6) if self.h is None else self.h
        self.h = self.step(x, h)
        return self.h


class DrawsOutsideOfTorch(OwnStep):
    def forward(self, x):
        gain = random.gauss(1, 0.1) + np.random.rand()  # noqa: NPY002  what users write
        return self.step(x, x.new_zeros(1, 6)) * gain


class BatchInABuffer(OwnStep):
    def __init__(self):
        super().__init__()
        del self.h
        self.register_buffer("h", torch.zeros(3, 6))

    def forward(self, x):
        h = self.step(x, self.h)
        self.h.copy_(h)
        return h


class CachesBySize(Net):
    def forward(self, x):
        cache = {}
        if x.size(1) not in cache:
            cache[x.size(1)] = torch.arange(x.size(1))
        return self.rnn(x)[0] * cache[x.size(1)].unsqueeze(1)


class LooksAsAnArray(Net):
    def forward(self, x):
        return self.rnn(x)[0] * np.asarray(x).mean()


class ScalesByANumber(Net):
    def forward(self, x):
        return self.rnn(x)[0] / float(x.std())


STATE_OR_DRAW = "keeps a state in the module, or draws random numbers; take the state"


class ReturnsLess(nn.Module):
    """The second call returns one tensor less."""

    def __init__(self, least=2):
        super().__init__()
        self.calls = 0
        self.least = least

    def forward(self, x):
        self.calls += 1
        return (x, x * 2) if self.calls < self.least else (x,)


REFUSED = [
    (BranchesOnLengths, (X, LENGTHS), "values of a tensor.*torch.where"),
    (
        SettingInABuffer,
        X,
        r"if self\.mechanism == 0:\).*keep a setting as a Python number, not a buffer",
    ),
    (
        NoSuchOperator,
        X,
        r"\(test_refusals.py:\d+: return torch.linalg.eig.*aten._linalg_eigh.default",
    ),
    (
        Median,
        X,
        r"\(test_refusals.py:\d+: .*\): torch.ops.aten.median.dim; use torch.sort",
    ),
    (SecondSmallest, X, r"\): torch.ops.aten.kthvalue.default; use torch.topk"),
    (Inverse, X, r"\): torch.ops.aten.linalg_inv_ex.default; compute what depends"),
    (WeightsFromData, X, "weights are computed from the network's inputs"),
    (Random, X, STATE_OR_DRAW),
    (ReturnsLess, X, STATE_OR_DRAW),
    (KeepsItsState, X[:, 0], STATE_OR_DRAW),
    (BatchInABuffer, X[:, 0], STATE_OR_DRAW),
    (DrawsOutsideOfTorch, X[:, 0], STATE_OR_DRAW),
    (
        CachesBySize,
        X,
        r"\d+: if x\.size\(1\) not in cache.*write that line with torch's operators",
    ),
    (
        LooksAsAnArray,
        X,
        r"\d+: .*\* np\.asarray\(x\)\.mean\(\).*write that line with torch's operators",
    ),
    (ScalesByANumber, X, r"\d+: return self\.rnn\(x\)\[0\] / float.*use a mask"),
]


@pytest.mark.parametrize(
    ("module", "example", "message"), REFUSED, ids=lambda x: getattr(x, "__name__", "")
)
def test_a_module_that_can_not_be_exported_right_is_refused(module, example, message):
    with pytest.raises(UnsupportedError, match=message):
        export(module().eval(), example)


@pytest.mark.parametrize("least", [3, 5])
def test_a_module_that_returns_fewer_tensors_after_some_calls_is_refused(least):
    with pytest.raises(CheckFailedError, match="returned 1 tensors, expected 2"):
        export(ReturnsLess(least).eval(), X, ExportConfig(inputs={"x": ("N", "L", 5)}))


class PadsTheBatch(Net):
    def forward(self, x):
        return self.rnn(nn.functional.pad(x, (0, 0, 0, 0, 0, 1)))[0][:-1]


def test_rows_that_can_not_be_run_alone_are_refused():
    with pytest.raises(
        CheckFailedError, match="rows of the batch N can't be run alone"
    ):
        export(PadsTheBatch().eval(), X, ExportConfig(inputs={"x": ("N", "L", 5)}))


def test_an_operator_that_fixes_a_named_axis_is_named_with_the_axis():
    with pytest.raises(UnsupportedError, match="fixes axis 1 of x at 6"):
        export(NeedsOneLength().eval(), X, ExportConfig(inputs={"x": ("N", "L", 5)}))


@pytest.mark.parametrize(
    "example", [X, torch.randint(9, (3, 6))], ids=["features", "tokens"]
)
@pytest.mark.parametrize(
    ("parts", "again"),
    [
        (lambda x: x.unbind(1), False),
        (lambda x: x.transpose(0, 1), False),
        (lambda x: [part.squeeze(1) for part in x.split(1, dim=1)], True),
        (lambda x: [part.squeeze(1) for part in x.chunk(x.size(1), 1)], True),
    ],
    ids=["unbind", "iteration", "split", "chunk"],
)
def test_a_loop_over_a_list_of_the_parts_of_an_axis_needs_a_fixed_axis(
    parts, again, example
):
    module = LoopOfParts(parts).eval()
    if again:
        with pytest.raises(UnsupportedError, match="read behind the loop"):
            export(module, example)
    else:
        dynamic = export(module, example).manifest.inputs[0].axes
        assert dynamic == ("N", "L", *example.shape[2:])
    axes = ("N", *example.shape[1:])
    fixed = export(module, example, ExportConfig(inputs={"x": axes}))
    assert fixed.manifest.inputs[0].axes == axes


class Stereo(nn.Module):
    def forward(self, x):
        left, right = x.unbind(1)
        return left - right


def test_channels_may_be_taken_apart():
    assert export(Stereo().eval(), torch.randn(3, 2, 6)).manifest.inputs[0].axes == (
        "N",
        2,
        "L",
    )


def test_an_axis_that_has_to_be_fixed_may_be_given_as_a_number():
    artifact = export(
        NeedsOneLength().eval(), X, ExportConfig(inputs={"x": ("N", 6, 5)})
    )
    assert artifact.manifest.inputs[0].axes == ("N", 6, 5)
    assert artifact.manifest.sequence is None


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.rnn = nn.LSTM(5, 6, batch_first=True, num_layers=2, dropout=0.5)

    def forward(self, x):
        return self.norm(self.rnn(x)[0][:, -1])


def test_a_module_that_fails_on_the_example_is_refused_with_its_own_error():
    with pytest.raises(InputError, match=r"does not run on the example.*input.size"):
        export(Normed().eval(), torch.randn(3, 6, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_modules_of_other_floats_become_float32_files(dtype):
    class Typed(Net):
        def forward(self, x):
            zeros = torch.zeros(1, x.size(0), 6, dtype=dtype)
            return self.rnn(x, (zeros, zeros))[0]

    artifact = export(Typed().to(dtype).eval(), X.to(dtype))
    assert artifact.manifest.inputs[0].dtype == "float32"
    assert artifact.manifest.outputs[0].dtype == "float32"


def test_parameters_that_are_not_finite_are_refused_by_name():
    module = Normed().eval()
    module.rnn.bias_hh_l1.data[3] = float("nan")
    with pytest.raises(InputError, match=r"rnn\.bias_hh_l1 holds NaN or infinity"):
        export(module, X)


class Spread(Net):
    def forward(self, x):
        return self.rnn((x - x.mean(1, True)) / x.std(1, keepdim=True))[0]


def test_a_size_where_pytorch_gives_nan_is_noted_as_not_compared():
    artifact = export(Spread().eval(), X)
    assert [
        note
        for note in artifact.notes
        if "N=1, L=1" in note and "NaN in output" in note
    ]
    assert len(artifact.manifest.equivalence["cases"]) == 5


class Batched(Net):
    """A network whose rows depend on each other by ``mix``."""

    def __init__(self, mix):
        super().__init__()
        self.mix = mix
        self.norm = nn.BatchNorm1d(6, track_running_stats=False)

    def forward(self, x):
        return self.mix(self, x, self.rnn(x)[0])


class Centered(OwnStep):
    """A loop whose steps center the batch."""

    def forward(self, x):
        h = x.new_zeros(x.size(0), 6)
        outputs = []
        for t in range(x.size(1)):
            h = self.step(x[:, t] - x[:, t].mean(0), h)
            outputs.append(h)
        return torch.stack(outputs, 1)


class Bounded(OwnStep):
    """A loop whose states are halved where one of the batch is large."""

    def forward(self, x):
        h = x.new_zeros(x.size(0), 6)
        outputs = []
        for t in range(x.size(1)):
            h = self.step(x[:, t], h)
            h = torch.where(h.abs().sum() > 1000, 0.5, 1.0) * h
            outputs.append(h)
        return torch.stack(outputs, 1)


def normalize_batch(net, x, y):
    return net.norm(y.transpose(1, 2))


ACROSS_ROWS = {
    "mean": (lambda net, x, y: y - y.mean(0), "ReduceMean"),
    "of the input": (lambda net, x, y: y + x.mean((0, 1, 2)), "ReduceMean"),
    "batch norm in training": (normalize_batch, "ReduceMean"),
    "softmax": (lambda net, x, y: y.softmax(0), "Softmax"),
    "attention": (lambda net, x, y: y[:, -1] @ y[:, -1].T @ y[:, -1], "MatMul"),
    "similarity": (lambda net, x, y: y[:, -1] @ y[:, -1].T, r"shape \(3, 1\), exp"),
    "number of rows": (lambda net, x, y: y / x.size(0), "Div"),
    "numbers of rows": (
        lambda net, x, y: y + torch.arange(len(x))[:, None, None],
        "Add",
    ),
    "last row": (lambda net, x, y: y + y[-1:], "Add"),
    "any beyond a threshold": (
        lambda net, x, y: torch.where((x.abs() > 6).any(), 2.0, 1.0) * y,
        r"ReduceMax .*, test_refusals.py:\d+: return self.mix",
    ),
    "mean beyond a threshold": (
        lambda net, x, y: y + torch.relu(x.mean() - 5),
        "ReduceMean .*output differs at values that no case has",
    ),
    "two rows or more": (
        lambda net, x, y: y - y.mean(0) if len(x) > 1 else y,
        "ReduceMean",
    ),
}


@pytest.mark.parametrize("name", ACROSS_ROWS)
def test_rows_that_depend_on_each_other_are_refused_at_the_operator(name):
    mix, where = ACROSS_ROWS[name]
    module = Batched(mix).eval()
    about = f"rows of the batch N depend on each other.*{where}.*N as a number"
    with pytest.raises(CheckFailedError, match=about):
        export(module, X)
    if "similarity" not in name:
        fixed = export(module, X, ExportConfig(inputs={"x": (3, "L", 5)}))
        outputs, _ = load(fixed.model).run(X.numpy())
        want = module(X).detach().numpy()
        np.testing.assert_allclose(outputs["output"], want, atol=1e-5)


def test_rows_that_depend_on_each_other_in_a_loop_are_refused():
    for module, line in (
        (Centered(), r"ReduceMean .*: h = self.step\(x\[:, t\] - "),
        (Bounded(), r"ReduceSum .*: h = torch.where\("),
    ):
        with pytest.raises(CheckFailedError, match=rf"depend on each other \({line}"):
            export(module.eval(), X)


class Rate(OwnStep):
    """A cell that also returns a number of the whole batch."""

    def forward(self, x, h):
        h = self.step(x, h)
        return {"h": h, "rate": h.mean()}


def test_a_result_of_the_whole_batch_is_for_one_stream_alone():
    example = {"x": X[:, 0], "h": torch.zeros(3, 6)}
    model = load(export(Rate().eval(), example).model)
    assert model.stream().step(X[0, 0].numpy()).shape == ()
    with pytest.raises(ContractError, match="rate"):
        model.streams(3)


class OfOneRow(nn.Module):
    """A network without recurrent layers that drops the axis of one row."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(5, 6)

    def forward(self, x):
        return torch.tanh(self.line(x.squeeze(0)))


def test_the_free_axis_of_one_row_is_time():
    manifest = export(OfOneRow().eval(), X[:1]).manifest
    assert (manifest.inputs[0].axes, manifest.batch, manifest.sequence) == (
        (1, "L", 5),
        None,
        "L",
    )


@pytest.mark.parametrize(
    ("module", "got"),
    [
        (torch.nn.LSTM, "got the class LSTM"),
        (torch.nn.LSTM(3, 4).state_dict(), "got OrderedDict"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_module_is_refused_with_what_came(module, got):
    with pytest.raises(InputError, match=f"{got}, expected a torch.nn.Module; create"):
        export(module, torch.zeros(1, 5, 3))
