"""The limits: rounding passes, whatever is more is another function."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from lstm_edge_exporters.verify.compare import Pair
from lstm_edge_exporters.verify.float64 import Graph64
from lstm_edge_runtime.manifest import Manifest, StateSpec, TensorSpec

SIGNAL = np.random.default_rng(0).standard_normal((50, 2)).astype(np.float32)
X = {"x": SIGNAL, "z": SIGNAL.T}
NAN = float("nan")


def wave(gain, *scale, state=False, shift=0.0):
    """Return the pair of ``sin(gain * x) * scale``: what one unit of ``x`` changes
    grows with ``gain``.

    Adding ``shift * x`` and taking ``shift * z``, which is the same, off loses digits.
    """
    text = f"""<ir_version: 10, opset_import: ["": 18]> wave
        (double[N, 2] x, double[2, N] z) => (double[N, 2] y)
        <double gain = {{{gain}}}, double[2] scale = {{{scale[0]}, {scale[1]}}}, double shift = {{{shift}}}>
        {{ gained = Mul(x, gain) sine = Sin(gained) scaled = Mul(sine, scale)
           far = Mul(x, shift) sum = Add(scaled, far)
           same = Transpose(z) off = Mul(same, shift) y = Sub(sum, off) }}"""
    graph = Graph64(ir.from_proto(onnx.parser.parse_model(text)))
    axes = ("N", 2)
    states = (StateSpec("h", "y", "float32", axes, 0.0),) if state else ()
    outputs = () if state else (TensorSpec("y", "float32", axes),)
    return Pair(Manifest((), outputs, states, "N", None), graph, graph, graph)


def off_by(run, error, row=7):
    """Return ``run`` with ``error`` added to one number of its first channel."""

    def other(feeds):
        y = run(feeds)["y"].copy()
        y[row, 0] += error
        return {"y": y}

    return other


def passes(comparisons):
    return all(comparison.ok for comparison in comparisons)


@pytest.mark.parametrize(
    ("gain", "error", "same"),
    [
        (1.0, 5e-12, True),
        (1.0, 1e-9, False),
        (1.0, NAN, False),
        (1e6, 1e-9, True),  # as much as a few units of float64 do
        (1e6, 1e-6, False),
        (1e16, 1.0, True),  # no digit is left
        (1e16, 1e3, False),
    ],
)
def test_a_graph_in_float64_is_its_reference_but_for_rounding(gain, error, same):
    pair = wave(
        gain, 1, 1e6
    )  # in units of its own, each channel has a limit of its own
    other = Pair(pair.manifest, pair.graph, off_by(pair.graph, error), pair.engine)
    assert passes(pair.equal(X))
    assert passes(other.equal(X)) == same
    share = np.nan_to_num(error, nan=np.inf)
    assert pair.relative(other.reference(X), pair.graph(X)) == pytest.approx(
        share, rel=0.1
    )


def test_where_some_elements_say_nothing_the_others_are_compared():
    pair = wave(1e16, 1, 1)
    x = {
        **X,
        "x": SIGNAL * np.where(np.arange(50) < 5, 1e-8, 1)[:, None],
    }
    for row, same in ((3, False), (7, True)):
        assert (
            passes(
                Pair(
                    pair.manifest, pair.graph, off_by(pair.graph, 0.5, row), pair.engine
                ).equal(x)
            )
            == same
        )


def test_digits_may_cancel_in_the_graph_or_in_the_reference():
    plain = wave(1.0, 1, 1)
    shifted = wave(1.0, 1, 1, shift=1e6)
    for one, other in ((plain, shifted), (shifted, plain)):
        assert passes(Pair(one.manifest, one.graph, other.graph, one.engine).equal(X))
    assert not passes(plain.within(plain.graph(X), shifted.graph(X), X))


@pytest.mark.parametrize(
    ("gain", "scale", "error", "near"),
    [
        (1.0, (1, 1e6), 5e-5, True),
        (1.0, (1, 1e6), 1e-4, False),
        (1.0, (1, 1e6), NAN, False),
        (1e3, (1, 1e6), 5e-4, True),  # as much as a few units of float32 do
        (1e3, (1, 1e6), 2e-2, False),
        (3e5, (1, 1e6), 3.5, True),  # no digit is left
        (1e6, (1, 1e6), 9.0, False),
        (1.0, (1e-9, 1), 2e-7, True),  # the error of any sigmoid near 0
        (1.0, (1e-9, 1), 1e-6, False),
    ],
)
def test_an_engine_is_near_the_graph_in_float64(gain, scale, error, near):
    pair = wave(gain, *scale)
    assert passes(pair.rounding(X))
    assert passes(pair.rounding(X, off_by(pair.graph, error))) == near


def test_the_units_of_a_state_share_a_limit_in_float32():
    for state in (False, True):
        pair = wave(1.0, 1e-3, 1, state=state)
        assert passes(pair.rounding(X, off_by(pair.graph, 4e-5))) == state


def test_an_output_that_is_missing_or_has_another_shape_differs():
    pair = wave(1.0, 1, 1)
    others = {
        "y is missing": {},
        "y has shape (1, 2), expected (50, 2)": {"y": pair.graph(X)["y"][:1]},
    }
    for words, other in others.items():
        (comparison,) = pair.within(other, pair.graph(X), X)
        assert not comparison.ok
        assert str(comparison) == words
