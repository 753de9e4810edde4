"""Run folders and bare checkpoints: what comes back, and what is refused by what is
wrong."""

import hashlib
import json
import os
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from lstm_edge.checkpoint import Run, load, save
from lstm_edge.lstm1 import LSTM1
from lstm_edge.run_files import MODEL
from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError
from lstm_edge_runtime.manifest import Signal, Task, Trained

SIZES = {
    "num_classes": 3,
    "input_size": 2,
    "hidden_size": 4,
    "num_layers": 1,
    "seq_length": 9,
}
VARIANTS = [
    {},
    {"num_layers": 3},
    {"bias": False},
    {"bidirectional": True},
    {"bidirectional": True, "readout": "last"},
    {"proj_size": 2, "num_layers": 2},
    {"proj_size": 2, "bidirectional": True, "readout": "last"},
    {"dtype": torch.float64},
    {"dtype": torch.bfloat16},
]
ONLY_RUNS = [{"num_layers": 2, "dropout": 0.5}, {"readout": "last", "added": (1, 0, 1)}]


def net(**options):
    torch.manual_seed(0)
    return LSTM1(**{**SIZES, **options})


def scaled(**options):
    return net(**options).set_scales(
        (torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.25]))
    )


def full_run(**options):
    return Run(
        model=scaled(**options),
        task=Task("classification", "logits", labels=("rest", "läuft", "run")),
        signal=Signal(("ax", "ay"), 10.0, 9, "2 steps"),
        trained=Trained(True, 9, 0.5),
        summary={"accuracy": 0.75},
    )


def edit(folder, **changes):
    """Change the metadata of a run."""
    path = folder / MODEL
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["lstm-edge"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {"lstm-edge": json.dumps({**facts, **changes})})


@pytest.fixture
def folder(tmp_path):
    save(full_run(), tmp_path / "run")
    return tmp_path / "run"


def assert_same(left, right):
    assert left.state_dict().keys() == right.state_dict().keys()
    for name, tensor in left.state_dict().items():
        assert torch.equal(tensor, right.state_dict()[name]), name
        assert tensor.dtype == right.state_dict()[name].dtype


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("options", [*VARIANTS, *ONLY_RUNS], ids=str)
def test_a_run_comes_back_from_its_folder(tmp_path, options):
    run = full_run(**options)
    saved = save(run, tmp_path / "runs" / "a")
    for path in (tmp_path / "runs" / "a", tmp_path / "runs" / "a" / MODEL):
        again = load(path)
        assert_same(again.model, run.model)
        assert again.model.options == run.model.options
        assert not again.model.training
        x = torch.ones(2, 5, 2, dtype=run.model.fc.weight.dtype)
        assert torch.equal(again.model(x), run.model.eval()(x))
        assert (again.task, again.signal, again.trained) == (
            run.task,
            run.signal,
            run.trained,
        )
    content = (tmp_path / "runs" / "a" / MODEL).read_bytes()
    assert again.sha256 == saved.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_sizes_of_a_bare_checkpoint_are_inferred(tmp_path, options, suffix):
    model = net(**options)
    path = tmp_path / f"model{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(model.state_dict(), path)
    run = load(path)
    assert_same(run.model, model)
    assert run.model.options == {**model.options, "seq_length": 1}
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (run.task, run.signal, run.sha256) == (None, Signal(), sha256)


@pytest.mark.parametrize("wrapper", ["model_state_dict", "state_dict", None])
@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "_orig_mod.", "a.b.", "model.net."]
)
def test_checkpoints_of_training_scripts_are_unwrapped(tmp_path, wrapper, prefix):
    tensors = {f"{prefix}{name}": tensor for name, tensor in net().state_dict().items()}
    optimizer = torch.optim.Adam(net().parameters()).state_dict()
    content = (
        {wrapper: tensors, "epoch": 3, "optimizer_state_dict": optimizer}
        if wrapper
        else tensors
    )
    torch.save(content, tmp_path / "a.pt")
    message = f"a.pt: took the tensors whose names begin with '{prefix}', without it$"
    with pytest.warns(UserWarning, match=message):
        assert_same(load(tmp_path / "a.pt").model, net())


def test_tensors_beside_the_prefix_are_left_out_with_their_number(tmp_path):
    """As of a Lightning module with a loss of its own."""
    tensors = {f"model.{name}": tensor for name, tensor in net().state_dict().items()}
    tensors["criterion.weight"] = torch.ones(3)
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match="left out 1 other tensor"):
        assert_same(load(tmp_path / "a.ckpt").model, net())


