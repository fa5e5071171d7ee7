"""One, two, three or four ranks of a learner give the same bits, and refuse to be unequal."""

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from raypref.core.search import Search
from raypref.core.weights import FlatParameters
from raypref.methods.base import Method
from raypref.methods.d3po import D3PO
from raypref.methods.ddpo import DDPO
from raypref.methods.rdpo import RDPO
from raypref.train import ranks as ranks_module
from raypref.train.exchange import RanksDiffer
from raypref.train.experiment import Experiment, OptimizerConfig, ReferenceConfig, RunConfig, SamplingConfig
from raypref.train.learner import Learner, UpdateReport
from raypref.train.ranks import Ranks, join
from raypref.train.sampler import SampledRollout
from raypref.train.state import LearnerState, learner_state, roll_back
from tests.toys import ToyDenoiser, chunk_of, sampled

Found = TypeVar("Found")
SAMPLING = SamplingConfig(num_inference_steps=6, guidance_scale=5.0)
STEPS = (0, 2, 4)


class Table:
    """Where threads that play ranks lay down tensors for one another."""

    def __init__(self, number: int) -> None:
        self.parts: list[Tensor] = [torch.empty(0)] * number
        self.barrier, self.largest = threading.Barrier(number, timeout=60), 0

    def gather(self, rank: int, own: Tensor) -> list[Tensor]:
        self.parts[rank] = own.clone()
        if own.is_floating_point():
            self.largest = max(self.largest, len(own))
        self.barrier.wait()
        found = [part.clone() for part in self.parts]
        self.barrier.wait()
        return found


def in_ranks(number: int, play: Callable[[Ranks], Found], table: Table | None = None) -> list[Found]:
    """What each of so many ranks comes to, or the first error that is not only another's."""
    table, found, problems = table or Table(number), dict[int, Found](), list[Exception]()

    def run(rank: int) -> None:
        try:
            found[rank] = play(Ranks(rank, number, lambda own: table.gather(rank, own)))
        except Exception as problem:
            problems.append(problem)
            table.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return [found[rank] for rank in range(number)]


