"""The cases of a verification: a difference at some size, start, index or row is
found."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from lstm_edge_exporters.progress import ignore, in_turn
from lstm_edge_exporters.verify.cases import CaseGenerator
from lstm_edge_exporters.verify.compare import Pair
from lstm_edge_exporters.verify.float64 import Graph64
from lstm_edge_exporters.verify.verify import find_streaming, verify
from lstm_edge_runtime.errors import CheckFailedError
from lstm_edge_runtime.manifest import AxisRange, Manifest, StateSpec, TensorSpec

SUM = (
    "c = Concat<axis=1>(h, x) s = CumSum(c, one) a = Slice(s, one, end, one) b ="
    " Slice(s, last, end, one) "
)
USUAL = "y = Gather(table, t) z = Identity(a) h_n = Identity(b)"
MANIFEST = Manifest(
    (TensorSpec("x", "float32", ("N", "L", 2)), TensorSpec("t", "int64", ("N", "L"))),
    (TensorSpec("y", "float32", ("N", "L")), TensorSpec("z", "float32", ("N", "L", 2))),
    (StateSpec("h", "h_n", "float32", ("N", 1, 2), 0.0),),
)
CASES = CaseGenerator.of(MANIFEST, values={"t": 5000})


def graph(results=USUAL):
    """Return a look-up of tokens, and a running sum whose state is ``h``."""
    head = """<ir_version: 10, opset_import: ["": 18]> g (double[N, L, 2] x, int64[N, L] t, double[N, 1, 2] h)
        => (double[N, L] y, double[N, L, 2] z, double[N, 1, 2] h_n)
        <int64[1] one = {1}, int64[1] last = {-1}, int64[1] end = {9223372036854775807}, double no = {0}>"""
    proto = onnx.parser.parse_model(f"{head} {{ {SUM} {results} }}")
    table = np.random.default_rng(0).standard_normal(5000)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    return Graph64(ir.from_proto(proto))


def pair(own=None, reference=None, engine=None):
    usual = graph()
    return Pair(MANIFEST, own or usual, reference or usual, engine or usual)


def off(where, by=0.1):
    """Return the graph with ``by`` added to ``z`` where a case has what is
    ``where``."""
    usual = graph()
    return lambda feeds: (
        usual(feeds) | {"z": usual(feeds)["z"] + np.where(where(feeds), by, 0)}
    )


DIFFERENCES = {
    "late steps": (
        lambda feeds: np.arange(feeds["x"].shape[1])[:, None] >= 100,
        "at N=5, L=130",
    ),
    "one step": (lambda feeds: feeds["x"].shape[1] == 1, "at N=1, L=1"),
    "later rows": (
        lambda feeds: np.arange(len(feeds["x"]))[:, None, None] == 3,
        "at N=4, L=1",
    ),
    "a carried state": (lambda feeds: feeds["h"].any(), "at N=1, L=5"),
    "the first index": (lambda feeds: (feeds["t"] == 0)[..., None], "at N="),
    "the last index": (lambda feeds: (feeds["t"] == 4999)[..., None], "at N="),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_difference_is_found(name):
    where, place = DIFFERENCES[name]
    rounded = verify(pair(reference=off(where, 1e-13)), CASES, None, ignore)
    assert (len(rounded.cases), 0 < rounded.largest < 1e-12) == (6, True)
    with pytest.raises(CheckFailedError, match=f"{place}.*z differs by 0.1"):
        verify(pair(reference=off(where)), CASES, None, ignore)
    with pytest.raises(
        CheckFailedError, match=f"{place}.*onnxruntime in float32: z differs by 0.1"
    ):
        verify(pair(engine=off(where)), CASES, None, ignore)


def test_a_row_that_reads_another_is_found_and_a_case_without_numbers_is_named():
    mixed = graph(
        "m = ReduceSum(x) n = Mul(m, no) " + USUAL.replace("Identity(a)", "Add(a, n)")
    )
    with pytest.raises(CheckFailedError, match="one row of NaN: z differs"):
        verify(pair(own=mixed), CASES, None, ignore)
    verified = verify(
        pair(reference=off(lambda feeds: len(feeds["x"]) == 3, np.nan)),
        CASES,
        None,
        ignore,
    )
    assert (len(verified.cases), verified.skipped) == (
        5,
        ("N=3, L=8: the reference gives NaN in z",),
    )


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        (USUAL, ""),
        (
            USUAL.replace("Identity(b)", "Identity(h)"),
            "chunks are not the full sequence: z differs",
        ),
        (
            "m = ReduceMean(x, one) " + USUAL.replace("Identity(a)", "Sub(a, m)"),
            "chunks are not the full",
        ),
    ],
)
def test_chunks_that_are_not_the_full_sequence_are_found(results, reason):
    found = find_streaming(pair(*[graph(results)] * 3), CASES, 0).unstreamable
    assert found[: len(reason) or None] == reason


@pytest.mark.parametrize("name", ["L", "N"])
def test_calls_of_several_steps_or_rows_alone_are_no_chunks(name):
    manifest = MANIFEST._replace(ranges={name: AxisRange(2)})
    assert (
        f"({name}), not one"
        in find_streaming(replace(pair(), manifest=manifest), CASES, 0).unstreamable
    )


def test_lengths_are_drawn_in_falling_order_if_wanted_and_a_graph_that_ignores_them_is_told():
    manifest = MANIFEST._replace(
        inputs=(*MANIFEST.inputs, TensorSpec("n", "int64", ("N",))), lengths="n"
    )
    cases = replace(CaseGenerator.of(manifest, values={"t": 9}), sorted_lengths=True)
    for offset in range(9):
        lengths = (
            cases.case(5, 40, at_reset=True, offset=offset, full=True)
            .feeds["n"]
            .tolist()
        )
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[0] == 40
    found = find_streaming(replace(pair(), manifest=manifest), cases, 0)
    assert (found.unstreamable, found.padded_states) == ("", False)


def test_the_cases_of_a_verification_share_its_progress():
    shown = []
    items = [*in_turn("abcd", lambda share, _: shown.append(share), "case", 0.3, 0.7)]
    assert items == [*"abcd"]
    np.testing.assert_allclose(shown, [0.3, 0.4, 0.5, 0.6])