def test_two_networks_in_one_checkpoint_are_not_guessed(tmp_path):
    tensors = {
        f"{prefix}.{name}": tensor
        for prefix in ("student", "teacher")
        for name, tensor in net().state_dict().items()
    }
    torch.save(tensors, tmp_path / "a.pt")
    with pytest.raises(FileFormatError, match=r"no matrix lstm\.weight_ih_l0"):
        load(tmp_path / "a.pt")


class Runs:
    def __reduce__(self):
        return (os.mkdir, ("pwned",))


def test_files_with_more_or_less_than_tensors_are_refused_and_do_not_run(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    torch.save({"lstm.weight_ih_l0": Runs()}, "evil.pt")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Runs()))
    (tmp_path / "lfs.pt").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    torch.save(net(), tmp_path / "whole.pt")
    for name, message in (
        ("evil.pt", r"loading it could run.*state_dict"),
        ("evil.pkl", "could run code, so it is refused"),
        ("lfs.pt", "a git-lfs pointer, not the file itself; run: git lfs pull"),
        ("whole.pt", r"loading it could run code.*save model\.state_dict\(\)"),
    ):
        with pytest.raises(FileFormatError, match=message):
            load(name)
    assert not (tmp_path / "pwned").exists()


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    content=st.binary(max_size=80),
    suffix=st.sampled_from([".pt", ".safetensors", ".onnx"]),
)
def test_foreign_bytes_and_truncated_files_are_refused_in_one_line(
    tmp_path_factory, content, suffix
):
    path = tmp_path_factory.mktemp("foreign") / f"file{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(net().state_dict(), path)
    for wrong in (content, path.read_bytes()[: 20 * len(content)]):
        path.write_bytes(wrong)
        with pytest.raises(FileFormatError) as caught:
            load(path)
        assert "\n" not in str(caught.value)


def with_(num_layers=1, **changes):
    return {**net(num_layers=num_layers).state_dict(), **changes}


def without(name):
    return {key: tensor for key, tensor in net().state_dict().items() if key != name}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_(num_layers=2, **{"lstm.weight_hh_l1": torch.zeros(16, 5)}), r"weight_hh_l1: .*\[16, 5\]"),
        (with_(extra=torch.zeros(2)), r"Unexpected key.*extra"),
        (without("fc.bias"), r"Missing key.*fc\.bias"),
        (with_(**{"fc.bias": torch.tensor([0.0, float("nan"), 1])}), r"fc\.bias has values"),
        ({key: tensor.char() for key, tensor in with_().items()}, "torch.int8.*, expected one float"),
        (with_(x_mean=torch.zeros(2)), "describe an LSTM1: .*x_std"),
        (with_(x_mean=torch.zeros(2), x_std=torch.zeros(2)), "the std of x is"),
        ({"epoch": 3, "model": with_()}, r"more than named dense tensors.*save only model\.state_dict"),
        ([1, 2], "more than named dense tensors"),
        (torch.nn.GRU(5, 4).state_dict(), r"export mynet:build --weights .*a\.pt --input x=N,L,5 -o a\.onnx"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_does_not_fit_is_refused_by_tensor(
    tmp_path, content, message
):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(FileFormatError, match=message):
        load(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {**net().options, "readout": 8}}, "does not describe an LSTM1: readout is 8"),
        ({"network": {"readout": "last"}}, "does not describe an LSTM1"),
        ({"network": {**net().options, "readout": "last", "added": [5, 0, 0]}}, r"added is \(5, 0, 0\)"),
        ({"signal": {"features": "ab"}}, "malformed"),
        ({"trained": {"carry": 1, "window": None, "reset": 1.0}}, "malformed .*1, expected bool"),
        ({"task": 3}, r"malformed \('int' object"),
        ({"task": {"output": "x"}}, "malformed .*'kind'"),
        ({"signal": Signal(("a",))._asdict()}, "has 1 entries"),
    ],
)  # fmt: skip
def test_malformed_metadata_are_refused_by_what_is_wrong(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises((FileFormatError, InputError), match=message):
        load(folder)


def test_paths_that_are_not_there_are_named(tmp_path):
    with pytest.raises(NotFoundError, match=r"nothing\.pt does not exist"):
        load(tmp_path / "nothing.pt")
    with pytest.raises(
        NotFoundError, match=r"has no model\.safetensors; expected a run"
    ):
        load(tmp_path)
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InputError, match="can't create the folder"):
        save(full_run(), tmp_path / "run")
