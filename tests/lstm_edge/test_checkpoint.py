import hashlib
import json
import os
import pickle
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lstm_edge.checkpoint import Run, Scale, load, save
from lstm_edge.lstm1 import LSTM1
from lstm_edge.run_files import CONFIG
from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError
from lstm_edge_runtime.manifest import Signal, Task, Trained

SIZES = {"num_classes": 3, "input_size": 2, "hidden_size": 4, "num_layers": 1, "seq_length": 9}
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


def net(**options):
    torch.manual_seed(0)
    return LSTM1(**{**SIZES, **options})


def full_run(**options):
    return Run(
        model=net(**options),
        task=Task("classification", "logits", labels=("rest", "läuft", "run")),
        signal=Signal(("ax", "ay"), 10.0, 9),
        trained=Trained(True, 9, 0.5),
        inputs=Scale((0.5, -1.0), (2.0, 0.25)),
        summary={"accuracy": 0.75},
    )


def weights_of(folder):
    return folder / json.loads((folder / CONFIG).read_text())["weights"]["file"]


def edit(folder, **changes):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


@pytest.fixture
def folder(tmp_path):
    save(full_run(), tmp_path / "run")
    return tmp_path / "run"


def assert_same_parameters(left, right):
    assert left.state_dict().keys() == right.state_dict().keys()
    for name, tensor in left.state_dict().items():
        assert torch.equal(tensor, right.state_dict()[name]), name
        assert tensor.dtype == right.state_dict()[name].dtype


@pytest.mark.parametrize(
    "options", [*VARIANTS, {"batch_first": False, "num_layers": 2, "dropout": 0.5}], ids=str
)
def test_a_run_comes_back_whole_from_its_folder(tmp_path, options):
    run = full_run(**options)
    saved = save(run, tmp_path / "runs" / "a")
    again = load(tmp_path / "runs" / "a")
    assert_same_parameters(again.model, run.model)
    assert again.model.options == run.model.options
    assert not again.model.training
    assert (again.task, again.signal, again.inputs, again.targets) == (run.task, run.signal, run.inputs, None)
    assert (again.trained, again.summary) == (run.trained, run.summary)
    weights = weights_of(tmp_path / "runs" / "a")
    assert again.sha256 == saved.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert again.model.lstm.weight_ih_l0.requires_grad


def test_the_loaded_network_computes_the_same_and_can_be_trained_on(folder):
    run = load(folder)
    x = torch.randn(2, 5, 2)
    before = run.model(x)
    assert torch.equal(before, net()(x))
    optimizer = torch.optim.SGD(run.model.parameters(), lr=1.0)
    before.sum().backward()
    optimizer.step()
    assert not torch.equal(run.model(x), before)


def test_the_weights_file_in_a_run_folder_stands_for_the_run(folder):
    assert load(weights_of(folder)).inputs == Scale((0.5, -1.0), (2.0, 0.25))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_sizes_of_a_bare_checkpoint_are_inferred(tmp_path, options, suffix):
    model, path = net(**options), tmp_path / f"model{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(model.state_dict(), path)
    run = load(path)
    assert_same_parameters(run.model, model)
    assert run.model.options == {**model.options, "seq_length": 1}
    assert (run.task, run.inputs, run.signal) == (None, None, Signal())
    assert run.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_new_run_replaces_the_old_one_and_leaves_other_files_alone(folder):
    (folder / "model-notes.safetensors").write_bytes(b"mine")
    old = weights_of(folder)
    save(full_run(num_layers=2), folder)
    assert load(folder).model.options["num_layers"] == 2
    assert not old.exists()
    assert (folder / "model-notes.safetensors").read_bytes() == b"mine"


def test_a_save_cut_off_before_its_last_write_leaves_the_old_run(folder, monkeypatch):
    before = load(folder)

    def interrupted(target, content):
        if target.name == CONFIG:
            raise KeyboardInterrupt
        target.write_bytes(content)

    monkeypatch.setattr("lstm_edge_runtime.files.write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(full_run(num_layers=2), folder)
    assert load(folder).sha256 == before.sha256


class Runs:
    def __reduce__(self):
        return (os.mkdir, ("pwned",))


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"lstm.weight_ih_l0": Runs()}, "evil.pt")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(FileFormatError, match=r"names posix\.mkdir; loading it could run.*state_dict"):
        load("evil.pt")
    with pytest.raises(FileFormatError, match="could run code, so it is refused"):
        load("evil.pkl")
    assert not (tmp_path / "pwned").exists()


def test_a_whole_module_is_refused_with_what_to_save_instead(tmp_path):
    torch.save(net(), tmp_path / "whole.pt")
    with pytest.raises(
        FileFormatError, match=r"names .*LSTM1; loading it could run code.*save model\.state_dict\(\)"
    ):
        load(tmp_path / "whole.pt")


