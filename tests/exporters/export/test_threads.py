import logging
import sys
import threading
import warnings

import torch
from torch import nn

from lstm_edge_exporters import export


class Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0][:, -1]


def test_exports_that_overlap_in_threads_are_right_and_leave_logging_and_stderr_as_they_were():
    def shared():
        return logging.root.manager.disable, sys.stderr, list(warnings.filters)

    def run(index: int) -> None:
        torch.manual_seed(index)
        made[index] = export(Last().eval(), torch.randn(2, 5, 3))

    made: dict[int, object] = {}
    run(0)  # the first one imports modules that add filters of their own
    before = shared()
    threads = [threading.Thread(target=run, args=(index,)) for index in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(made) == {0, 1, 2}
    assert shared() == before
