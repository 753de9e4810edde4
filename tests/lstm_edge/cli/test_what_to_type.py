"""A slip on the command line is one line that suggests the right command."""

from lstm_edge_runtime.errors import install_command


def test_a_hint_names_the_package_of_an_extra():
    assert install_command("cpu") == 'pip install "lstm-edge-runtime[cpu]"'
    assert install_command("report") == 'pip install "lstm-edge[report]"'
