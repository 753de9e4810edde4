"""The comparison core: cases, the reference, and a verdict that can fail."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.parser import parse_model
from torch import nn

from lstm_edge_exporters.numerics.cases import GRID, Case, CaseGenerator, InputSpec
from lstm_edge_exporters.numerics.compare import Function
from lstm_edge_exporters.numerics.graph64 import Graph64, MeasuredGraph
from lstm_edge_exporters.numerics.reference import Injection, Signature, TorchReference, flatten_output
from lstm_edge_exporters.numerics.verify import verify
from lstm_edge_runtime.errors import CheckFailedError, InputError

CASES = CaseGenerator(
    (
        InputSpec("x", "float32", ("N", "L", 2), example=np.array([[[0, 100], [2, 300]]], np.float32)),
        InputSpec("tokens", "int64", ("N", "L"), example=np.array([[3, 9]])),
        InputSpec("lengths", "int64", ("N",), "lengths"),
        InputSpec("h_0", "float32", (2, "N", 3), "state", reset=np.full((2, 1, 3), 0.5, np.float32)),
    ),
    "N",
    "L",
)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(1, 40), st.booleans(), st.booleans(), st.integers(0, 99))
def test_a_case_is_what_its_inputs_say(n, length, at_reset, ordered, offset):
    cases = replace(CASES, sorted_lengths=ordered)
    case = cases.case(n, length, at_reset=at_reset, offset=offset, full=True)
    assert case.sizes == {"N": n, "L": length}
    assert {name: array.shape for name, array in case.feeds.items()} == {
        "x": (n, length, 2), "tokens": (n, length), "lengths": (n,), "h_0": (2, n, 3)
    }  # fmt: skip
    assert case.feeds["tokens"].min() >= 3
    assert case.feeds["tokens"].max() <= 9
    lengths = case.feeds["lengths"]
    assert lengths.min() >= 1
    assert lengths.max() == length
    assert not ordered or (np.diff(lengths) <= 0).all()
    assert (case.feeds["h_0"] == 0.5).all() == at_reset
    again = cases.case(n, length, at_reset=at_reset, offset=offset, full=True)
    assert all(np.array_equal(array, again.feeds[name]) for name, array in case.feeds.items())


def test_each_feature_is_drawn_at_the_examples_own_scale():
    x = CASES.case(50, 200, at_reset=True).feeds["x"]
    np.testing.assert_allclose(x.mean((0, 1)), [1, 200], rtol=0.1)
    np.testing.assert_allclose(x.std((0, 1)), [1, 100], rtol=0.1)


def test_the_grid_has_six_sizes_with_states_at_reset_and_not():
    cases = list(CASES.cases())
    assert [(case.sizes["N"], case.sizes["L"]) for case in cases] == list(GRID)
    assert {case.at_reset for case in cases} == {True, False}


HALF = """<ir_version: 8, opset_import: ["" : 18]> g (float[N, 2] x) => (float[N, 2] y)
{ two = Constant <value_float = 2.0> () y = Div (x, two) }"""


class Half:
    """What the graph above computes, but for an error."""

    tensors = ()

    def __init__(self, error=0.0):
        self.error = error

    def run64(self, feeds):
        return {"y": np.float64(feeds["x"]) / 2 * (1 + self.error)}


def run(reference, cases, engine=lambda feeds: {"y": feeds["x"] / 2}):
    return verify(Function(Graph64(parse_model(HALF)), reference, {"y": (-1,)}), engine, cases)


def case(x=1.0):
    return Case({"N": 3}, {"x": np.full((3, 2), x, np.float32)}, at_reset=False)


def test_an_equal_file_passes_and_its_figures_are_kept():
    found = run(Half(), [case(1.0), case(2.0)])
    assert found.max_abs == 0
    assert found.equality.largest == 0
    assert str(found.equality) == "in float64 to 0"
    assert found.to_dict()["cases"] == ["N=3"]


def test_figures_without_a_bound_are_json():
    record = replace(run(Half(), [case()]).records[0], floor=float("inf"))
    found = replace(run(Half(), [case()]), records=(record,), unverified={"y[0]": float("inf"), "y[1]": 0.5})
    kept = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (kept["floor"], kept["unverified"]) == (None, {"y[0]": None, "y[1]": 0.5})


def test_where_every_case_is_large_rounding_is_verified_on_the_smallest():
    large = [replace(case(), sizes={"N": n}, feeds={"x": np.ones((n, 2), np.float32)}) for n in (90, 30, 60)]
    found = run(Half(), large)
    assert [each.sizes["N"] for each in found.cases] == [90, 30, 60]
    assert [each.shape for each in found.records] == [(30, 2)]
    with pytest.raises(CheckFailedError, match=r"at N=30: y\[30, 2\] differs by .*noise floor"):
        run(Half(), large, lambda feeds: {"y": feeds["x"] / 2 * np.float32(1 + 1e-5)})


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_an_engine_beyond_rounding_fails_at_every_scale_and_says_where(scale):
    with pytest.raises(CheckFailedError, match=r"at N=3: y\[3, 2\] differs by .* at \[0, 0\].*noise floor"):
        run(Half(), [case(scale)], lambda feeds: {"y": feeds["x"] / 2 * np.float32(1 + 1e-5)})


def test_a_graph_that_is_not_its_reference_fails_by_less_than_float32_can_tell():
    with pytest.raises(CheckFailedError, match=r"at N=3: y\[3, 2\] differs by .* of the largest value"):
        run(Half(1e-10), [case()])
    assert run(Half(1e-13), [case()]).equality.largest < 2e-13


def test_a_file_that_does_not_run_fails_with_its_size():
    def broken(feeds):
        raise RuntimeError("the shape is baked in")

    with pytest.raises(CheckFailedError, match="at N=3: the file does not run: the shape is baked in"):
        run(Half(), [case()], broken)


@pytest.mark.parametrize(("error", "ok"), [(0.0, True), (1e-5, False)])
def test_a_graph_without_a_float64_run_is_compared_in_float32_alone(error, ok):
    def engine(feeds):
        return {"y": feeds["x"] / 2}

    graph = MeasuredGraph(parse_model(HALF), engine)
    file = Function(graph, Half(error), {"y": (-1,)})
    if ok:
        assert str(verify(file, engine, [case()]).equality) == "in float32 alone"
    else:
        with pytest.raises(CheckFailedError, match="differs by"):
            verify(file, engine, [case()])


def test_an_output_of_another_shape_fails():
    with pytest.raises(CheckFailedError, match=r"y is \(2, 2\), expected \(3, 2\)"):
        run(Half(), [case()], lambda feeds: {"y": feeds["x"][:2]})


def test_sizes_that_the_reference_refuses_are_kept_and_all_of_them_fail():
    class Picky(Half):
        def run64(self, feeds):
            if feeds["x"].max() < 2:
                raise RuntimeError("too small")
            return super().run64(feeds)

    assert run(Picky(), [case(1.0), case(2.0)]).to_dict()["skipped"] == ["N=3: too small"]
    with pytest.raises(CheckFailedError, match=r"no size of the verification.*too small"):
        run(Picky(), [case(1.0)])


class Inside(nn.Module):
    """Makes float32 zeros inside, whatever dtype it runs in."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(5, 4, 2, batch_first=True)

    def forward(self, x):
        zeros = torch.zeros(2, x.size(0), 4, dtype=torch.float32)
        return self.rnn(x, (zeros, zeros))[0].float()


