"""Methods on labelled pictures in the learner and the loop: what is asked of the network, of whom, and how often."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from raypref import methods
from raypref.core.regression import OwnSamples, Regression
from raypref.core.weights import WeightsError
from raypref.data.preference_source import DataConfig
from raypref.data.preferences import PreparedSet
from raypref.methods.diffusion_dpo import DiffusionDPO
from raypref.methods.dro import DRO
from raypref.methods.kto import KTO
from raypref.methods.regression import RegressionMethod
from raypref.methods.sft import SFT
from raypref.methods.spin import SPIN
from raypref.models.base import ModelConfig
from raypref.registry import named_classes
from raypref.train.checkpoint import read_checkpoint, write_checkpoint
from raypref.train.chunk import rollout_chunks
from raypref.train.experiment import Experiment, OptimizerConfig, ReferenceConfig, RunConfig
from raypref.train.folder import Folder
from raypref.train.learner import Learner
from raypref.train.loop import train
from raypref.train.preferences import preferences
from raypref.train.ranks import Ranks, join
from raypref.train.rollout import finish
from raypref.train.runtime import LocalRuntime
from raypref.train.sampler import SampledRollout, Sampler
from raypref.train.state import LearnerState, learner_state
from raypref.train.stopped import StoppedRun
from tests.conftest import MakeExperiment
from tests.labelled import PROMPTS, labelled_set
from tests.recording import Recording
from tests.smallest import smallest_experiment
from tests.toy_runtime import ToyRuntime, toy_experiment, toy_run
from tests.toys import ToyDenoiser, ToyScoring, toy_walk
from tests.train.test_ranks import in_ranks

METHODS = named_classes(methods, RegressionMethod)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled latents of the toy's shape."""
    return labelled_set(tmp_path_factory.mktemp("toy") / "labelled", ToyDenoiser.latent_shape)


def plan(pictures: Path, method: RegressionMethod, lag: int = 0, **sections: object) -> Experiment:
    """Six rows an iteration: two batches, each of two micro-batches."""
    defaults: dict[str, object] = {
        "run": RunConfig(iterations=4, prompts_per_iteration=6, chunk_size=3, lag=lag),
        "data": DataConfig(path=str(pictures)),
        "optimizer": OptimizerConfig(learning_rate=1e-2, batch_size=3, micro_batch_size=1),
    }
    return toy_experiment(method, **(defaults | sections))


def drawn(experiment: Experiment, learner: Learner, iteration: int) -> list[SampledRollout]:
    """What a sampler of its own draws for an iteration."""
    sampler = Sampler(ToyDenoiser(), experiment, ToyScoring())
    weights = learner.weights(experiment.policy_version(iteration))
    return [sampler.rollout(chunk, weights) for chunk in rollout_chunks(experiment, iteration)]


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_stopping_and_resuming_changes_no_bit(pictures: Path, tmp_path: Path, name: str, lag: int):
    experiment = plan(pictures, METHODS[name](), lag)
    whole, _ = toy_run(experiment)
    assert [report.pairs for report in whole.reports] == [6] * 4
    assert [report.alarms for report in whole.reports] == [{}] * 4
    state = read_checkpoint(write_checkpoint(Folder.at(tmp_path), whole.states[2], keep=1))
    assert state.iteration == 2
    second, _ = toy_run(experiment, resumed=state)
    assert second.final_checksum() == whole.final_checksum()
    assert repr([report.metrics for report in second.reports]) == repr([report.metrics for report in whole.reports[2:]])
    assert len({state.learner.history[max(state.learner.history)].manifest.checksum for state in whole.states}) == 5


@pytest.mark.parametrize("name", sorted(METHODS))
def test_add_ons_work_on_it(pictures: Path, name: str):
    method, short = METHODS[name](), RunConfig(iterations=2, prompts_per_iteration=6, chunk_size=3, lag=0)
    plain, _ = toy_run(plan(pictures, method, run=short))
    changes: list[tuple[RegressionMethod, dict[str, object]]] = [
        (replace(method, timestep_power=2.0), {}),
        (replace(method, kl_coef=10.0), {}),
        (method, {"reference": ReferenceConfig("ema", every=1, rate=0.9)}),
    ]
    for changed, sections in changes:
        seen, _ = toy_run(plan(pictures, changed, run=short, **sections))
        assert [report.alarms for report in seen.reports] == [{}] * 2
        unread = bool(sections) and not method.needs_reference()
        assert (seen.final_checksum() == plain.final_checksum()) == unread
    twice = OptimizerConfig(learning_rate=1e-2, batch_size=3, micro_batch_size=1, num_inner_epochs=2)
    seen, _ = toy_run(plan(pictures, method, run=short, optimizer=twice))
    assert seen.reports[0].metrics["updates"] == 4


