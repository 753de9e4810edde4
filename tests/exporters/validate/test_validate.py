"""``validate``: healthy files pass, faults are found, and the report begins with the
cause."""

import re
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from benchmarks.proof.healthy import draw_network
from lstm_edge_exporters import ExportConfig, export, validate
from lstm_edge_exporters.lift import LiftConfig, lift
from lstm_edge_exporters.quantize import QuantizeConfig, Samples, quantize
from lstm_edge_exporters.validate.config import ValidateConfig
from lstm_edge_exporters.validate.expected import against_file, against_module
from lstm_edge_exporters.verify.file import open_file
from lstm_edge_runtime.errors import CheckFailedError, InputError
from lstm_edge_runtime.manifest import AxisRange
from lstm_edge_runtime.native import installed

from . import faults

QUICK = ValidateConfig(quick=True)


@pytest.mark.parametrize(
    "form", ["plain", "stacked", "both_ways", "projected", "scaled", "tokens"]
)
def test_a_healthy_file_passes(form, made, examine):
    report = examine(made(form))
    assert report.ok, report.verdict
    assert report.verdict == ""
    engines = [check.name for check in report.groups[-1].checks]
    assert (
        not installed() or form == "both_ways" or "native engine, self-test" in engines
    )


@pytest.mark.slow
@pytest.mark.parametrize("form", ["plain", "projected", "scaled", "tokens"])
def test_a_healthy_file_passes_the_full_run(form, made, examine):
    assert examine(made(form), quick=False).ok


FAULTS = [
    ("plain", faults.one_ulp_of_a_weight, "function"),
    ("plain", faults.one_ulp_of_a_bias, "function"),
    ("scaled", faults.one_number_of_the_head, "function"),
    ("projected", faults.one_ulp_of_a_weight, "function"),
    ("plain", faults.gates_exchanged, "function"),
    ("plain", faults.state_not_carried, "function"),
    ("plain", faults.state_ignored, "function"),
    ("plain", faults.runs_backwards, "function"),
    ("plain", faults.gates_clipped, "inputs"),
    ("scaled", faults.another_epsilon, "function"),
    ("scaled", faults.first_steps_only, "function"),
    ("scaled", faults.rows_mixed, "states"),
    ("tokens", faults.first_steps_only, "function"),
]


FAULTY = [(form, fault) for form, fault, _ in FAULTS]
OTHER_VERSIONS = {
    "provenance": lambda provenance: {**provenance, "versions": {"torch": "2.0"}}
}


@pytest.mark.parametrize(("form", "fault"), FAULTY)
def test_a_fault_of_the_graph_is_found_node_by_node(
    form, fault, made, examine, tmp_path
):
    case = made(form)
    model = onnx.load(case.path)
    fault(model)
    report = examine(case, faults.save(model, tmp_path / "faulty.onnx"))
    group, check, _ = report.headlines[0]
    assert group.key == "graph", (group.key, check)
    assert report.verdict.startswith(group.advice)


@pytest.mark.parametrize(("form", "fault", "first"), FAULTS)
def test_a_fault_is_found_in_values_where_other_versions_made_the_file(
    form, fault, first, made, examine, tmp_path
):
    case = made(form)
    model = onnx.load(case.path)
    fault(model)
    faults.restate(model, **OTHER_VERSIONS)
    report = examine(case, faults.save(model, tmp_path / "faulty.onnx"))
    assert not report.ok
    group, check, _ = report.headlines[0]
    assert group.key == first, (group.key, check)
    assert report.verdict.startswith(group.advice)


def test_a_graph_of_other_versions_passes_by_its_values(made, examine, tmp_path):
    model = onnx.load(made("scaled").path)
    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if read == name else read for read in node.output]
    model.graph.node.append(helper.make_node("Identity", ["before"], [name]))
    path = faults.save(model, tmp_path / "m.onnx")
    assert examine(made("scaled"), path).headlines[0][0].key == "graph"
    faults.restate(model, **OTHER_VERSIONS)
    report = examine(made("scaled"), faults.save(model, path))
    assert report.ok, report.verdict
    (check,) = next(g.checks for g in report.groups if g.key == "graph")
    assert check.status == "skipped"
    assert "torch 2.0 (here " in check.message
    assert f"output {name!r} is node" in check.message


