"""``lstm-edge convert``: where the output goes, and which files it takes."""

import pytest

from lstm_edge_runtime import load


@pytest.mark.parametrize(
    "words",
    [("-o", "har.ort"), ("--to", "ort", "-o", "har.ort"), ("-o", "no/folder/har.lep")],
)
def test_a_wrong_target_or_output_exits_2_and_writes_nothing(invoke, har, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    code, out, _ = invoke("convert", har.path, *words)
    assert (code, out) == (2, "")
    assert not list(tmp_path.iterdir())


def test_a_file_of_any_name_is_converted_wherever_it_runs(invoke, har, tmp_path, monkeypatch):
    (tmp_path / "random.py").write_text("raise SystemExit('taken')")
    (tmp_path / "har.bin").write_bytes(har.path.read_bytes())
    monkeypatch.chdir(tmp_path)
    code, _, err = invoke("convert", "har.bin", "-o", "har.lep")
    assert code == 0, err
    assert load(tmp_path / "har.lep").selftest().ok
