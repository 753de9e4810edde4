"""What all these tests share."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Keep PyTorch to one thread: two of them spin against the other test processes for
    small networks."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def invoke():
    """Run a verb in this process; gives its exit code, standard output and standard
    error."""
    from click.testing import CliRunner

    from lstm_edge.cli import cli, run

    def call(*arguments):
        with CliRunner().isolation() as (out, err, _):
            try:
                code = run(cli, [str(argument) for argument in arguments])
            except SystemExit as stop:
                code = stop.code
            return code, out.getvalue().decode(), err.getvalue().decode()

    return call
