import pytest

from lstm_edge.data.config import ReadConfig
from lstm_edge.data.read import read_recordings


@pytest.fixture
def table(tmp_path):
    def write(text, **options):
        path = tmp_path / "data.csv"
        path.write_text(text)
        return read_recordings(path, ReadConfig(**options))

    return write