def test_the_reference_runs_in_float64_and_leaves_torchs_default_alone():
    module, x = Inside().eval(), torch.randn(3, 6, 5)
    reference = TorchReference(module, Signature.of(module, x), ["y"])
    wide = reference.run64({"x": x.numpy()})["y"]
    assert wide.dtype == np.float64
    assert torch.get_default_dtype() == torch.float32
    assert next(module.parameters()).dtype == torch.float32
    own = reference.run({"x": x.numpy()})["y"]
    assert own.dtype == np.float32
    assert 0 < np.abs(own - wide).max() < 1e-6


class Counted(nn.Module):
    """Computes floats from whole numbers, which PyTorch does in its default dtype."""

    def forward(self, x):
        steps = torch.arange(x.size(1))
        return x + torch.sin(steps / 7)[:, None] + (x > 0) * 0.3 + torch.where(x > 0, steps[:, None], -0.5)


def test_the_reference_computes_floats_of_whole_numbers_in_float64():
    module, x = Counted(), torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
    wide = TorchReference(module, Signature.of(module, x), ["y"]).run64({"x": x.numpy()})["y"]
    steps, x = np.arange(6)[:, None], x.numpy().astype(np.float64)
    expected = x + np.sin(steps / 7) + (x > 0) * 0.3 + np.where(x > 0, steps, -0.5)
    np.testing.assert_allclose(wide, expected, rtol=1e-15)


def test_injected_states_take_the_place_of_those_made_inside():
    module, x = Inside().eval(), torch.randn(3, 6, 5)
    injections = [
        Injection(f"{name}_0", f"{name}_n", "rnn", 0, part, 0, (0, 0), 2) for part, name in enumerate("hc")
    ]
    reference = TorchReference(module, Signature.of(module, x), ["y"], injections)
    h, c = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    got = reference.run({"x": x.numpy(), "h_0": h.numpy(), "c_0": c.numpy()})
    with torch.no_grad():
        y, (h_n, c_n) = module.rnn(x, (h, c))
    np.testing.assert_array_equal(got["y"], y.numpy())
    np.testing.assert_array_equal(got["h_n"], h_n.numpy())
    np.testing.assert_array_equal(got["c_n"], c_n.numpy())


def test_rows_of_an_injected_state_may_lie_on_any_axis():
    state = torch.arange(24.0).reshape(3, 4, 2)
    rows = Injection("s", "t", "p", 0, 0, row_axis=1, rows=(1, 0), count=2).of(state)
    assert torch.equal(rows, state[:, 1:3].movedim(1, 0))


def test_arguments_of_any_nesting_get_flat_names_and_go_back_where_they_came_from():
    class Nested(nn.Module):
        def forward(self, x, hidden, *, extra, flag=True, **others):
            return x

    module, one = Nested(), torch.zeros(1)
    example = {
        "x": one,
        "hidden": (one + 1, one + 2),
        "extra": {"a": one + 3},
        "flag": False,
        "late": one,
    }
    signature = Signature.of(module, example)
    assert signature.names == ("x", "hidden_0", "hidden_1", "extra_a", "late")
    seen = {}

    class Spy(nn.Module):
        def forward(self, *args, **kwargs):
            seen.update(args=args, kwargs=kwargs)

    signature.call(Spy(), signature.example)
    assert seen["args"][1] == (one + 1, one + 2)
    assert seen["kwargs"] == {"extra": {"a": one + 3}, "flag": False, "late": one}


def test_outputs_of_any_nesting_get_flat_names():
    one = torch.zeros(1)
    flat = flatten_output({"a": one, "b": {"c": one, "d": (one, None)}, "n": 3})
    assert [name for name, _ in flat] == ["a", "b_c", "b_d_0"]
    with pytest.raises(InputError, match="return tensors"):
        flatten_output({1, 2})