def test_order_and_names_of_nodes_do_not_matter(made, examine, tmp_path):
    model = onnx.load(made("plain").path)
    graph = model.graph
    renamed = {
        name: f"v{i}" for i, node in enumerate(graph.node) for name in node.output
    }
    renamed = {
        old: new
        for old, new in renamed.items()
        if old not in {value.name for value in graph.output}
    }
    waiting = list(graph.node)
    known = {"", *(x.name for x in (*graph.input, *graph.initializer))}
    ordered = []
    while waiting:  # the last that can run comes first
        ready = [node for node in waiting if known.issuperset(node.input)]
        ordered.append(ready[-1])
        waiting.remove(ready[-1])
        known.update(ready[-1].output)
    assert ordered != list(graph.node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    for number, node in enumerate(copies):
        node.name = f"n{number}"
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        graph.node.append(node)
    report = examine(made("plain"), faults.save(model, tmp_path / "m.onnx"))
    assert report.ok, report.verdict


NAMED = [
    (faults.state_ignored, r"node '\S*l0' \(LSTM\): operand 5 is left out, expected"),
    (faults.gates_clipped, r"node '\S*l0' \(LSTM\): clip is 4.0, expected none"),
    (
        faults.one_ulp_of_a_weight,
        r"W\S* is \S+ at \[\d+, \d+, \d+\], expected \S+; weights",
    ),
    (faults.gates_exchanged, r"W\S* is \S+ at \[0, 0, 0\] and at \d+ more, expected"),
]


@pytest.mark.parametrize(("fault", "words"), NAMED)
def test_the_changed_node_or_number_is_named(fault, words, made, examine, tmp_path):
    model = onnx.load(made("plain").path)
    fault(model)
    report = examine(made("plain"), faults.save(model, tmp_path / "m.onnx"))
    assert re.search(words, report.verdict), report.verdict


CLAIMS = {
    "reset": {"states": lambda states: (states[0]._replace(reset=0.5), *states[1:])},
    "range": {"ranges": {"L": AxisRange(2, 50)}},
    "unstreamable": {"unstreamable": "a layer is bidirectional"},
    "labels": {"task": lambda task: task._replace(labels=("a", "b", "c", "d"))},
    "precision": {"precision": "int8"},
    "lengths": {"padded_states": lambda padded: not padded},
    "counts": {"counts": ("logits",)},
    "opset": {"provenance": lambda provenance: {**provenance, "opset": 17}},
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_of_the_manifest_that_does_not_hold_is_found(
    claim, made, examine, tmp_path
):
    model = onnx.load(made("plain").path)
    faults.restate(model, **CLAIMS[claim])
    assert not examine(made("plain"), faults.save(model, tmp_path / "m.onnx")).ok


class Started(nn.Module):
    """Start from a learned state."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 40, batch_first=True)
        self.start = nn.Parameter(torch.randn(1, 1, 40))

    def forward(self, x):
        return self.rnn(x, self.start.expand(-1, len(x), -1).contiguous())[0]


def test_the_first_number_of_a_reset_value_that_differs_is_named(tmp_path):
    torch.manual_seed(0)
    net = Started().eval()
    x = torch.randn(2, 6, 3)
    export(net, x).save(tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")

    def changed(states):
        reset = np.array(states[0].reset)
        reset[0, 0, 31] = 7
        return (states[0]._replace(reset=reset),)

    faults.restate(model, states=changed)
    file = open_file(faults.save(model, tmp_path / "changed.onnx"))
    report = validate(file, against_module(net, file, x), QUICK)
    about = r"state h_0: reset\[0\]\[0\]\[31\] is 7.0, expected -?\d\.\d+; export again"
    assert re.search(about, report.verdict), report.verdict


def _golden(**changes):
    return {
        "golden": lambda golden: golden._replace(
            **{n: how(getattr(golden, n)) for n, how in changes.items()}
        )
    }


def _half_away(golden):
    return {
        name: (array + 0.5 * golden.limits[name]).astype(array.dtype)
        for name, array in golden.outputs.items()
    }


RECORDED = {
    "none": {"golden": None},
    "no second case": _golden(more=lambda _: ()),
    "wide limits": _golden(
        limits=lambda limits: {name: 9 * array for name, array in limits.items()}
    ),
    "a limit of int8": _golden(limit=lambda _: {"logits": 1e9}),
    "outputs half a limit away": {
        "golden": lambda golden: golden._replace(outputs=_half_away(golden))
    },
    "wrong outputs": _golden(
        outputs=lambda outputs: {name: 1.01 * array for name, array in outputs.items()}
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_golden_cases_other_than_the_exports_are_found(name, made, examine, tmp_path):
    model = onnx.load(made("stacked").path)
    faults.restate(model, **RECORDED[name])
    report = examine(made("stacked"), faults.save(model, tmp_path / "m.onnx"))
    assert next(group.key for group, _, _ in report.headlines) == "golden"
    assert report.verdict.startswith(
        "the recorded golden cases are not those of this graph; export again"
    )


def _saved_stream(path):
    """Save the stream of a network; return the network, its example and options."""
    torch.manual_seed(0)
    net = Ahead().eval()
    x = torch.randn(2, 12, 3)
    config = ExportConfig(stream=True)
    export(net, x, config).save(path)
    return net, x, config


def test_a_second_golden_case_left_out_of_a_stream_is_found(tmp_path):
    net, x, config = _saved_stream(tmp_path / "stream.onnx")
    file = open_file(tmp_path / "stream.onnx")
    expected = against_module(net, file, x, config=config)
    assert validate(file, expected, QUICK).ok
    model = onnx.load(file.path)
    faults.restate(model, **RECORDED["no second case"])
    report = validate(faults.save(model, tmp_path / "m.onnx"), expected, QUICK)
    assert next(group.key for group, _, _ in report.headlines) == "golden"


def test_a_signal_that_the_export_of_a_stream_did_not_state_is_found(tmp_path):
    net, x, config = _saved_stream(tmp_path / "stream.onnx")
    model = onnx.load(tmp_path / "stream.onnx")
    faults.restate(model, signal=lambda signal: signal._replace(missing="interpolate"))
    file = open_file(faults.save(model, tmp_path / "m.onnx"))
    report = validate(file, against_module(net, file, x, config=config), QUICK)
    failed = [check.name for group in report.groups for check in group.failed]
    assert failed == ["signal"]


def test_rows_shorter_than_the_longest_are_no_alarm_on_the_native_engine(tmp_path):
    network = draw_network("lengths", np.random.default_rng((460857271, 17)))
    export(network.module, network.example).save(tmp_path / "m.onnx")
    file = open_file(tmp_path / "m.onnx")
    report = validate(
        file, against_module(network.module, file, network.example), QUICK
    )
    assert report.ok, report.verdict


class TakesPair(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(4, 6, batch_first=True)

    def forward(self, x, states):
        return self.rnn(x, states)


class TakesDict(TakesPair):
    def forward(self, batch):
        return self.rnn(batch["x"][0])[0]


class TakesStateInADict(TakesPair):
    def forward(self, batch):
        return self.rnn(batch["x"], (batch["h"], batch["c"]))


class Batch(NamedTuple):
    x: torch.Tensor


class TakesFields(TakesPair):
    def forward(self, batch):
        return self.rnn(batch.x)[0]


SIGNAL = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
NESTED = {
    "pair": (TakesPair, (SIGNAL, (torch.zeros(1, 2, 6),) * 2)),
    "dict": (TakesDict, ({"x": [SIGNAL]},)),
    "state in a dict": (
        TakesStateInADict,
        ({"x": SIGNAL, "h": torch.zeros(1, 2, 6), "c": torch.zeros(1, 2, 6)},),
    ),
    "parallel": (lambda: nn.DataParallel(nn.LSTM(4, 6, batch_first=True)), SIGNAL),
    "compiled": (lambda: torch.compile(nn.LSTM(4, 6, batch_first=True)), SIGNAL),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")
@pytest.mark.parametrize("name", NESTED)
def test_arguments_of_a_module_are_those_of_the_export(name, tmp_path):
    make, example = NESTED[name]
    module = make().eval()
    export(module, example).save(tmp_path / "m.onnx")
    report = validate(tmp_path / "m.onnx", module, QUICK)
    assert report.ok, report.verdict


def test_arguments_with_fields_are_asked_for(tmp_path):
    module = TakesFields().eval()
    export(module, (Batch(SIGNAL),)).save(tmp_path / "m.onnx")
    with pytest.raises(
        InputError, match=r"\(batch_x, .*\) do not fit .* give an example"
    ):
        validate(tmp_path / "m.onnx", module, QUICK)
    file = open_file(tmp_path / "m.onnx")
    report = validate(file, against_module(module, file, (Batch(SIGNAL),)), QUICK)
    assert report.ok, report.verdict


def test_without_a_reference_the_golden_cases_are_replayed(made, tmp_path):
    assert validate(made("plain").path, config=QUICK).ok
    model = onnx.load(made("plain").path)
    faults.gates_exchanged(model)
    assert not validate(faults.save(model, tmp_path / "m.onnx"), config=QUICK).ok
    faults.restate(model, golden=None)
    with pytest.raises(
        InputError, match="no golden case and there is nothing to compare"
    ):
        validate(faults.save(model, tmp_path / "m.onnx"), config=QUICK)


def test_another_file_is_a_reference(made, tmp_path):
    case = made("stacked")
    file = open_file(case.path)
    assert validate(file, against_file(case.path, file), QUICK).ok
    model = onnx.load(case.path)
    faults.one_ulp_of_a_weight(model)
    file = open_file(faults.save(model, tmp_path / "m.onnx"))
    assert (
        validate(file, against_file(case.path, file), QUICK).headlines[0][0].key
        == "graph"
    )


class Decides(nn.Module):
    """Whole numbers that follow from the units of a GRU, which may all be 1."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 7, batch_first=True)

    def forward(self, x):
        y = self.gru(x)[0]
        return y.argmin(-1), torch.floor(10 * y).int(), y.topk(3).indices


def test_decisions_of_saturated_units_are_no_alarm(tmp_path):
    torch.manual_seed(0)
    module = Decides().eval()
    path = tmp_path / "net.onnx"
    export(module, torch.randn(2, 6, 3)).save(path)
    report = validate(path, module)
    assert report.ok, report.verdict


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 5, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


class Causal(Plain):
    """Look two steps back by a convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 3)

    def forward(self, x):
        return super().forward(self.conv(nn.functional.pad(x.mT, (2, 0))).mT)


class Ahead(Plain):
    """Look one step ahead."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 3, padding=1)

    def forward(self, x):
        return super().forward(self.conv(x.mT).mT)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A file without a manifest, as other exporters write it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("original") / "original.onnx"
    config = ExportConfig(inputs={"x": ("N", "L", 3)}, stateless=True)
    model = onnx.load_model_from_string(
        export(Causal().eval(), torch.randn(2, 6, 3), config).model
    )
    del model.metadata_props[:]
    onnx.save(model, path)
    return path


def test_a_lifted_file_is_compared_with_its_original(original, tmp_path):
    lift(original).save(tmp_path / "lifted.onnx")
    lift(original).save(tmp_path / "again.onnx")
    file = open_file(tmp_path / "lifted.onnx")
    for against in (original, tmp_path / "again.onnx"):
        report = validate(file, against_file(against, file), QUICK)
        assert report.ok, report.verdict
    model = onnx.load(file.path)
    faults.one_ulp_of_a_bias(model)
    file = open_file(faults.save(model, tmp_path / "m.onnx"))
    report = validate(file, against_file(original, file), QUICK)
    assert report.headlines[0][0].key == "graph"


def test_a_file_lifted_with_options_is_compared_with_its_original(original, tmp_path):
    config = LiftConfig(inputs={"x": ("rows", "time", 3)})
    lift(original, config).save(tmp_path / "lifted.onnx")
    file = open_file(tmp_path / "lifted.onnx")
    report = validate(file, against_file(original, file), QUICK)
    assert report.ok, report.verdict
    model = onnx.load(file.path)
    faults.restate(
        model, provenance=lambda provenance: {**provenance, "lift": {"inputs": 3}}
    )
    file = open_file(faults.save(model, tmp_path / "m.onnx"))
    with pytest.raises(InputError, match="as the options of its lift; lift it again"):
        against_file(original, file)


def test_a_file_without_a_manifest_is_no_reference_of_an_export(original, made):
    file = open_file(made("plain").path)
    with pytest.raises(InputError, match=r"has no manifest, and .* was not lifted"):
        against_file(original, file)


def test_other_weights_are_said_first(made):
    case = made("scaled")
    file = open_file(case.path)
    other = type(case.module)().eval()
    with torch.no_grad():
        other.head.weight += 1
    report = validate(file, against_module(other, file, case.example), QUICK)
    assert re.search(
        r"holds another graph than the reference.*rnn\S* is \S+ at \[", report.verdict
    )
    with pytest.raises(CheckFailedError, match="holds another graph"):
        report.require()
    states = next(group for group in report.groups if group.key == "states")
    assert not any("depend on each other" in check.message for check in states.checks)


def test_a_module_alone_is_a_reference(made):
    case = made("scaled")
    assert validate(case.path, case.module, QUICK).require().ok


def test_samples_of_the_data_are_compared(made, examine):
    x = np.random.default_rng(0).normal(size=(12, 9, 6)).astype(np.float32)
    report = examine(made("stacked"), data=Samples({"x": x}, np.zeros(12, np.int64)))
    for key, name in (("inputs", "sample "), ("engines", "onnxruntime, sample ")):
        (group,) = [group for group in report.groups if group.key == key]
        assert group.status == "passed"
        assert sum(check.name.startswith(name) for check in group.checks) == 12


def test_the_report_says_which_groups_test_the_file_and_which_the_exporter(
    made, examine, tmp_path
):
    tests = {group.key: group.tests for group in examine(made("plain")).groups}
    assert tests == {
        **dict.fromkeys(("contract", "graph", "golden", "engines"), "file"),
        **dict.fromkeys(("function", "states", "inputs"), "exporter"),
    }
    copied = tmp_path / "copy.onnx"
    copied.write_bytes(made("plain").path.read_bytes())
    report = validate(
        copied, against_file(made("plain").path, open_file(copied)), QUICK
    )
    skipped = [group.key for group in report.groups if group.status == "skipped"]
    assert report.ok
    assert skipped == ["function", "inputs"]  # one function can't differ from itself


@pytest.fixture(scope="module")
def smaller(made, tmp_path_factory):
    """Quantize the form ``plain`` in one of several ways."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("smaller")
    module = nn.Sequential()
    module.rnn = nn.LSTM(6, 48, batch_first=True)
    module.head = nn.Linear(48, 4)
    net = _Headed(module.rnn, module.head).eval()
    export(net, torch.randn(2, 9, 6)).save(folder / "float.onnx")
    paths = {}

    def make(name):
        if name not in paths:
            paths[name] = folder / f"{name}.onnx"
            quantize(folder / "float.onnx", WAYS[name]).save(paths[name])
        return net, folder / "float.onnx", paths[name]

    return make


class _Headed(nn.Module):
    def __init__(self, rnn, head):
        super().__init__()
        self.rnn = rnn
        self.head = head

    def forward(self, x):
        return self.head(self.rnn(x)[0])


WAYS = {
    "int8": QuantizeConfig(target="x86-vnni"),
    "7 bits": QuantizeConfig(target="x86"),
    "stored": QuantizeConfig(weights_only=True),
    "fp16": QuantizeConfig("fp16", target="x86"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_quantized_file_is_made_again(way, smaller):
    net, source, path = smaller(way)
    file = open_file(path)
    for against in (
        against_file(source, file),
        against_module(net, file, torch.randn(2, 9, 6)),
    ):
        report = validate(file, against, QUICK)
        assert report.ok, report.verdict


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("golden", RECORDED["no second case"]),
        ("golden", RECORDED["wrong outputs"]),
        ("quantized", {"unstreamable": "said so"}),
    ],
)
def test_another_claim_of_an_int8_file_is_found(key, change, smaller, tmp_path):
    _, source, path = smaller("int8")
    model = onnx.load(path)
    faults.restate(model, **change)
    file = open_file(faults.save(model, tmp_path / "m.onnx"))
    report = validate(file, against_file(source, file), QUICK)
    assert next(group.key for group, _, _ in report.headlines) == key


def one_level(model):
    kinds = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT16)
    stored = [tensor for tensor in model.graph.initializer if tensor.data_type in kinds]
    largest = max(stored, key=lambda tensor: np.prod(tensor.dims))
    faults.change(
        model,
        largest.name,
        lambda array: array + np.eye(1, array.size, 3).reshape(array.shape),
    )


def scale_of_one_percent(model):
    vectors = [
        t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT
    ]
    scales = [t for t in vectors if "scale" in t.name] or [
        t for t in vectors if len(t.dims) == 1
    ]
    faults.change(model, scales[-1].name, lambda array: 1.01 * array)


SMALL = [(way, fault) for way in WAYS for fault in (one_level, scale_of_one_percent)]


@pytest.mark.parametrize(("way", "fault"), SMALL[:2] + SMALL[4:7])
def test_a_quantized_file_that_differs_in_one_number_is_found(
    way, fault, smaller, tmp_path
):
    _, source, path = smaller(way)
    model = onnx.load(path)
    fault(model)
    file = open_file(faults.save(model, tmp_path / "m.onnx"))
    report = validate(file, against_file(source, file), QUICK)
    assert report.headlines[0][0].key == "quantized"


class Codes(nn.Module):
    """Looks numbers up in a table of bytes, as decoders of audio do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(16, dtype=torch.uint8))
        self.rnn = nn.GRU(3, 4, batch_first=True)

    def forward(self, codes):
        return self.rnn(
            self.table[codes].to(torch.float32)[..., None].expand(-1, -1, 3) / 16
        )[0]


def test_a_table_of_bytes_makes_no_int8_file(tmp_path):
    torch.manual_seed(0)
    net = Codes().eval()
    example = torch.randint(0, 16, (2, 7))
    export(net, example).save(tmp_path / "m.onnx")
    assert open_file(tmp_path / "m.onnx").precision == "fp32"
    validate(tmp_path / "m.onnx", net, QUICK).require()
