import json

import numpy as np
import pytest

from lstm_edge_runtime._core import Core
from lstm_edge_runtime.chunks import join_chunks
from lstm_edge_runtime.errors import CheckFailedError, InputError, ManifestError
from lstm_edge_runtime.manifest import Manifest, TensorSpec
from lstm_edge_runtime.selftest import selftest


def with_golden(model, **changes):
    core = model._core
    return with_contract(core, core.manifest._replace(golden=core.manifest.golden._replace(**changes)))


def with_contract(core, contract):
    return Core(core.session, contract, core.identity, check=core.check, native=core.native)


def test_the_golden_case_holds_whole_and_in_chunks(model):
    result = model.selftest()
    assert result.ok
    assert {record.name for record in result.whole} == {"logits", "h_n", "c_n"}
    assert {record.name for record in result.chunked} == {"logits", "h_n", "c_n"}
    result.require()


@pytest.mark.parametrize("name", ["logits", "h_n", "c_n"])
def test_one_element_beyond_the_limit_fails_and_is_named(model, name):
    golden = model.manifest.golden
    wrong = {key: array.copy() for key, array in golden.outputs.items()}
    place = tuple(size - 1 for size in wrong[name].shape)
    wrong[name][place] += 1e-5
    result = selftest(with_golden(model, outputs=wrong))
    assert not result.ok
    assert (result.worst.name, result.worst.where) == (name, place)
    with pytest.raises(
        CheckFailedError, match=rf"fails on this device \(whole\): {name}.* differs by (1e-05|9\.\d+e-06)"
    ):
        result.require()


def test_a_limit_in_the_file_replaces_the_policys(model):
    golden = model.manifest.golden
    off = {name: array + np.float32(1e-4) for name, array in golden.outputs.items()}
    assert selftest(with_golden(model, outputs=off, limit=dict.fromkeys(off, 2e-4))).ok
    assert not selftest(with_golden(model, outputs=off, limit=dict.fromkeys(off, 5e-5))).ok


@pytest.mark.parametrize("role", ["inputs", "outputs"])
def test_a_golden_case_that_leaves_something_out_proves_nothing(model, role):
    for kept in ({}, dict(list(getattr(model.manifest.golden, role).items())[1:])):
        with pytest.raises(ManifestError, match=f"the golden case has the {role}"):
            selftest(with_golden(model, **{role: kept}))


def test_a_state_that_is_not_carried_fails_the_chunked_replay_alone(model, monkeypatch):
    core = with_golden(model)
    call, start = type(core).call, core.manifest.states_in(core.manifest.golden.inputs)
    monkeypatch.setattr(type(core), "call", lambda self, feeds: call(self, {**feeds, **start}))
    result = selftest(core)
    assert all(record.ok for record in result.whole)
    with pytest.raises(CheckFailedError, match=r"\(in chunks\)"):
        result.require()


def test_a_golden_case_with_lengths_and_a_sequence_output_is_cut_within_the_shortest_row(opened):
    gru = opened("gru")
    rng = np.random.default_rng(3)
    x, gain = rng.normal(size=(6, 2, 3)).astype(np.float32), rng.normal(size=(6, 2, 1)).astype(np.float32)
    lengths = np.array([6, 4])
    outputs, state = gru.run({"x": x, "gain": gain}, lengths=lengths)
    from lstm_edge_runtime.manifest import Golden

    golden = Golden(
        {"x": x, "gain": gain, "lengths": lengths, "h_0": np.full((1, 2, 8), 0.25, np.float32)},
        {**outputs, "h_n": state["h_0"]},
        {"logits": 1e-7, "output": 1e-7, "h_n": 1e-7},
    )
    core = with_contract(gru._core, gru._core.manifest._replace(golden=golden))
    result = selftest(core)
    names = ["logits", "output", "h_n"]
    assert [record.name for record in result.whole] == names
    assert [record.name for record in result.chunked] == [*names, *names]
    result.require()


def test_each_channel_has_its_own_limit(model):
    golden = model.manifest.golden
    off = {name: array.copy() for name, array in golden.outputs.items()}
    off["logits"][..., 1] += 1e-3
    limits = np.full((1, off["logits"].shape[-1]), 1e-5)
    assert not selftest(with_golden(model, outputs=off, limits={"logits": limits})).ok
    limits[0, 1] = 2e-3
    assert selftest(with_golden(model, outputs=off, limits={"logits": limits})).ok
    limits[0] = np.roll(limits[0], 1)
    result = selftest(with_golden(model, outputs=off, limits={"logits": limits}))
    assert (result.worst.name, result.worst.channel) == ("logits", (1,))


def test_every_further_case_is_replayed(model):
    golden = model.manifest.golden
    wrong = {name: array + np.float32(1e-3) for name, array in golden.outputs.items()}
    more = golden._replace(outputs=wrong)
    result = selftest(with_golden(model, more=(golden,)))
    assert result.ok
    assert len(result.whole) == 2 * len(golden.outputs)
    with pytest.raises(CheckFailedError, match="whole"):
        selftest(with_golden(model, more=(more,))).require()


def test_a_case_that_the_file_does_not_run_fails_with_the_reason(model):
    golden = model.manifest.golden
    wide = {name: np.concatenate([array, array], -1) for name, array in golden.inputs.items()}
    with pytest.raises(CheckFailedError, match=r"the golden case does not run: x has shape"):
        selftest(with_golden(model, more=(golden._replace(inputs=wide),)))


def test_channel_limits_and_further_cases_travel_in_the_manifest(model):
    golden = model.manifest.golden
    limits = {"logits": np.full((1, golden.outputs["logits"].shape[-1]), 2e-6)}
    made = model.manifest._replace(golden=golden._replace(limits=limits, more=(golden,)))
    again = Manifest.from_json(made.to_json()).golden
    np.testing.assert_array_equal(again.limits["logits"], limits["logits"])
    np.testing.assert_array_equal(again.more[0].outputs["h_n"], golden.outputs["h_n"])
    for broken in ({"shape": [7], "values": [1.0] * 7}, {"shape": [1], "values": ["1"]}):
        raw = json.loads(made.to_json())
        raw["golden"]["limits"]["logits"] = broken
        with pytest.raises(ManifestError, match="malformed"):
            Manifest.from_json(json.dumps(raw))


def test_a_file_without_a_golden_case_says_so(opened):
    with pytest.raises(InputError, match="has no golden case"):
        opened("unbatched").selftest()


def test_an_output_along_time_is_joined_even_where_the_manifest_counts_it():
    y = TensorSpec("y", "float32", ("N", "L", 2))
    manifest = Manifest((y._replace(name="x"),), (y,), batch="N", sequence="L", counts=("y",))
    chunks = [{"y": np.zeros((1, steps, 2))} for steps in (1, 3)]
    assert join_chunks(manifest, chunks)["y"].shape == (1, 4, 2)
