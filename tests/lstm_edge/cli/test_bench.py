import html.parser
import json
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from lstm_edge.timing.settings import load_call

from lstm_edge.report.bench import bench_page
from lstm_edge.timing import calls as subject
from lstm_edge.timing import compare, measure, settings, system
from lstm_edge.timing.system import cpu_at_rate, cpu_idle, measure_load
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import CheckFailedError, InputError
from lstm_edge_runtime.manifest import Manifest
from lstm_edge_runtime.native.library import installed

QUICK = ("--seconds", "0.2", "--streams", "1,8", "--chunk", "16")


@pytest.fixture(scope="module")
def quiet():
    """Let a measurement stand whatever else this machine does, wait less, start fewer processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_NOISE_LIMIT", float("inf"))
        patch.setattr(measure, "_IDLE_SECONDS", 0.05)
        patch.setattr(measure, "_PACED_SECONDS", 0.1)
        patch.setattr(system, "_STARTS", 1)
        yield


@pytest.fixture(scope="module")
def measured(invoke, har, quiet):
    """A real measurement."""
    code, out, err = invoke("bench", har.path, "--json", *QUICK)
    assert (code, err) == (0, "")
    return out


@pytest.fixture
def document(measured):
    """The measurement, to change at will."""
    return json.loads(measured)


def test_json_holds_every_measure_and_where_it_was_taken(document):
    (file,) = document["files"]
    assert list(file["latency_us"]) == ["step", "chunk", "streams 1", "streams 8"]
    for found in file["latency_us"].values():
        assert 0 < found["p50"] <= found["p90"] <= found["p99"] <= found["max"]
        assert len(found["rounds_us"]) == len(document["calibration_us"]) == 15
    assert file["rate_hz"] == 50
    assert file["engine"] == ("native" if installed() else "onnxruntime")
    assert file["real_time_factor"] == pytest.approx(file["latency_us"]["step"]["p50"] * 50 / 1e6)
    assert file["samples_per_second"]["8"] == pytest.approx(8e6 / file["latency_us"]["streams 8"]["p50"])
    assert file["load"]["load_ms"] > 0
    assert file["load"]["peak_bytes"] > file["load"]["beyond_import_bytes"] > 0
    assert file["cpu"]["at_rate"] > 0
    assert document["host"]["cores"] >= 1
    assert document["software"]["onnxruntime"]
    assert document["settings"]["threads"] == "auto"


def test_several_files_are_compared_with_the_first_side_by_side(invoke, har, make, quiet, tmp_path):
    larger = make("larger", hidden=256)
    page = tmp_path / "b.html"
    code, out, _ = invoke("bench", har.path, larger.path, *QUICK, "--html", page, "--json")
    assert code == 0
    ratios = {one["measure"]: one for one in json.loads(out)["ratios"]}
    assert set(ratios) == {"step", "chunk", "streams 1", "streams 8"}
    assert ratios["step"]["against"] == "har.onnx"
    assert ratios["chunk"]["low"] > 2  # 256 hidden units against 8: a thousand times the products
    assert "larger.onnx" in page.read_text()


def test_the_table_is_for_people(invoke, har, quiet):
    code, out, _ = invoke("bench", har.path, *QUICK)
    assert code == 0
    for words in ("p99 us", "streams 8", "samples per second", "50 Hz", "real-time factor", "peak memory"):
        assert words in out


def test_the_fastest_way_to_load_the_file_is_printed_and_loads_it(invoke, make, quiet, monkeypatch):
    wide = make("wide tick", hidden=64)
    monkeypatch.setattr(settings, "_GAIN", 1e9)  # so that there is a fastest setting on any machine
    code, out, err = invoke("bench", wide.path, *QUICK, "--json")
    assert (code, err) == (0, "")
    (file,) = json.loads(out)["files"]
    assert list(file["settings"]) == ["step", "streams 8"]
    for found in file["settings"].values():
        (best,) = (each for each in found if each["recommended"])
        assert best["ratio"] == min(each["ratio"] for each in found)
        call = load_call(file["path"], found)
        model = eval(call, {"load": load})
        assert (model.engine, model.options.threads) == (best["engine"], best["threads"])
        model.close()


def test_the_defaults_are_recommended_if_nothing_is_faster_and_not_compared_if_options_are_given(
    invoke, har, quiet, monkeypatch
):
    monkeypatch.setattr(settings, "_GAIN", 0.0)
    code, out, _ = invoke("bench", har.path, *QUICK)
    assert code == 0
    words = " ".join(out.split())
    assert f'fastest step: load("{har.path}") (no setting is faster beyond noise)' in words
    code, out, _ = invoke("bench", har.path, *QUICK, "--threads", "1")
    assert code == 0
    assert "fastest" not in out


def test_a_file_that_can_not_be_streamed_is_timed_whole(invoke, har, quiet, tmp_path):
    model = onnx.load(har.path)
    manifest = Manifest.from_json(model.metadata_props[0].value)
    model.metadata_props[0].value = manifest._replace(unstreamable="layer lstm is bidirectional").to_json()
    onnx.save(model, tmp_path / "m.onnx")
    code, out, _ = invoke("bench", tmp_path / "m.onnx", "--json", *QUICK)
    assert code == 0
    (file,) = json.loads(out)["files"]
    assert list(file["latency_us"]) == ["chunk"]
    assert file["left_out"] == ["step and streams: the file can't be streamed"]


def test_a_noisy_machine_gets_no_report(invoke, har, monkeypatch):
    monkeypatch.setattr(measure, "_NOISE_LIMIT", -1.0)
    code, out, err = invoke("bench", har.path, *QUICK)
    assert (code, out) == (1, "")
    assert "too noisy" in err


def test_a_slowdown_that_is_put_in_is_caught_and_names_the_call(
    invoke, har, document, quiet, monkeypatch, tmp_path
):
    baseline = tmp_path / "base.json"
    baseline.write_text(json.dumps(document))
    real = measure.step_call

    def slow(one):
        call = real(one)

        def step():
            end = time.perf_counter_ns() + 200_000
            call()
            while time.perf_counter_ns() < end:
                pass

        return step

    monkeypatch.setattr(measure, "step_call", slow)
    code, _, err = invoke("bench", har.path, *QUICK, "--compare", baseline)
    assert code == 1
    assert err.startswith("error: har.onnx: step takes ")


def changed(document, factor, *, spread=0.0):
    copy = json.loads(json.dumps(document))
    generator = np.random.default_rng(0)
    for found in copy["files"][0]["latency_us"].values():
        found["rounds_us"] = [
            value * factor * float(np.exp(generator.normal(0, spread))) for value in found["rounds_us"]
        ]
    return copy


def steady(document):
    """The same document as a quiet machine would have given it."""
    copy = json.loads(json.dumps(document))
    copy["calibration_us"] = [1000.0] * 15
    for found in copy["files"][0]["latency_us"].values():
        found["rounds_us"] = [found["p50"] * (1 + 0.001 * index) for index in range(15)]
    return copy


@pytest.mark.parametrize(
    ("factor", "slower"), [(0.5, False), (1.0, False), (1.05, False), (1.15, True), (2.0, True)]
)
def test_only_what_is_slower_beyond_what_is_allowed_is_a_regression(document, factor, slower):
    before = steady(document)
    changes = compare.compare_with(before, changed(before, factor))
    assert {change.slower for change in changes} == {slower}
    assert not any(change.unclear for change in changes)


def test_a_machine_that_is_slower_as_a_whole_is_no_regression(document):
    before = steady(document)
    after = changed(before, 2.0)
    after["calibration_us"] = [2000.0] * 15
    assert not any(change.slower for change in compare.compare_with(before, after))


def test_noise_that_hides_the_answer_is_said(document):
    before = steady(document)
    changes = compare.compare_with(before, changed(before, 1.2, spread=0.6))
    assert any(change.unclear for change in changes)
    assert not any(change.slower and change.unclear for change in changes)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda d: d["host"].update(processor="Z80"), "'Z80'"),
        (lambda d: d["files"][0].update(latency_us={}), "not a measurement"),
        (lambda d: d.update(format="x"), "not a measurement"),
        (lambda d: d.update(calibration_us=[1.0]), "not a measurement"),
        (lambda d: d.pop("files"), "not a measurement"),
        (lambda d: d.update(host="here"), "not a measurement"),
        (lambda d: d.update(calibration_us=[0.0] * 15), "not a measurement"),
        (lambda d: d.update(calibration_us=[10**400] * 15), "not a measurement"),
        (lambda d: d.update(files=d["files"] * 2) or d["files"][0].pop("name"), "not a measurement"),
        (lambda d: d["settings"]["plan"].update(chunk=256), "chunk has 256 steps, not 16"),
        (lambda d: d["files"][0].update(name="y") or d["files"].append(d["files"][0]), "none of har.onnx"),
    ],
)
def test_a_baseline_that_can_not_be_compared_exits_2_and_nothing_is_measured(
    invoke, har, document, tmp_path, monkeypatch, edit, words
):
    monkeypatch.setattr(measure, "measure", None)
    edit(document)
    path = tmp_path / "base.json"
    path.write_text(json.dumps(document))
    code, out, err = invoke("bench", har.path, *QUICK, "--compare", path)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "MODELS"),
        (["none.onnx"], "none.onnx"),
        (["{m}", "{m}"], "a file is given twice"),
        (["{m}", "--streams", "1,x"], "--streams"),
        (["{m}", "--seconds", "0"], "--seconds"),
        (["{m}", "--compare", "none.json"], "none.json"),
        (["{m}", "--html", "no/folder/b.html"], "no/folder"),
    ],
)
def test_wrong_use_exits_2(invoke, har, arguments, words):
    code, out, err = invoke("bench", *(each.format(m=har.path) for each in arguments))
    assert (code, out) == (2, "")
    assert words in err


class _Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def test_the_page_needs_nothing_else_and_takes_every_name_as_text(document):
    document["files"][0]["name"] = "<script>alert(1)</script>&\"'"
    document["ratios"] = [
        {"file": "<b>", "against": "a", "measure": "step", "ratio": 1.0, "low": 0.9, "high": 1.1}
    ]
    page = bench_page(document, ["<i>slower</i>"])
    tags = _Tags()
    tags.feed(page)
    names = [tag for tag, _ in tags.seen]
    assert not {"script", "i", "img"} & set(names)
    assert names.count("svg") == 2
    links = [attributes[key] for _, attributes in tags.seen for key in {"src", "href"} & set(attributes)]
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "&lt;i&gt;slower" in page


def test_loading_is_measured_in_a_process_of_its_own_and_its_failure_is_told(tmp_path):
    with pytest.raises(CheckFailedError, match=r"none\.onnx"):
        measure_load(tmp_path / "none.onnx", {})


def test_waiting_takes_no_processor_and_work_does():
    assert cpu_idle(0.05) < 0.3

    def busy():
        end = time.process_time() + 0.002
        while time.process_time() < end:
            pass

    assert cpu_at_rate(busy, 100, 0.3) > 2 * cpu_at_rate(lambda: None, 100, 0.3)


def test_samples_are_the_same_each_time_and_fit_the_file(har, make):
    one = subject.TimedModel("a", har.path, load(har.path))
    first, second = (one.samples(steps=4)["x"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (4, 3)
    assert first.dtype == np.float32


def test_files_with_no_measure_in_common_are_not_compared(document):
    other = json.loads(json.dumps(document))
    latency = other["files"][0]["latency_us"]
    latency["streams 3"] = latency.pop("streams 8")
    for name in ("step", "chunk", "streams 1"):
        del latency[name]
    with pytest.raises(InputError, match="in common"):
        compare.compare_with(other, document)


def test_names_are_text_and_never_markup(invoke, har, quiet, tmp_path):
    path = tmp_path / "har[bold].onnx"
    path.write_bytes(har.path.read_bytes())
    for verb, more in (("bench", QUICK), ("inspect", ())):
        code, out, _ = invoke(verb, path, *more)
        assert code == 0
        assert "har[bold].onnx" in out.replace("\n", "")


def test_a_token_a_step_is_measured_too(invoke, quiet, tmp_path):
    import torch

    from lstm_edge_exporters import ExportConfig, export

    class Tagger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.lstm = torch.nn.Embedding(9, 4), torch.nn.LSTM(4, 4, batch_first=True)

        def forward(self, tokens):
            return self.lstm(self.table(tokens))[0]

    path = tmp_path / "tagger.onnx"
    example = (torch.ones(2, 5, dtype=torch.int64),)
    export(Tagger().eval(), example, ExportConfig(inputs={"tokens": ("N", "L")})).save(path)
    code, out, _ = invoke("bench", path, *QUICK, "--json")
    assert code == 0
    assert set(json.loads(out)["files"][0]["latency_us"]) == {"step", "chunk", "streams 1", "streams 8"}


def test_a_rate_too_low_to_wait_for_is_left_out(invoke, har, quiet):
    began = time.monotonic()
    code, out, _ = invoke("bench", har.path, *QUICK, "--rate", 0.01, "--json")
    assert code == 0
    assert json.loads(out)["files"][0]["cpu"]["at_rate"] is None
    assert time.monotonic() - began < 60


def test_modules_where_it_runs_are_not_taken_for_its_own(har, tmp_path, monkeypatch):
    (tmp_path / "random.py").write_text("raise SystemExit('taken')")
    monkeypatch.chdir(tmp_path)
    assert measure_load(har.path, {}).load_ms > 0


def test_a_file_with_a_unit_is_timed_by_units(invoke, quiet):
    strided = Path(__file__).parents[2] / "runtime" / "data" / "strided.onnx"
    code, out, err = invoke("bench", strided, "--json", *QUICK)
    assert (code, err) == (0, "")
    (file,) = json.loads(out)["files"]
    times = {name: found["p50"] for name, found in file["latency_us"].items()}
    assert list(times) == ["unit", "chunk", "streams 1", "streams 8"]
    assert file["real_time_factor"] == pytest.approx(times["unit"] / 4 * 50 / 1e6)
    assert file["samples_per_second"]["8"] == pytest.approx(4 * 8e6 / times["streams 8"])
    assert file["cpu"]["at_rate"] > 0
