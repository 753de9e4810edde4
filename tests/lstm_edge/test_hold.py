from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from lstm_edge.hold import Hold

LABELS = st.lists(st.integers(0, 2), max_size=40)


def held(labels: list[int], steps: int) -> list[int]:
    """What counts after each label, looked up in all labels so far; -1 while nothing does."""
    found = []
    for end in range(1, len(labels) + 1):
        ends = [e for e in range(steps, end + 1) if len(set(labels[e - steps : e])) == 1]
        found.append(labels[ends[-1] - 1] if ends else -1)
    return found


@given(labels=LABELS, steps=st.integers(1, 6))
def test_a_label_counts_once_it_was_the_same_for_so_many_steps(labels, steps):
    hold, found = Hold(steps), []
    for label in labels:
        hold.take(label)
        found.append(hold.label)
    assert found == held(labels, steps)


@given(labels=LABELS, steps=st.integers(1, 6), cuts=st.lists(st.integers(1, 5), max_size=20))
def test_runs_cut_anywhere_saved_and_restored_give_what_single_steps_give(labels, steps, cuts):
    hold, found, place = Hold(steps), [], 0
    cuts = [*cuts, len(labels) + 1]
    for size in cuts:
        for label, run in groupby(labels[place : place + size]):
            count, before = len(list(run)), hold.label
            waited = hold.take(label, count)
            found += [before] * waited + [label] * (count - waited)
        place += size
        after = Hold(steps)
        after.restore(*hold.saved)
        hold = after
    assert found == held(labels, steps)
