import json
import time
import warnings

import numpy as np
import onnx
import pytest

from lstm_edge.timing import search
from lstm_edge.timing.objective import OBJECTIVES, Objective
from lstm_edge_exporters.numerics.bootstrap import Interval
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.ort import SessionOptions
from lstm_edge_runtime.profile import Profile

CPU = ["CPUExecutionProvider"]


def busy(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_the_goals_costs_tell_what_they_say():
    slow_each_tenth = iter(range(10**6))

    def call():
        busy(0.003 if next(slow_each_tenth) % 10 == 9 else 0.0005)

    median, tail = (Objective(name).cost(call, 0.2) for name in ("latency", "p99"))
    assert 450 < median < tail
    assert tail > 2500
    assert Objective("throughput", streams=4).cost(call, 0.2) < median


def test_energy_is_processor_time_and_waiting_is_not_counted_but_what_spins_meanwhile_is():
    asleep = Objective("energy", rate=50).cost(lambda: None, 0.3)
    working = Objective("energy", rate=50).cost(lambda: busy(0.004), 0.3)
    assert asleep < 1500 < working
    assert working < 12_000


def test_calls_come_at_the_asked_rate():
    began = []
    Objective("latency", rate=100).cost(lambda: began.append(time.perf_counter()), 0.3)
    assert 15 < len(began) < 45
    assert np.median(np.diff(began)) == pytest.approx(0.01, abs=0.004)


@pytest.fixture
def costs(monkeypatch):
    """Measure nothing: every candidate costs what the test says."""

    def use(cost):
        def beside(new, old, goal, seconds):
            ratio = cost(new) / cost(old)
            return Interval(ratio, ratio * 0.99, ratio * 1.01), cost(new), cost(old)

        monkeypatch.setattr(search, "_beside", beside)

    return use


def tuned(paths, goal=Objective("latency"), seconds=60.0, cores=4):  # noqa: B008  frozen
    return search.tune(paths, goal, seconds, CPU, cores)


def test_each_option_is_tried_on_top_of_the_best_so_far_and_what_is_faster_stays(har, costs):
    def cost(candidate):
        options = candidate.options
        gain = {1: 1.0, 2: 0.7, 4: 0.8}[options.threads] * (0.9 if options.spinning else 1)
        return gain * (1.2 if options.arena else 1) * {"BASIC": 0.8}.get(options.optimization, 1.0)

    costs(cost)
    outcome = tuned([har.path])
    assert outcome.better
    assert outcome.chosen.options == SessionOptions(threads=2, spinning=True, optimization="BASIC")
    assert outcome.final.ratio == pytest.approx(0.7 * 0.9 * 0.8)
    tried = [trial.candidate.options.threads for trial in outcome.trials]
    assert {1, 2, 4} >= set(tried)
    assert {trial.verdict for trial in outcome.trials} == {"kept", "no gain"}


def test_where_nothing_is_faster_the_defaults_stay_and_spinning_alone_is_not_tried(har, costs):
    costs(lambda candidate: 1.0 if candidate.options == SessionOptions() else 1.5)
    outcome = tuned([har.path])
    assert not outcome.better
    assert outcome.chosen == outcome.default
    assert not any(trial.candidate.options.spinning for trial in outcome.trials)


def test_a_winner_that_does_not_win_again_beside_the_defaults_is_dropped(har, monkeypatch):
    seen = []

    def beside(new, old, goal, seconds):
        lucky = not seen and new.options.arena
        seen.extend([1] if lucky else [])
        ratio = 0.8 if lucky else 1.0
        return Interval(ratio, ratio - 0.01, ratio + 0.01), ratio, 1.0

    monkeypatch.setattr(search, "_beside", beside)
    outcome = tuned([har.path])
    assert [trial.verdict for trial in outcome.trials].count("kept") == 1
    assert not outcome.better
    assert outcome.chosen == outcome.default


def test_a_gain_that_noise_may_have_made_is_not_taken_and_said_to_be_unclear(har, monkeypatch):
    monkeypatch.setattr(search, "_beside", lambda *_: (Interval(0.9, 0.7, 1.1), 0.9, 1.0))
    outcome = tuned([har.path])
    assert not outcome.better
    assert {trial.verdict.partition(":")[0] for trial in outcome.trials} == {"not clear"}


def test_what_does_not_fit_into_the_time_is_named_and_left_out(har, costs, monkeypatch):
    costs(lambda _: 1.0)
    clock = iter(range(0, 10_000, 7))
    monkeypatch.setattr(search.time, "monotonic", lambda: float(next(clock)))
    outcome = tuned([har.path], seconds=20.0)
    assert "not tried: the time budget is spent" in {trial.verdict for trial in outcome.trials}


@pytest.fixture(scope="module")
def slow(make):
    """The same network as ``har``, with much useless work."""
    return make("slow", waste=600)


def test_a_faster_variant_is_found_by_measuring_and_its_profile_opens_it(invoke, har, slow, tmp_path):
    target = tmp_path / "p.json"
    code, out, _ = invoke("tune", slow.path, har.path, "--seconds", "2", "-o", target, "--json")
    assert code == 0
    document = json.loads(out)
    assert document["file"] == str(har.path)
    assert document["better_than_default"]
    assert document["ratio"]["high"] < 1
    assert document["trials"][0]["verdict"] == "kept"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load(har.path, profile=target)
    found = Profile.read(target)
    assert found.goal == "latency"
    assert model.options == found.options


def test_a_variant_that_fails_its_self_test_is_not_taken_however_fast(invoke, har, slow, tmp_path):
    model = onnx.load(har.path)
    kernel = next(tensor for tensor in model.graph.initializer if tensor.name == "K")
    kernel.raw_data = (onnx.numpy_helper.to_array(kernel) * 1.01).astype(np.float32).tobytes()
    broken = tmp_path / "broken.onnx"
    onnx.save(model, broken)
    target = tmp_path / "p.json"
    code, out, _ = invoke("tune", slow.path, broken, "--seconds", "1", "-o", target)
    assert code == 0
    assert "fails its self-test" in " ".join(out.split())
    assert Profile.read(target).mismatch(load(slow.path, device="cpu").identity) == ""


@pytest.mark.parametrize("goal", OBJECTIVES)
def test_every_goal_ends_with_a_table_and_a_profile(invoke, har, tmp_path, goal):
    target = tmp_path / "p.json"
    arguments = ("--seconds", "0.3", "--goal", goal, "--rate", "1kHz", "--streams", "4", "-o", target)
    code, out, _ = invoke("tune", har.path, *arguments)
    assert code == 0
    assert "candidate" in out
    assert "nothing beats" in out or "best:" in out
    assert Profile.read(target).goal == goal


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "MODELS"),
        (["none.onnx"], "none.onnx"),
        (["{har}", "{har}"], "got a file twice"),
        (["{har}", "--rate", "fast"], "100Hz"),
        (["{har}", "--rate", "0"], "100Hz"),
        (["{har}", "{wide}"], "no variant"),
        (["{har}", "{plain}"], "no golden case"),
        (["{mute}", "--goal", "energy"], "--rate"),
        (["{har}", "-o", "no/such/p.json"], "does not exist"),
    ],
)
def test_wrong_use_exits_2_and_writes_nothing(invoke, har, make, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {"har": har, "wide": make("wide", hidden=16), "plain": make("bare", golden=False, seed=4)}
    files["mute"] = make("mute", rate=None)
    code, out, err = invoke(
        "tune", *(each.format(**{k: v.path for k, v in files.items()}) for each in arguments)
    )
    assert (code, out) == (2, "")
    assert words in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["1000", "1000Hz", "1 kHz", "1e3"])