class PartlyUsed(ToyDenoiser):
    """Has a parameter that no prediction depends on, and that must not decay."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = torch.nn.Parameter(torch.ones(3))
        self.parameters = FlatParameters({"gain": self.gain, "bias": self.bias, "idle": self.idle})


def plan(method: Method, **sections: object) -> Experiment:
    """Three prompts an iteration. A batch is of three micro-batches of two rows and one of one; the last is smaller."""
    defaults: dict[str, object] = {
        "sampling": SAMPLING,
        "run": RunConfig(prompts_per_iteration=3, chunk_size=3, iterations=4, lag=1),
        "optimizer": OptimizerConfig(learning_rate=1e-2, batch_size=7, micro_batch_size=1, adam_weight_decay=0.1),
    }
    experiment = Experiment(method=method, **(defaults | sections))
    # No divisor: a batch whose last micro-batch is smaller, as the last batch's is where pairs were dropped.
    object.__setattr__(experiment.optimizer, "micro_batch_size", 2)
    return experiment


def rollouts(learner: Learner, version: int) -> list[SampledRollout]:
    denoiser = type(learner.denoiser)()
    denoiser.parameters.install(learner.weights(version))
    return [sampled(denoiser, learner.method.search, chunk_of(("a", "q", "k"), version), SAMPLING)]


def trained(experiment: Experiment, ranks: Ranks | None) -> tuple[LearnerState, list[UpdateReport], Learner]:
    """Three updates, the last after a roll-back."""
    learner = Learner(PartlyUsed(), experiment)
    if ranks is not None:
        join(learner, ranks)
    reports = [learner.update(0, rollouts(learner, 0))]
    before = learner_state(learner)
    reports.append(learner.update(1, rollouts(learner, 0)))
    roll_back(learner, before, 2)
    reports.append(learner.update(2, rollouts(learner, 1)))
    return learner_state(learner), reports, learner


CASES = {
    "rdpo": plan(RDPO(beta=10.0, search=Search(steps=STEPS))),
    "chains and passes": plan(
        D3PO(search=replace(D3PO().search, steps=STEPS)),
        optimizer=OptimizerConfig(1e-2, 7, 1, num_inner_epochs=2, ema_decay=0.5),
        reference=ReferenceConfig("ema", every=3),
    ),
    "single steps": plan(DDPO(clip_range=0.1, search=replace(DDPO().search, steps=STEPS))),
}


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple[LearnerState, list[UpdateReport], Learner]]:
    return {name: trained(experiment, None) for name, experiment in CASES.items()}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("number", [2, 3, 4])
def test_any_number_of_ranks_gives_the_bits_of_one(alone, case, number):
    wanted, told, learner = alone[case]
    assert not math.isnan(wanted.gradient_level)
    assert wanted.history[3].flat.abs().max() > 1e-2
    found = in_ranks(number, lambda ranks: trained(CASES[case], ranks))
    for state, reports, _ in found:
        assert {version: each.manifest for version, each in state.history.items()} == {
            version: each.manifest for version, each in wanted.history.items()
        }
        assert state.deployed() == wanted.deployed()
        assert state.optimizer.keys() == wanted.optimizer.keys()  # nothing of the idle parameter
        assert all(torch.equal(state.optimizer[name], value) for name, value in wanted.optimizer.items())
        assert (state.reference.flat is None) == (wanted.reference.flat is None)
        assert state.reference.flat is None or torch.equal(state.reference.flat, wanted.reference.flat)
        assert (state.reference.version, state.gradient_level) == (wanted.reference.version, wanted.gradient_level)
        for mine, other in zip(reports, told, strict=True):
            assert repr(mine.metrics) == repr(other.metrics)  # in their order, and NaNs alike
            assert repr((mine.by_step, mine.alarms, mine.pairs)) == repr((other.by_step, other.alarms, other.pairs))
    shares = [each.denoiser.backward for _, _, each in found]
    assert sum(shares) == learner.denoiser.backward
    assert max(shares) < learner.denoiser.backward


def test_a_large_gradient_is_exchanged_in_slices(alone, monkeypatch):
    monkeypatch.setattr(ranks_module, "SLICE", 10)
    table = Table(2)
    for state, *_ in in_ranks(2, lambda ranks: trained(CASES["rdpo"], ranks), table):
        assert state.history[3].manifest == alone["rdpo"][0].history[3].manifest
    assert table.largest == 10


def test_an_update_with_a_gradient_that_is_not_finite_is_refused_by_all():
    def play(ranks: Ranks) -> tuple[dict[str, int], bool]:
        learner = Learner(ToyDenoiser(), CASES["rdpo"])
        join(learner, ranks)
        data = rollouts(learner, 0)
        if ranks.rank == 1:  # whose share alone is spoilt
            learner.denoiser.mixing[0, 0] = torch.nan
        report = learner.update(0, data)
        return report.alarms, bool(learner.denoiser.parameters.flat.isfinite().all())

    assert in_ranks(2, play) == [({"nonfinite": 1}, True)] * 2  # the second batch is the first rank's alone


def test_a_mutated_adapter_is_noticed_by_every_rank():
    told: dict[int, str] = {}

    def play(ranks: Ranks) -> None:
        learner = Learner(ToyDenoiser(), CASES["rdpo"])
        join(learner, ranks)
        data = rollouts(learner, 0)
        if ranks.rank == 2:
            with torch.no_grad():
                learner.denoiser.gain[0, 0] += 1e-6
        with pytest.raises(RanksDiffer) as caught:
            learner.update(0, data)
        assert list(learner.history) == [0]  # nothing that was trained so is kept
        told[ranks.rank] = str(caught.value)

    in_ranks(3, play)
    sums = {rank: told[0].split(f"rank {rank} has ")[1][:32] for rank in range(3)}
    assert sums[0] == sums[1] != sums[2]
    assert told[0] == told[1] == told[2]
    assert told[0].startswith("the learner's ranks differ in version 1 of the weights: rank 0 has ")
    assert "cluster.learner_ranks = 1; `raypref resume` goes on from before" in told[0]


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (ToyDenoiser.stir, "the learner's ranks differ in the weights that they start with: rank 0 has"),
        (
            lambda denoiser: denoiser.mixing.mul_(1.01),
            "rank 1 of the learner is not the first's equal: weights version 0: the same weights predict otherwise",
        ),
    ],
    ids=["adapter", "base"],
)
def test_who_is_not_the_first_ranks_equal_does_not_join(spoil, problem):
    def play(ranks: Ranks) -> None:
        denoiser = ToyDenoiser()
        if ranks.rank == 1:
            spoil(denoiser)
        join(Learner(denoiser, CASES["rdpo"]), ranks)

    with pytest.raises(RanksDiffer, match=problem):
        in_ranks(2, play)


def test_a_statistic_of_the_whole_batch_is_the_same_on_every_rank():
    """What a loss with a baseline over its batch needs: a pass without gradients."""
    parts = torch.arange(7).split(2)

    def play(ranks: Ranks) -> list[float]:
        mine = list[int]()

        def work(rows: Tensor) -> dict[str, Tensor]:
            mine.extend(rows.tolist())
            return {"kl": rows.double() / 3}

        found = torch.cat([values["kl"] for values in ranks.each(parts, work)])
        assert mine == [row for turn in parts[ranks.rank :: ranks.ranks] for row in turn.tolist()]
        return found.tolist()

    for number in (2, 3, 5):
        assert in_ranks(number, play) == [[row / 3 for row in range(7)]] * number
