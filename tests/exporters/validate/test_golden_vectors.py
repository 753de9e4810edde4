"""Golden vectors: ONNX's own layout, read by onnx's own tooling, replayed with and without onnx."""

import json
import unittest

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx.backend.base import Backend, BackendRep
from onnx.backend.test import runner as onnx_runner
from onnx.backend.test.case.test_case import TestCase

from lstm_edge_exporters.validate import ValidateConfig, open_file, validate
from lstm_edge_exporters.validate.module import against_module
from lstm_edge_exporters.validate.vectors import save_vectors
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.golden import INDEX, read_golden, replay


class OnnxruntimeRep(BackendRep):
    def __init__(self, model):
        self.session = onnxruntime.InferenceSession(model.SerializeToString())

    def run(self, inputs, **_):
        names = [each.name for each in self.session.get_inputs()]
        return self.session.run(None, dict(zip(names, inputs, strict=True)))


class Onnxruntime(Backend):
    @classmethod
    def prepare(cls, model, device="CPU", **_):
        return OnnxruntimeRep(model)

    @classmethod
    def supports_device(cls, device):
        return device == "CPU"


@pytest.fixture
def saved(made, tmp_path):
    one = made("plain")
    file = open_file(one.path)
    save_vectors(tmp_path / "golden", file, against_module(one.module, file, one.example), ValidateConfig())
    return tmp_path / "golden"


def test_the_folder_passes_onnx_s_own_backend_test(saved, monkeypatch):
    model = onnx.load(saved / "model.onnx")
    case = TestCase(
        name="test_golden",
        model_name="golden",
        url=None,
        model_dir=str(saved),
        model=model,
        data_sets=None,
        kind="real",
        rtol=1e-4,
        atol=1e-6,
    )
    monkeypatch.setattr(onnx_runner, "load_model_tests", lambda **_: [])  # onnx's own cases
    runner = onnx_runner.Runner(Onnxruntime, __name__)
    runner._add_model_test(case, "Real")
    runner.include("test_golden_cpu")
    result = unittest.TestResult()
    for tests in runner.test_cases.values():
        unittest.defaultTestLoader.loadTestsFromTestCase(tests).run(result)
    assert result.testsRun >= 1
    assert not result.errors, result.errors[0][1]
    assert not result.failures, result.failures[0][1]
    assert len(result.skipped) < result.testsRun


def test_both_forms_of_a_set_hold_the_same_arrays(saved):
    index = json.loads((saved / INDEX).read_text())
    for entry, one in zip(index["sets"], read_golden(saved).sets, strict=True):
        for kind, names, arrays in (
            ("input", entry["inputs"], one.golden.inputs),
            ("output", entry["outputs"], one.golden.outputs),
        ):
            for number, name in enumerate(names):
                tensor = onnx.load_tensor(saved / one.name / f"{kind}_{number}.pb")
                np.testing.assert_array_equal(numpy_helper.to_array(tensor), arrays[name])


def test_a_stream_of_several_calls_is_recorded_and_replayed_with_its_own_states(saved, made):
    folder = read_golden(saved)
    chain = [each for each in folder.sets if each.continues]
    assert len(chain) == 3
    before = {each.name: each for each in folder.sets}
    for each in chain:
        np.testing.assert_array_equal(each.golden.inputs["h_0"], before[each.continues].golden.outputs["h_n"])
    with load(made("plain").path) as model:
        records = replay(model, folder)
    assert all(each.comparison.ok for each in records), [
        str(each) for each in records if not each.comparison.ok
    ]
    assert {each.set_name for each in records if each.carried} == {each.name for each in chain}


@pytest.mark.system
def test_golden_vectors_alone_find_a_fault(saved, made, copy_of):
    path = copy_of(made("plain"))
    assert validate(path, config=ValidateConfig(golden=saved)).ok
    model = onnx.load(path)
    bias = next(each for each in model.graph.initializer if each.name.endswith("B_l0"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * np.float32(1.001), bias.name))
    onnx.save(model, path)
    report = validate(path, config=ValidateConfig(golden=saved))
    golden = next(group for group in report.groups if group.key == "golden")
    assert len(golden.failed) > len(read_golden(saved).sets)


@pytest.mark.system
def test_vectors_of_another_model_are_refused_by_name(saved, made):
    report = validate(made("stacked").path, config=ValidateConfig(golden=saved))
    assert any("another model" in check.message for group in report.groups for check in group.failed)


def test_saving_again_replaces_and_a_folder_with_other_files_is_left_alone(saved, made, tmp_path):
    one = made("stacked")
    file = open_file(one.path)
    against = against_module(one.module, file, one.example)
    save_vectors(saved, file, against, ValidateConfig())
    assert read_golden(saved).model_sha256 == file.sha256
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("")
    with pytest.raises(InputError, match=r"contains thesis\.txt, which would be lost"):
        save_vectors(mine, file, against, ValidateConfig())
    assert [each.name for each in mine.iterdir()] == ["thesis.txt"]


def test_a_file_without_anything_to_compare_with_is_refused(made, copy_of):
    path = copy_of(made("plain"))
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(InputError, match="--against"):
        validate(path)