def test_the_weights_of_times_have_mean_one_over_those_that_are_drawn(pictures: Path):
    for method in (DiffusionDPO(timestep_power=2.0), DRO(timestep_power=2.0)):
        experiment = plan(pictures, method)
        learner = Learner(ToyDenoiser(), experiment)
        batch = learner.teacher.lesson(0, drawn(experiment, learner, 0)).batch
        assert isinstance(batch, Regression)
        times = learner.process.t if method.own == "on_the_way" else torch.arange(1000)
        wanted = (batch.t + 1.0) ** 2 / ((times + 1.0) ** 2).mean()
        torch.testing.assert_close(batch.weight, wanted.float())


class Counting(ToyDenoiser):
    """Counts evaluations of the reference apart from those of the policy, and remembers what it was asked with."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[bool, int, float]] = []

    def predict(self, x_t: Tensor, t: Tensor, prompts: tuple[str, ...], guidance_scale: float) -> Tensor:
        self.asked.append((self.adapted, len(x_t), guidance_scale))
        return super().predict(x_t, t, prompts, guidance_scale)

    def count(self, adapted: bool) -> int:
        return sum(number for found, number, _ in self.asked if found == adapted)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_policy_and_reference_are_asked_once_a_state_and_without_guidance(pictures: Path, name: str):
    method = METHODS[name]()
    experiment = plan(pictures, method)
    denoiser = Counting()
    learner = Learner(denoiser, experiment)
    data = drawn(experiment, learner, 0)
    denoiser.asked.clear()
    learner.update(0, data)
    states = 6 * method.arms
    if method.against_iterate:  # the reference is in the adapter, too
        assert denoiser.count(True) == 2 * states
    else:
        # A loss with a baseline over its batch asks the policy twice.
        assert denoiser.count(True) == states * (2 if method.coupled else 1)
        assert denoiser.count(False) == (states if method.needs_reference() else 0)
    assert denoiser.backward == states
    assert {scale for _, _, scale in denoiser.asked} == {1.0}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_samplers_draw_only_what_is_needed(pictures: Path, name: str):
    method = METHODS[name]()
    experiment = plan(pictures, method)
    learner = Learner(ToyDenoiser(), experiment)
    data = drawn(experiment, learner, 0)
    assert len(data) == (0 if method.own == "none" else 2)
    wanted = preferences(experiment, method, 0).prompts
    for part, prompts in zip(data, (wanted[:3], wanted[3:]), strict=False):
        own = part.rollout
        assert isinstance(own, OwnSamples)
        assert own.prompts == prompts
        assert (own.policy_version, own.policy_checksum) == (0, learner.history[0].manifest.checksum)


def test_rollouts_are_asked_for_without_reading_latents(pictures: Path, monkeypatch: pytest.MonkeyPatch):
    experiment = plan(pictures, SPIN())
    wanted = preferences(experiment, SPIN(), 3).prompts
    monkeypatch.setattr(PreparedSet, "_latents", lambda *_: pytest.fail("latents are read"))
    assert tuple(prompt for chunk in rollout_chunks(experiment, 3) for prompt in chunk.prompts) == wanted


def test_finished_own_samples_are_drawn_as_pictures_are(pictures: Path):
    experiment = plan(pictures, SPIN())
    learner = Learner(ToyDenoiser(), experiment)
    chunk = rollout_chunks(experiment, 0)[0]
    own = drawn(experiment, learner, 0)[0].rollout
    walk = toy_walk(ToyDenoiser(), chunk, experiment.sampling)
    assert isinstance(own, OwnSamples)
    assert torch.equal(own.latents, finish(walk)[0])


def test_own_states_on_the_way_come_with_what_the_unguided_policy_predicts_there(pictures: Path):
    experiment = plan(pictures, DRO(), optimizer=OptimizerConfig(1e-2, 6, 6))
    denoiser = ToyDenoiser()
    learner = Learner(denoiser, experiment)
    learner.update(0, drawn(experiment, learner, 0))
    seen = set()
    for part in drawn(experiment, learner, 1):
        own = part.rollout
        assert isinstance(own, OwnSamples)
        assert own.out is not None
        with torch.no_grad():
            out = denoiser.predict(own.latents, own.t, own.prompts, 1.0)
        torch.testing.assert_close(own.out, out, rtol=1e-5, atol=1e-6)
        seen |= set(own.t.tolist())
    assert len(seen) > 1
    assert seen <= set(learner.process.t.tolist())


def test_the_first_update_of_dro_moves_by_its_experts_alone(pictures: Path):
    experiment = plan(pictures, DRO())
    learner = Learner(ToyDenoiser(), experiment)
    batch = learner.teacher.lesson(0, drawn(experiment, learner, 0)).batch
    assert isinstance(batch, Regression)
    policy, reference, _ = learner._answers(batch)
    slope = torch.autograd.grad(DRO().loss(policy, reference, batch).per_example.sum(), policy)[0]
    assert float(slope[0].abs().max()) > 0.01
    assert float(slope[1].abs().max()) < 1e-6  # but for rounding: samplers and learner ask in other batches


@pytest.mark.parametrize("lag", [0, 1])
def test_spin_plays_against_the_iterate_that_drew_its_samples(pictures: Path, lag: int):
    experiment = plan(pictures, SPIN(beta=50.0), lag, optimizer=OptimizerConfig(1e-2, 6, 3))
    learner = Learner(ToyDenoiser(), experiment)
    for iteration in range(3):
        version = experiment.policy_version(iteration)
        drew, now = learner.weights(version), max(learner.history)
        report = learner.update(iteration, drawn(experiment, learner, iteration))
        assert learner.reference.state.flat is not None
        assert torch.equal(learner.reference.state.flat, drew.flat)
        # One update an iteration: where the policy is that iterate, the log-ratios before it are 0.
        assert (report.metrics["rho_win"] == 0 == report.metrics["kl"]) == (version == now)


def test_a_reference_that_is_told_how_to_follow_does_so_for_spin_too(pictures: Path):
    experiment = plan(pictures, SPIN(), reference=ReferenceConfig("hard", every=100))
    learner = Learner(ToyDenoiser(), experiment)
    learner.update(0, drawn(experiment, learner, 0))
    learner.update(1, drawn(experiment, learner, 1))
    assert learner.reference.state.flat is None


def test_the_baseline_of_kto_is_that_of_the_whole_batch_however_it_is_cut(pictures: Path):
    experiment = plan(pictures, KTO(beta=2.0))
    learner, tuned = Learner(ToyDenoiser(), experiment), Learner(ToyDenoiser(), plan(pictures, SFT()))
    for iteration in range(4):
        tuned.update(iteration, [])
    with torch.no_grad():  # a policy that explains more than the reference, or there were no baseline
        learner.denoiser.parameters.flat.copy_(tuned.denoiser.parameters.flat)
    batch = learner.teacher.lesson(0, []).batch
    assert isinstance(batch, Regression)

    def gradient(size: int, whole: bool) -> tuple[Tensor, list[float]]:
        parts = torch.arange(len(batch)).split(size)
        settled = learner._with_baseline(batch, parts) if whole else batch
        losses = [learner.loss(settled.take(rows)) for rows in parts]
        slopes = torch.autograd.grad(sum(loss.per_example.sum() for loss in losses), list(
            learner.denoiser.parameters.parameters.values()))  # fmt: skip
        return torch.cat([slope.flatten() for slope in slopes]), torch.cat(
            [x.metrics["baseline"] for x in losses]
        ).tolist()

    wanted, usual = gradient(6, whole=False)
    assert usual[0] > 0.01
    for size in (1, 2, 3, 6):
        found, here = gradient(size, whole=True)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
        assert here == pytest.approx(usual, rel=1e-5)
    assert gradient(2, whole=False)[1] != pytest.approx(usual, rel=1e-2)


def trained(experiment: Experiment, ranks: Ranks | None) -> tuple[LearnerState, list[dict[str, float]], int]:
    learner = Learner(ToyDenoiser(), experiment)
    if ranks is not None:
        join(learner, ranks)
    reports = [learner.update(iteration, drawn(experiment, learner, iteration)) for iteration in range(3)]
    denoiser = learner.denoiser
    assert isinstance(denoiser, ToyDenoiser)
    return learner_state(learner), [report.metrics for report in reports], denoiser.backward


@pytest.mark.parametrize("method", [KTO(beta=2.0, undesirable_weight=0.01), SPIN(beta=50.0)], ids=["kto", "spin"])
@pytest.mark.parametrize("number", [2, 3])
def test_any_number_of_ranks_gives_the_bits_of_one(pictures: Path, method: RegressionMethod, number: int):
    experiment = plan(pictures, method)
    state, told, backward = trained(experiment, None)
    found = in_ranks(number, lambda ranks: trained(experiment, ranks))
    for mine, metrics, _ in found:
        assert mine.history[3].manifest == state.history[3].manifest
        assert repr(metrics) == repr(told)
    if method.coupled:
        assert all(row["baseline"] >= 0 for row in told)
        assert max(row["baseline"] for row in told) > 0
    assert sum(share for _, _, share in found) == backward


def test_who_has_drawn_with_other_weights_is_refused(pictures: Path):
    experiment = plan(pictures, SPIN())
    learner = Learner(ToyDenoiser(), experiment)
    old = drawn(experiment, learner, 0)
    learner.update(0, old)
    with pytest.raises(WeightsError, match="iteration 1 needs rollouts of policy version 1"):
        learner.update(1, old)


def test_a_set_that_does_not_fit_is_refused_by_name(pictures: Path, tmp_path: Path):
    wide = labelled_set(tmp_path / "wide", (2, 4, 4))
    learner = Learner(ToyDenoiser(), plan(wide, SFT()))
    with pytest.raises(StoppedRun, match=r"its latents are of shape \[2, 4, 4\], the model's of \[2, 2, 2\]; prepare"):
        learner.update(0, [])
    learner = Learner(ToyDenoiser(), plan(tmp_path / "nothing", SFT()))
    with pytest.raises(StoppedRun, match="nothing holds no finished preference set"):
        learner.update(0, [])


def test_dropped_prompts_reach_the_network_as_empty_ones(pictures: Path):
    data = DataConfig(path=str(pictures), prompt_dropout=0.5)
    experiment = plan(pictures, SPIN(), data=data)
    prompts = [prompt for iteration in range(4) for prompt in preferences(experiment, SPIN(), iteration).prompts]
    assert set(prompts) == {"", *PROMPTS} - {"k"}  # k is a tie
    seen, _ = toy_run(experiment)
    assert [report.pairs for report in seen.reports] == [6] * 4


def test_figures_are_told_by_tenths_of_the_time(pictures: Path):
    seen, _ = toy_run(plan(pictures, DiffusionDPO()))
    bands = {band for report in seen.reports for band in report.by_step["loss"]}
    assert bands <= set(range(10))
    assert len(bands) > 3


@pytest.mark.parametrize("method", [DiffusionDPO(), SPIN()], ids=["diffusion_dpo", "spin"])
def test_every_weight_can_be_trained(experiment: MakeExperiment, method: RegressionMethod):
    base = smallest_experiment(experiment, method)
    full = replace(base, model=ModelConfig(path=base.model.path, device="cpu", train="full"))
    runtime, seen = LocalRuntime(full), Recording()
    fresh = runtime.learner.weights(0)
    train(full, runtime, seen)
    assert [report.alarms for report in seen.reports] == [{}, {}]
    assert len(fresh.flat) > 10000
    assert not torch.equal(runtime.learner.weights(2).flat, fresh.flat)


def test_texts_of_the_set_are_encoded_before_the_encoders_go(experiment: MakeExperiment):
    base = smallest_experiment(experiment, SFT())
    free = replace(base, model=replace(base.model, free_text_encoders=True),
                   data=replace(base.data, prompt_dropout=0.5))  # fmt: skip
    seen = Recording()
    train(free, LocalRuntime(free), seen)
    assert len(seen.reports) == 2


def test_the_toy_runtime_asks_for_nothing_where_nothing_is_drawn(pictures: Path):
    experiment = plan(pictures, DiffusionDPO())
    runtime = ToyRuntime(experiment)
    runtime.request(0, rollout_chunks(experiment, 0), 0)
    assert runtime._requested[0] == ([], 0)
