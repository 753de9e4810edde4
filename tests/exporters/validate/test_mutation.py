"""A sample of ``benchmarks/proof/mutation.py``: what differs is found, and so is what a file says wrongly."""

import numpy as np
import pytest

from benchmarks.proof import mutation

NETWORK = "LSTM1, two layers, lengths"
COUNT = 12


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """One healthy network."""
    return mutation.Bench.make(NETWORK, tmp_path_factory.mktemp("mutation"))


def sample(bench, *, contract):
    """Return mutants of different kinds."""
    seed = 20
    kinds = [kind for kind in mutation.KINDS if kind.contract == contract and not kind.unread]
    found = []
    for place in np.random.default_rng(seed).permutation(len(kinds)):
        mutant = bench.spoil(kinds[place], draw=seed, modes=("quick",))
        if mutant is not None:
            found.append(mutant)
        if len(found) == COUNT:
            break
    assert len(found) == COUNT, seed
    return seed, found


def test_the_healthy_file_itself_does_not_move_and_is_within_one_limit(bench):
    moved, limits = bench.judge(bench.content)
    assert moved == 0
    assert limits < 1


def test_a_mutant_that_moves_the_outputs_at_all_is_found(bench):
    seed, mutants = sample(bench, contract=False)
    missed = [mutant for mutant in mutants if mutant.differs and not mutant.found["quick"]]
    assert not missed, (seed, missed)


def test_a_false_claim_is_found(bench):
    seed, mutants = sample(bench, contract=True)
    missed = [mutant for mutant in mutants if not mutant.found["quick"] or "crash" in mutant.found["quick"]]
    assert not missed, (seed, missed)
