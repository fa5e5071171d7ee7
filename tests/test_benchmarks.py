"""A loop to compare with must do the same work."""

import pytest

from benchmarks.baselines import naive_rdpo
from benchmarks.work import Ours, Published, fused, plan
from raypref.core.search import Search
from raypref.methods.rdpo import RDPO

METHOD = RDPO(search=Search(steps=(0, 1)))


@pytest.mark.parametrize("one_process", [False, True])
def test_ours_and_the_naive_loop_find_the_same_pairs_and_losses(one_process):
    experiment = plan(METHOD, 2, 2)
    mine = Ours(fused(experiment) if one_process else experiment).run()
    theirs = naive_rdpo.run(Published(experiment), METHOD, 2)
    assert mine.pairs == theirs.pairs == 4
    assert mine.loss == pytest.approx(theirs.loss, rel=1e-4)
    assert mine.loss != pytest.approx(0.6931, abs=1e-4)
