"""A slip on the command line is one line that suggests the right command."""

import pytest

from lstm_edge_runtime.errors import install_command


class _Installed:
    def __init__(self, text):
        self.text = text

    def read_text(self, name):
        assert name == "direct_url.json"
        return self.text


@pytest.mark.parametrize(
    ("origin", "extra", "command"),
    [
        (None, "report", 'pip install "lstm-edge[report]"'),
        (
            '{"url": "file:///src/lstm%20edge", "dir_info": {"editable": true}}',
            "report",
            'pip install -e "/src/lstm edge[report]"',
        ),
        ('{"url": "file:///src", "dir_info": {}}', "cpu", 'pip install "/src[cpu]"'),
        ('{"url": "file:///src", "dir_info": {}}', "native", 'pip install "/src/native"'),
        (
            '{"url": "file:///w/lstm_edge-0.1.0-py3-none-any.whl", "archive_info": {}}',
            "cpu",
            'pip install "lstm-edge[cpu] @ file:///w/lstm_edge-0.1.0-py3-none-any.whl"',
        ),
    ],
)
def test_a_hint_installs_from_where_lstm_edge_came(monkeypatch, origin, extra, command):
    monkeypatch.setattr("importlib.metadata.distribution", lambda name: _Installed(origin))
    assert install_command(extra) == command


def test_in_the_clone_itself_a_hint_is_short(monkeypatch, tmp_path):
    origin = f'{{"url": "{tmp_path.as_uri()}", "dir_info": {{"editable": true}}}}'
    monkeypatch.setattr("importlib.metadata.distribution", lambda name: _Installed(origin))
    monkeypatch.chdir(tmp_path)
    assert install_command("report") == 'pip install -e ".[report]"'
    assert install_command("native") == 'pip install "./native"'