def test_a_rate_may_be_written_in_several_ways(invoke, har, tmp_path, text):
    arguments = ("--seconds", "0.3", "--rate", text, "--json", "-o", tmp_path / "p.json")
    code, out, _ = invoke("tune", har.path, *arguments)
    assert code == 0
    assert json.loads(out)["goal"]["rate"] == 1000


def test_a_file_that_can_not_be_streamed_exits_2(invoke, har, tmp_path):
    from lstm_edge_runtime.manifest import Manifest

    model = onnx.load(har.path)
    manifest = Manifest.from_json(model.metadata_props[0].value)
    model.metadata_props[0].value = manifest._replace(unstreamable="layer lstm is bidirectional").to_json()
    onnx.save(model, tmp_path / "m.onnx")
    code, _, err = invoke("tune", tmp_path / "m.onnx", "--seconds", "0.2")
    assert code == 2
    assert "can't be streamed" in err


def test_a_budget_too_short_for_the_rate_is_refused_at_once(har):
    with pytest.raises(InputError, match="give --seconds 180 or more"):
        tuned([har.path], Objective("latency", rate=1.0), seconds=60)


def test_the_error_of_a_missing_variant_is_its_own(invoke, har, tmp_path):
    code, _, err = invoke("tune", har.path, tmp_path / "none.onnx", "-o", tmp_path / "p.json")
    assert code == 2
    assert "none.onnx is not there" in err
    assert "p.json" not in err
