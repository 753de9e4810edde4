"""A damaged lift is found, and files written by hand are refused, marked or
recognized."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from lstm_edge_exporters.lift import lift, pipeline
from lstm_edge_exporters.lift.running import evaluate
from lstm_edge_exporters.targets.native import to_native
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import (
    CheckFailedError,
    ContractError,
    FileFormatError,
)

RNG = np.random.default_rng(0)


def parsed(text, **weights):
    """Return the file of a graph as text; weights by name."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    for name, array in weights.items():
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(np.asarray(array), name)
        )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def weights(gates, width=3, hidden=4):
    sizes = {"W": (1, gates * hidden, width), "R": (1, gates * hidden, hidden)}
    return {
        name: (RNG.standard_normal(size) / 2).astype(np.float32)
        for name, size in sizes.items()
    }


LSTM = "g (float[T,B,3] x) => (float[T,1,B,4] y) { y = LSTM <hidden_size=4>(x, W, R) }"


def move_weight(model, states):
    value = max(
        model.graph.initializers.values(), key=lambda weight: weight.const_value.size
    )
    array = value.const_value.numpy().copy()
    array.flat[np.abs(array).argmax()] *= 1 + 2.0**-18
    value.const_value = ir.tensor(array, name=value.name)
    return states


DAMAGES = {
    "a weight by 2^-18": move_weight,
    "a reset value by 1e-6": lambda _, states: [
        states[0]._replace(reset=1e-6),
        *states[1:],
    ],
    "two states swapped": lambda _, states: [
        states[0]._replace(output=states[1].output),
        states[1]._replace(output=states[0].output),
    ],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_lift_is_refused_or_marked(monkeypatch, damage):
    real = pipeline.lift_states

    def damaged(model, nodes, **named):
        return DAMAGES[damage](model, real(model, nodes, **named))

    monkeypatch.setattr(pipeline, "lift_states", damaged)
    try:
        assert (
            "chunks are not the full sequence"
            in lift(parsed(LSTM, **weights(4))).manifest.unstreamable
        )
    except CheckFailedError as error:
        assert "differs by" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("cached_key_0", "new_cached_key_0"),
        ("embed_states", "new_embed_states"),
        ("cache_last_time", "cache_last_time_next"),
        ("state", "stateN"),
    ],
)
def test_caches_under_the_names_of_known_tools_are_states(before, after):
    text = f"""g (float[B,3,T] x, float[B,3,2] {before}) => (float[B,2,T] y, float[B,3,2] {after}) {{
        joined = Concat <axis=2>({before}, x)
        y = Conv(joined, K)
        {after} = Slice(joined, two, end, axis) }}"""
    kernel = RNG.standard_normal((2, 3, 3)).astype(np.float32)
    constants = {"two": [-2], "end": [2**40], "axis": [2]}
    lifted = lift(
        parsed(
            text,
            K=kernel,
            **{name: np.array(constant) for name, constant in constants.items()},
        )
    )
    assert [(state.input, state.output) for state in lifted.report.recognized] == [
        (before, after)
    ]
    assert lifted.manifest.unstreamable == ""


SUM = "g (float[B,T,3] x) => (float[B,T,3] y) { y = CumSum(x, one) }"
CONV = "g (float[B,1,T] x) => (float[B,2,T] y) { p = Pad(x, pads)\n y = Conv(p, K) }"


@pytest.mark.parametrize(
    ("text", "constants"),
    [
        (SUM, {"one": np.array(1)}),
        (
            CONV,
            {
                "pads": np.array([0, 0, 6, 0, 0, 0]),
                "K": RNG.standard_normal((2, 1, 7)).astype(np.float32),
            },
        ),
    ],
)
def test_convolutions_and_sums_alone_stream_without_options(text, constants):
    content = parsed(text, **constants)
    lifted = lift(content)
    assert lifted.manifest.unstreamable == ""
    x = RNG.standard_normal((1, 12, 3) if text is SUM else (1, 1, 12)).astype(
        np.float32
    )
    axis = 1 if text is SUM else 2
    whole = lift(content).manifest and np.asarray(load(lifted.model).run(x)[0]["y"])
    for file in (lifted.model, to_native(lifted.model)):
        model = load(file)
        state = None
        parts = []
        for chunk in np.split(x, [1, 6], axis):
            got, state = model.run(chunk, state)
            parts.append(got["y"])
        np.testing.assert_allclose(
            np.concatenate(parts, axis), whole, rtol=0, atol=1e-5
        )


REFUSED = {
    "reads time backwards": LSTM.replace(
        "hidden_size=4", 'hidden_size=4, direction="reverse"'
    ),
    "no state to lift": (
        "g (float[B,T,3] x) => (float[B,3] y) { y = ReduceMean <axes=[1],"
        " keepdims=0>(x) }"
    ),
    "runs inside of an If": (
        """g (float[T,B,3] x, bool f) => (float[1,B,4] y) { y = If (f) <
        then_branch = a () => (float[1,B,4] p) { u, p = RNN <hidden_size=4>(x, W, R) },
        else_branch = b () => (float[1,B,4] q) { v, q = RNN <hidden_size=4>(x, R2, R) } > }"""
    ),
    "draws random numbers": (
        LSTM.replace("y = ", "r = RandomNormalLike(x)\n z = Add(x, r)\n y = ").replace(
            "(x, W", "(z, W"
        )
    ),
    "rounds by the values": (
        "g (float[T,3] x) => (uint8[T,3] y) { y, s, z = DynamicQuantizeLinear(x) }"
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_can_not_be_lifted_is_refused_in_one_line(words):
    gates = 4 if "LSTM" in REFUSED[words] else 1
    given = weights(gates) | {"R2": np.ones((1, 4, 3), np.float32)}
    used = {name: array for name, array in given.items() if name in REFUSED[words]}
    with pytest.raises(ContractError, match=words) as caught:
        lift(parsed(REFUSED[words], **used))
    assert "\n" not in str(caught.value)


def test_a_case_of_too_many_numbers_is_not_drawn():
    text = """<ir_version: 10, opset_import: ["": 18]>
        wide (float[N, L, 65535] x) => (float[N, L, 65535] y) { y = Neg(x) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    sizes = [[{"N": 2, "L": steps}] for steps in (4008, 3)]
    values = model.graph.outputs
    ((ran, _),) = evaluate(model, values, sizes)
    assert ran == sizes[1][0]
    with pytest.raises(
        FileFormatError, match="525,328,560 numbers, at most 67,108,864"
    ):
        evaluate(model, values, sizes[:1])
