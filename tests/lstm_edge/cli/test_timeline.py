import io

import numpy as np
from rich.console import Console

from lstm_edge.cli.demo import recognized_from, timeline

LABELS = ("Rest", "Walk")


def lines(said, activity="Walk", steps=96, plain=False):
    screen = Console(file=io.StringIO(), width=100)
    screen.print(timeline(np.linspace(0, 1, steps), said, LABELS, activity, 10.0, plain=plain))
    return screen.file.getvalue().splitlines()


def test_recognized_from_is_where_the_answer_stays_right():
    assert recognized_from([0, 1, 0, 1, 1], 1) == 3
    assert recognized_from([1, 1], 1) == 0
    assert recognized_from([1, 1, 0], 1) is None


def test_each_column_holds_the_answer_of_its_moment():
    above, below = lines([0] * 24 + [1] * 72)
    assert below.split() == ["R" * 12 + "W" * 36, "after", "2.5", "s"]
    assert above.split()[0][0] == "▁"
    assert above.split()[0][-1] == "█"
    assert above.endswith("Walk")


def test_a_recording_under_way_is_drawn_up_to_now():
    assert lines([0] * 48)[1].split() == ["R" * 24, "Rest"]


def test_a_wrong_last_answer_is_said_plainly():
    assert lines([0] * 96)[1].endswith("classified as Rest")


def test_plain_text_keeps_to_ascii():
    assert "".join(lines([1] * 96, plain=True)).isascii()