def test_a_dictionary_around_the_state_dict_is_refused(tmp_path):
    torch.save({"epoch": 3, "model": net().state_dict()}, tmp_path / "more.pt")
    with pytest.raises(FileFormatError, match=r"named dense tensors.*save only model\.state_dict\(\)"):
        load(tmp_path / "more.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused(tmp_path, suffix, share):
    path = tmp_path / f"cut{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(net().state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(FileFormatError, match=f"cut{suffix}"):
        load(path)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(content=st.binary(max_size=80), suffix=st.sampled_from([".pt", ".safetensors", ".onnx"]))
def test_foreign_bytes_are_refused_in_one_line(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("foreign") / f"file{suffix}"
    path.write_bytes(content)
    with pytest.raises(FileFormatError) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path):
    tensors = net(num_layers=2).state_dict()
    tensors["lstm.weight_hh_l1"] = torch.zeros(16, 5)
    torch.save(tensors, tmp_path / "misfit.pt")
    with pytest.raises(FileFormatError, match=r"lstm\.weight_hh_l1 is \(16, 5\), expected \(16, 4\)"):
        load(tmp_path / "misfit.pt")


def test_missing_and_left_over_tensors_are_named(tmp_path):
    tensors = net().state_dict()
    torch.save({**tensors, "extra.weight": torch.zeros(2)}, tmp_path / "more.pt")
    with pytest.raises(FileFormatError, match=r"has a tensor extra\.weight \(2,\) that LSTM1 does not have"):
        load(tmp_path / "more.pt")
    torch.save({name: tensors[name] for name in tensors if name != "fc.bias"}, tmp_path / "less.pt")
    with pytest.raises(FileFormatError, match=r"has no tensor fc\.bias, expected \(3,\)"):
        load(tmp_path / "less.pt")
    torch.save({"encoder.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(FileFormatError, match=r"no tensor lstm\.weight_ih_l0 \(it has encoder\.weight\)"):
        load(tmp_path / "other.pt")


def test_weights_that_are_not_finite_or_not_floats_are_refused(tmp_path):
    tensors = net().state_dict()
    torch.save({**tensors, "fc.bias": torch.tensor([0.0, float("nan"), 1.0])}, tmp_path / "nan.pt")
    with pytest.raises(FileFormatError, match=r"fc\.bias contains NaN or infinity"):
        load(tmp_path / "nan.pt")
    torch.save({name: tensor.to(torch.int8) for name, tensor in tensors.items()}, tmp_path / "int.pt")
    with pytest.raises(FileFormatError, match=r"torch\.int8, expected one float dtype"):
        load(tmp_path / "int.pt")


def test_a_configuration_that_does_not_fit_the_weights_is_refused(folder):
    edit(folder, model={**net().options, "hidden_size": 8})
    with pytest.raises(FileFormatError, match=r"lstm\.weight_ih_l0 is \(16, 2\), expected \(32, 2\)"):
        load(folder)
    edit(folder, model={**net().options, "hidden": 8})
    with pytest.raises(FileFormatError, match=r"does not describe an LSTM1: .*hidden"):
        load(folder)


def test_weights_changed_since_the_run_was_written_are_refused(folder):
    save_file(net(bias=True).state_dict() | {"fc.bias": torch.zeros(3)}, weights_of(folder))
    with pytest.raises(FileFormatError, match=r"does not match .*config\.json"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "does not describe a run"),
        ({"schema": 99}, "schema 99, this version reads 2; upgrade"),
        ({"weights": {"file": "../model.safetensors"}}, "no weights file in its own folder"),
        ({"weights": None}, "no weights file in its own folder"),
        ({"signal": {}}, "no 'features'"),
        ({"trained": {"carry": 1, "window": None, "reset": 1.0}}, "trained"),
        ({"task": 3}, r"malformed \('int' object"),
        ({"task": {}}, r"malformed \(no 'kind'\)"),
        ({"inputs": 0}, r"malformed \('int' object"),
        ({"inputs": {"mean": [0.0, 0.0], "std": [1.0, 0.0]}}, "not finite and positive"),
        ({"inputs": {"mean": [1.0], "std": [1.0]}}, "inputs.mean has 1 entries, expected 2"),
        ({"signal": {"features": ["a"], "sampling_rate": None, "window": None}}, "features has 1 entries"),
    ],
)
def test_a_malformed_configuration_is_refused_by_what_is_wrong(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(FileFormatError, match=message):
        load(folder)


@pytest.mark.parametrize("name", ["num_layers", "hidden_size", "num_classes"])
@pytest.mark.parametrize("size", [10**30, 2, -1, "2"])
def test_sizes_that_the_tensors_do_not_have_are_refused_before_anything_is_made(folder, name, size):
    edit(folder, model=load(folder).model.options | {name: size})
    with pytest.raises(FileFormatError, match=r"does not describe an LSTM1|expected \("):
        load(folder)


def test_paths_that_are_not_there_are_named(tmp_path, folder):
    with pytest.raises(NotFoundError, match=r"nothing\.pt does not exist"):
        load(tmp_path / "nothing.pt")
    with pytest.raises(NotFoundError, match=r"is not a run folder: it has no config\.json"):
        load(tmp_path)
    weights_of(folder).unlink()
    with pytest.raises(NotFoundError, match=r"model-\w+\.safetensors does not exist"):
        load(folder)


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InputError, match="can't create the run folder"):
        save(full_run(), tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_a_moved_run_folder_still_loads(folder, tmp_path):
    shutil.move(folder, tmp_path / "moved")
    assert load(tmp_path / "moved").task.labels == ("rest", "läuft", "run")
