"""``lstm-edge convert``: where the output goes, and which files it takes."""

from lstm_edge_runtime import load


def test_a_file_of_any_name_is_converted_wherever_it_runs(invoke, har, tmp_path, monkeypatch):
    (tmp_path / "random.py").write_text("raise SystemExit('taken')")
    (tmp_path / "har.bin").write_bytes(har.path.read_bytes())
    monkeypatch.chdir(tmp_path)
    code, _, err = invoke("convert", "har.bin", "-o", "har.lep")
    assert code == 0, err
    assert load(tmp_path / "har.lep").selftest().ok
