"""What all these tests share."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Keep PyTorch to one thread: two of them spin against the other test processes for small networks."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def invoke():
    """Run a verb in this process; gives its exit code, standard output and standard error."""
    from click.testing import CliRunner

    from lstm_edge.cli import cli
    from lstm_edge_runtime import LstmEdgeError
    from lstm_edge_runtime.errors import CheckFailedError

    def run(*arguments):
        done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
        if isinstance(done.exception, LstmEdgeError):  # as main() does
            assert "\n" not in str(done.exception)
            code = 1 if isinstance(done.exception, CheckFailedError) else 2
            return code, done.stdout, f"error: {done.exception}\n"
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout, done.stderr

    return run
