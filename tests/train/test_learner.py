"""The learner: two forwards a stored parent, exact resumption, and refusal of what it did not order."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from raypref import methods
from raypref.core.process import DensityError, Gaussian
from raypref.core.search import Search
from raypref.core.types import Transitions, concat_rollouts
from raypref.core.weights import WeightsError
from raypref.methods.base import StepMethod
from raypref.methods.d3po import D3PO
from raypref.methods.ddpo import DDPO
from raypref.methods.rdpo import RDPO
from raypref.methods.spo import SPO
from raypref.methods.tailorpo import TailorPO
from raypref.models.base import Denoiser
from raypref.models.stable_diffusion import StableDiffusion
from raypref.registry import named_classes
from raypref.train.experiment import Experiment, GuardConfig, OptimizerConfig, RunConfig, SamplingConfig
from raypref.train.guards import BadRewards
from raypref.train.learner import WARM_UP, Learner
from raypref.train.lesson import NoPairs
from raypref.train.rollout import ScoreRequest, Scores, explore
from raypref.train.sampler import SampledRollout
from raypref.train.state import learner_state, restore_learner
from tests.conftest import MakeExperiment
from tests.toy_runtime import toy_experiment, toy_run
from tests.toys import ToyDenoiser, chunk_of, sampled, score_of, toy_walk

SAMPLING = SamplingConfig(num_inference_steps=20, guidance_scale=5.0)
METHODS = named_classes(methods, StepMethod)


def setup(method: StepMethod, **sections: object) -> Experiment:
    defaults = {
        "sampling": SAMPLING,
        "run": RunConfig(prompts_per_iteration=2, chunk_size=1, lag=0),
        "optimizer": OptimizerConfig(learning_rate=1e-2, batch_size=4, micro_batch_size=2),
    }
    return Experiment(method=method, **(defaults | sections))


def learner_of(method: StepMethod, stirred: bool = False, **sections: object) -> Learner:
    denoiser = ToyDenoiser()
    if stirred:
        denoiser.stir()
    return Learner(denoiser, setup(method, **sections))


def rollouts(learner: Learner, version: int = 0, prompts: tuple[str, ...] = ("a", "q")) -> list[SampledRollout]:
    """One chunk a prompt, drawn with a version of the learner's weights by a denoiser of its own."""
    denoiser = ToyDenoiser()
    denoiser.parameters.install(learner.weights(version))
    search = learner.method.search
    return [sampled(denoiser, search, chunk_of((prompt,), version, prompt), SAMPLING) for prompt in prompts]


def pairs_of(learner: Learner) -> Transitions:
    joined = [part.rollout for part in rollouts(learner, prompts=("a",))]
    return learner.method.supervise(joined[0])


def judged_as_logits(method: StepMethod) -> StepMethod:
    """The toy's scores are no logits: SPO's threshold would drop pairs at random."""
    return replace(method, threshold=0.0) if isinstance(method, SPO) else method


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_fresh_adapter_has_log_ratio_zero_and_no_divergence(name: str):
    learner = learner_of(judged_as_logits(METHODS[name]()))
    batch = pairs_of(learner)
    loss = learner.loss(batch)
    for metric in ("rho_win", "rho_lose"):  # of single steps each row has one of the two
        rho = loss.metrics[metric]
        assert torch.equal(rho[~rho.isnan()], torch.zeros(int((~rho.isnan()).sum())))
        assert int((~rho.isnan()).sum()) > 0
    assert torch.equal(loss.metrics["kl"], torch.zeros(len(batch)))
    if learner.method.arms == 2:
        torch.testing.assert_close(loss.per_example.detach(), torch.full((len(batch),), math.log(2)))
    else:
        torch.testing.assert_close(loss.per_example.detach(), -batch.credit[0], rtol=1e-4, atol=1e-4)


def test_a_fresh_lora_has_log_ratio_zero_and_the_neutral_loss(experiment: MakeExperiment):
    plan = experiment()
    denoiser = StableDiffusion.denoiser(plan.model)
    learner = Learner(denoiser, plan)
    denoiser.parameters.install(learner.weights(0))
    rollout = sampled(denoiser, plan.method.search, chunk_of(("a b", "c")), plan.sampling).rollout
    loss = learner.loss(plan.method.supervise(rollout))
    assert torch.equal(loss.metrics["rho_win"], torch.zeros(4))
    assert torch.equal(loss.metrics["rho_lose"], torch.zeros(4))
    torch.testing.assert_close(loss.per_example.detach(), torch.full((4,), math.log(2)))
    loss.per_example.sum().backward()
    moved = {n: float(p.grad.abs().sum()) for n, p in denoiser.parameters.parameters.items() if "lora_B" in n}
    assert moved
    assert all(size > 0 for size in moved.values())


class Watching(ToyDenoiser):
    """Counts evaluations with the adapter off apart from those with it on."""

    def __init__(self) -> None:
        super().__init__()
        self.off = 0

    @contextmanager
    def reference(self) -> Iterator[None]:
        before = self.guided
        with super().reference():
            yield
        self.off += self.guided - before


D3PO_FIVE = D3PO(search=Search("chain", 2, (0, 4, 8, 12, 16), "final", same_start=True))


@pytest.mark.parametrize(
    ("method", "pairs", "sampling", "backward"),
    [
        (RDPO(), 5, 23, 5),
        (TailorPO(), 5, 23, 5),
        (RDPO(search=Search(steps=tuple(range(20)))), 20, 39, 20),
        (SPO(threshold=0.0), 16, 65, 16),
        (D3PO(), 20, 39, 39),
        (D3PO_FIVE, 5, 39, 9),
    ],
)
def test_a_trajectory_costs_what_the_mathematics_needs(method: StepMethod, pairs: int, sampling: int, backward: int):
    """Guided evaluations, as counted in the design: 33 for five pairs of RDPO, 97 for SPO's sixteen, 117 for D3PO's
    twenty. Candidates are predicted once, for their score and their next step; every parent once by policy (these
    have a backward) and once by reference."""
    denoiser = Watching()
    learner = Learner(denoiser, setup(method))
    denoiser.parameters.install(learner.weights(0))
    denoiser.guided = 0  # a version's canary is one more
    rollout = sampled(denoiser, learner.method.search, chunk_of(("a",)), SAMPLING).rollout
    assert denoiser.guided == sampling
    batch = learner.method.supervise(rollout)
    assert len(batch) == pairs
    learner.loss(batch).per_example.sum().backward()
    assert denoiser.off == backward
    assert denoiser.backward == backward
    assert denoiser.guided == sampling + 2 * backward


def naive_losses(learner: Learner, batch: Transitions, beta: float, psi_lambda: float) -> Tensor:
    """Four forwards a pair, separate log densities in float64, -log sigmoid written out."""
    losses = []
    process = learner.process
    for b in range(len(batch)):
        step, rho = int(batch.steps[b]), []
        for arm in (0, 1):
            x_t = batch.x_t[arm if len(batch.x_t) == 2 else 0, b][None]
            arguments = (x_t, process.t[step][None], (batch.prompts[b],), SAMPLING.guidance_scale)
            policy = learner.denoiser.predict(*arguments)
            with torch.no_grad(), learner.denoiser.reference():
                reference = learner.denoiser.predict(*arguments)
            normal = [
                Normal(
                    process.mean_state[step] * x_t.double() + process.mean_out[step] * out.double(), process.sigma[step]
                )
                for out in (policy, reference)
            ]
            x_s = batch.x_s[arm, b].double()[None]
            rho.append(normal[0].log_prob(x_s).mean() - normal[1].log_prob(x_s).mean())
        z = beta * (rho[0] - rho[1]) - psi_lambda * torch.clamp(rho[1], min=0)
        losses.append(torch.log1p(torch.exp(-z)))
    return torch.stack(losses)


@pytest.mark.parametrize("shape", ["tree", "chain"])
def test_shared_forwards_give_the_loss_and_gradients_of_four_separate_ones(shape: str):
    search = Search(shape, 2, (0, 4, 8, 16), "delta_parent" if shape == "tree" else "delta_cross")
    learner = learner_of(RDPO(search=search, beta=2.0, psi_lambda=1.0), stirred=True)
    batch = pairs_of(learner)
    assert len(batch) == 4
    weights = list(learner.denoiser.parameters.parameters.values())
    found, wanted = learner.loss(batch).per_example, naive_losses(learner, batch, 2.0, 1.0)
    assert float((found.detach() - math.log(2)).abs().max()) > 1e-3
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    for one, two in zip(
        torch.autograd.grad(found.sum(), weights), torch.autograd.grad(wanted.sum(), weights), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=3e-5 * float(two.abs().max()))


def test_micro_batches_change_memory_and_not_the_update():
    plans = [OptimizerConfig(learning_rate=1e-2, batch_size=6, micro_batch_size=micro) for micro in (1, 2, 6)]
    results = []
    for plan in plans:
        learner = learner_of(RDPO(), optimizer=plan)
        report = learner.update(0, rollouts(learner))
        results.append((learner.weights(1).flat, report.metrics))
    for flat, metrics in results[1:]:
        torch.testing.assert_close(flat, results[0][0], rtol=1e-4, atol=1e-6)
        assert metrics["loss"] == pytest.approx(results[0][1]["loss"], rel=1e-5)


def test_an_update_is_the_mean_gradient_of_its_batch():
    # One batch of all ten pairs with plain AdamW by hand: first step = -lr g / (|g| + eps), after clipping the norm.
    plan = OptimizerConfig(learning_rate=1e-2, batch_size=10, micro_batch_size=5, adam_weight_decay=0.0,
                           max_grad_norm=1e-3, adam_epsilon=1e-2)  # fmt: skip
    learner = learner_of(TailorPO(beta=5.0), optimizer=plan)
    data = rollouts(learner)
    batches = [learner.method.supervise(part.rollout) for part in data]
    losses = [naive_losses(learner, batch, 5.0, 0.0) for batch in batches]
    weights = list(learner.denoiser.parameters.parameters.values())
    total = torch.autograd.grad(torch.cat(losses).mean(), weights)
    slope = torch.cat([part.flatten() for part in total])
    norm = float(slope.norm())
    clipped = slope * min(1.0, 1e-3 / norm)
    before = learner.denoiser.parameters.flat.clone()
    report = learner.update(0, data)
    assert report.pairs == 10
    assert norm > 1e-3
    assert report.metrics["grad_norm"] == pytest.approx(norm, rel=1e-3)
    wanted = before - 1e-2 * clipped / (clipped.abs() + 1e-2)
    torch.testing.assert_close(learner.weights(1).flat, wanted, rtol=1e-3, atol=1e-7)


def test_updates_widen_the_winners_lead():
    learner = learner_of(TailorPO(beta=1.0), optimizer=OptimizerConfig(1e-3, 10, 10, num_inner_epochs=3))
    data = rollouts(learner)
    batches = [learner.method.supervise(part.rollout) for part in data]
    report = learner.update(0, data)
    assert report.metrics["updates"] == 3
    after = torch.cat([naive_losses(learner, batch, 1.0, 0.0) for batch in batches])
    assert float(after.detach().mean()) < math.log(2)


def test_the_reference_is_the_network_without_its_adapter():
    learner = learner_of(RDPO(), stirred=True)
    batch = pairs_of(learner)
    fresh = ToyDenoiser()
    step = batch.steps
    x_t = batch.x_t[0]
    wanted = fresh.predict(x_t, learner.process.t[step], batch.prompts, SAMPLING.guidance_scale)
    with learner.denoiser.reference():
        found = learner.denoiser.predict(x_t, learner.process.t[step], batch.prompts, SAMPLING.guidance_scale)
    assert torch.equal(found, wanted)
    assert not torch.equal(learner.denoiser.predict(x_t, learner.process.t[step], batch.prompts, 5.0), wanted)


def test_rollouts_of_another_version_are_refused():
    learner = learner_of(RDPO())
    data = rollouts(learner)
    learner.update(0, data)
    with pytest.raises(WeightsError, match=r"iteration 1 needs rollouts of policy version 1 .* drawn with version 0"):
        learner.update(1, data)


def test_rollouts_of_other_bits_under_the_same_version_are_refused():
    learner = learner_of(RDPO())
    data = [replace(part, rollout=replace(part.rollout, policy_checksum="0" * 32)) for part in rollouts(learner)]
    with pytest.raises(WeightsError, match=r"drawn with version 0 \(.*0000"):
        learner.update(0, data)


def test_refused_rollouts_leave_the_weights_alone():
    learner = learner_of(RDPO())
    before = learner.denoiser.parameters.flat.clone()
    data = [replace(part, rollout=replace(part.rollout, policy_version=3)) for part in rollouts(learner)]
    with pytest.raises(WeightsError):
        learner.update(0, data)
    assert torch.equal(learner.denoiser.parameters.flat, before)


def test_with_lag_one_the_rollouts_are_one_version_older():
    learner = learner_of(RDPO(), run=RunConfig(prompts_per_iteration=2, chunk_size=1, lag=1))
    learner.update(0, rollouts(learner, 0))
    learner.update(1, rollouts(learner, 0))
    learner.update(2, rollouts(learner, 1))
    with pytest.raises(KeyError):
        learner.weights(1)
    assert learner.weights(3).manifest.version == 3


def test_without_lag_only_the_newest_version_is_kept():
    learner = learner_of(RDPO())
    learner.update(0, rollouts(learner, 0))
    assert list(learner.history) == [1]
    assert torch.equal(learner.weights(1).flat, learner.denoiser.parameters.flat)


def test_an_iteration_of_ties_is_refused_by_name():
    learner = learner_of(RDPO())
    denoiser = ToyDenoiser()
    denoiser.parameters.install(learner.weights(0))

    def flat_score(request: ScoreRequest) -> Tensor:
        return torch.zeros(len(request.x_0))

    data = [sampled(denoiser, learner.method.search, chunk_of(("a",)), SAMPLING, flat_score)]
    with pytest.raises(
        BadRewards, match=r"iteration 0: 100.0% of the pairs are exact ties, .*guard\.tied_share = 0\.9"
    ):
        learner.update(0, data)
    patient = learner_of(RDPO(), guard=GuardConfig(tied_share=1.0))
    with pytest.raises(NoPairs, match=r"iteration 0: every pair is a tie.*'tie': 5"):
        patient.update(0, data)


@pytest.mark.parametrize("method", [RDPO(), D3PO()], ids=["rdpo", "d3po"])
def test_a_restored_learner_goes_on_bit_for_bit(method: StepMethod):
    learner = learner_of(method)
    learner.update(0, rollouts(learner, 0))
    state = learner_state(learner)
    learner.update(1, rollouts(learner, 1))
    wanted = learner.weights(2)

    resumed = learner_of(method)
    restore_learner(resumed, state)
    resumed.update(1, rollouts(resumed, 1))
    assert torch.equal(resumed.weights(2).flat, wanted.flat)
    assert resumed.weights(2).manifest == wanted.manifest
    moments, again = learner_state(learner).optimizer, learner_state(resumed).optimizer
    assert set(moments) == set(again)
    assert all(torch.equal(moments[name], again[name]) for name in moments)


def test_a_state_does_not_follow_the_live_learner():
    learner = learner_of(RDPO())
    learner.update(0, rollouts(learner, 0))
    state = learner_state(learner)
    kept = {name: value.clone() for name, value in state.optimizer.items()}
    learner.update(1, rollouts(learner, 1))
    assert all(torch.equal(state.optimizer[name], value) for name, value in kept.items())
    assert list(state.history) == [1]


def test_updates_do_not_depend_on_global_seeds():
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        learner = learner_of(RDPO())
        learner.update(0, rollouts(learner, 0))
        results.append(learner.weights(1).flat)
    assert torch.equal(*results)


def test_training_on_a_step_without_density_is_refused_before_it_starts():
    with pytest.raises(DensityError, match=r"step 0 .*eta > 0"):
        learner_of(RDPO(), sampling=SamplingConfig(eta=0.0))
    with pytest.raises(DensityError, match="step 19"):
        learner_of(D3PO(), sampling=SamplingConfig(scheduler="ddpm"))


def test_the_report_says_what_happened():
    learner = learner_of(RDPO())
    data = rollouts(learner)
    report = learner.update(0, data)
    value = torch.cat([part.rollout.value for part in data])
    parent = torch.cat([part.rollout.parent_value for part in data])
    assert report.pairs == 10
    assert all(
        report.metrics[f"dropped_{why}"] == 0 for why in ("unscored", "tie", "incomparable", "threshold", "share")
    )
    assert report.alarms == {}
    assert report.metrics["reward"] == pytest.approx(float(value[:, :, -1].mean()), rel=1e-5)
    gain = value - parent
    assert report.metrics["credit_win"] == pytest.approx(float(gain.amax(1).mean()), rel=1e-5)
    assert report.metrics["credit_lose"] == pytest.approx(float(gain.amin(1).mean()), rel=1e-5)
    found = report.by_step["gain"]
    assert list(found) == [0, 4, 8, 12, 16]
    assert list(found.values()) == pytest.approx(gain.mean((0, 1, 3)).tolist(), rel=1e-4, abs=1e-5)
    assert report.metrics["updates"] == 3  # 10 pairs in batches of 4


def test_a_chain_without_stepwise_scores_reports_no_gains():
    learner = learner_of(D3PO())
    data = rollouts(learner)
    report = learner.update(0, data)
    assert "gain" not in report.by_step
    final = torch.cat([part.rollout.final for part in data])
    assert report.metrics["reward"] == pytest.approx(float(final.mean()), rel=1e-5)


def test_metrics_are_told_by_step():
    learner = learner_of(RDPO(beta=2.0), stirred=True, optimizer=OptimizerConfig(1e-2, 10, 5))
    data = rollouts(learner)
    batches = [learner.method.supervise(part.rollout) for part in data]
    losses = [learner.loss(batch) for batch in batches]
    report = learner.update(0, data)
    steps = torch.cat([batch.steps for batch in batches])
    for name in ("rho_win", "rho_lose", "kl", "margin"):
        values = torch.cat([loss.metrics[name] for loss in losses])
        wanted = {step: float(values[steps == step].mean()) for step in (0, 4, 8, 12, 16)}
        assert report.by_step[name] == pytest.approx(wanted, rel=1e-3, abs=1e-5), name
        assert report.metrics[name] == pytest.approx(float(values.mean()), rel=1e-3, abs=1e-5), name
    whole = torch.cat([loss.per_example.detach() for loss in losses])
    assert report.by_step["loss"][8] == pytest.approx(float(whole[steps == 8].mean()), rel=1e-4)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_an_update_that_is_not_finite_is_counted_and_not_applied(bad: float):
    learner = learner_of(RDPO(), optimizer=OptimizerConfig(1e-2, 10, 5))
    data = rollouts(learner)
    data[1].rollout.x_t[0, 0, 2] = bad
    before = learner.denoiser.parameters.flat.clone()
    report = learner.update(0, data)
    assert report.alarms == {"nonfinite": 1}
    assert math.isnan(report.metrics["grad_norm"])
    assert report.metrics["updates"] == 1
    assert torch.equal(learner.weights(1).flat, before)
    assert learner_state(learner).optimizer == {}
    assert learner.reference.state.updates == 0
    assert math.isnan(learner.gradient_level)


def test_the_other_updates_of_an_iteration_go_on():
    learner = learner_of(RDPO(), optimizer=OptimizerConfig(1e-2, 1, 1))
    data = rollouts(learner)
    data[1].rollout.x_t[0, 0, 2] = torch.nan
    report = learner.update(0, data)
    assert report.alarms == {"nonfinite": 1}
    assert report.metrics["updates"] == 10
    assert learner.reference.state.updates == 9
    assert float(learner_state(learner).optimizer["exp_avg/bias"].norm()) > 0
    assert bool(learner.weights(1).flat.isfinite().all())
    assert math.isfinite(report.metrics["grad_norm"])


def steps_with(learner: Learner, norms: list[float]) -> tuple[Counter[str], list[float]]:
    """Optimizer steps whose gradients have these norms; the alarms, and the running level after each."""
    alarms, levels = Counter[str](), []
    for norm in norms:
        for parameter in learner.denoiser.parameters.parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        learner.denoiser.bias.grad[0] = norm
        assert learner._step(alarms) == pytest.approx(norm, nan_ok=True)
        levels.append(learner.gradient_level)
    return alarms, levels


def test_a_gradient_far_above_its_level_is_a_spike_once_the_level_is_known():
    def alarms_of(norms: list[float]) -> dict[str, int]:
        return dict(steps_with(learner_of(RDPO(), guard=GuardConfig(spike_factor=3.0)), norms)[0])

    assert alarms_of([1.0] * WARM_UP + [2.9]) == {}
    assert alarms_of([1.0] * WARM_UP + [3.1]) == {"gradient_spike": 1}
    assert alarms_of([1.0] * (WARM_UP - 1) + [100.0]) == {}
    assert alarms_of([1.0] * WARM_UP + [3.1, 1.0, 3.1]) == {"gradient_spike": 1}  # by then the level is 1.19
    assert alarms_of([1.0] * WARM_UP + [math.nan, 3.1]) == {"nonfinite": 1, "gradient_spike": 1}


def test_the_level_is_a_running_mean_of_norms_before_clipping():
    _, levels = steps_with(learner_of(RDPO()), [4.0, 2.0, math.nan, 1.0])
    assert levels == pytest.approx([4.0, 0.9 * 4 + 0.2, 3.8, 0.9 * 3.8 + 0.1])


def test_the_level_survives_a_restart():
    learner = learner_of(RDPO())
    learner.update(0, rollouts(learner))
    state = learner_state(learner)
    assert math.isfinite(state.gradient_level)
    resumed = learner_of(RDPO())
    restore_learner(resumed, state)
    assert resumed.gradient_level == learner.gradient_level


SHORT_DDPO = DDPO(search=replace(DDPO().search, steps=(0, 4, 8)), clip_range=0.5)


def test_the_first_policy_gradient_is_reinforce():
    """Ratio 1, and the gradient of -A log pi, with log densities of torch's own."""
    learner = learner_of(SHORT_DDPO, stirred=True)
    batch = pairs_of(learner)
    assert len(batch) == 4 * 3
    loss = learner.loss(batch)
    torch.testing.assert_close(loss.metrics["ratio"], torch.ones(12), rtol=0, atol=1e-5)
    weights = list(learner.denoiser.parameters.parameters.values())
    process, surrogate = learner.process, []
    for b in range(len(batch)):
        step = int(batch.steps[b])
        out = learner.denoiser.predict(batch.x_t[0, b][None], process.t[step][None], (batch.prompts[b],), 5.0)
        mean = process.mean_state[step] * batch.x_t[0, b] + process.mean_out[step] * out[0]
        density = Normal(mean.double(), process.sigma[step]).log_prob(batch.x_s[0, b].double()).mean()
        surrogate.append(-float(batch.credit[0, b]) * density)
    wanted = torch.autograd.grad(torch.stack(surrogate).sum(), weights)
    for one, two in zip(torch.autograd.grad(loss.per_example.sum(), weights), wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4 * float(two.abs().max()))


def test_a_kept_mean_makes_the_ratio_exactly_one():
    learner = learner_of(SHORT_DDPO, stirred=True)
    batch = pairs_of(learner)
    process = learner.process
    drew = Gaussian(batch.mean, process.sigma[batch.steps].float())
    reference = Gaussian(torch.zeros_like(batch.mean), drew.std)
    assert torch.equal(learner.method.loss(drew, reference, batch).metrics["ratio"], torch.ones(len(batch)))


def test_the_policy_gradient_makes_good_trajectories_likelier():
    learner = learner_of(SHORT_DDPO, optimizer=OptimizerConfig(1e-3, 24, 12, num_inner_epochs=4))
    data = rollouts(learner)
    report = learner.update(0, data)
    assert report.metrics["updates"] == 4
    assert report.pairs == 24
    batch = learner.method.supervise(concat_rollouts([part.rollout for part in data]))
    ratio, advantage = learner.loss(batch).metrics["ratio"], batch.credit[0]
    assert float((ratio.log() * advantage).mean()) > 0


def test_a_trajectory_like_all_others_teaches_nothing():
    learner = learner_of(SHORT_DDPO)
    denoiser = ToyDenoiser()
    denoiser.parameters.install(learner.weights(0))

    def flat_score(request: ScoreRequest) -> Tensor:
        return torch.full((len(request.x_0),), 0.1)

    data = [sampled(denoiser, learner.method.search, chunk_of(("a",)), SAMPLING, flat_score)]
    with pytest.raises(BadRewards, match=r"100.0% of the pairs are exact ties"):
        learner.update(0, data)


def test_several_rewards_decide_together():
    """Pareto labels: the winner is nowhere worse; where the rewards disagree there is no pair, and it is counted."""
    learner = learner_of(TailorPO(), optimizer=OptimizerConfig(1e-2, 2, 2))
    denoiser = ToyDenoiser()
    denoiser.parameters.install(learner.weights(0))
    search = explore(toy_walk(denoiser, chunk_of(("a", "q", "z")), SAMPLING), learner.method.search)
    request = next(search)
    try:
        while True:
            first = score_of(request)
            second = request.x_0.flatten(1).sum(1)
            request = search.send(Scores(torch.stack([first, second], 1)))
    except StopIteration as done:
        rollout = done.value
    value = rollout.value  # [P 2 S 2]
    agree = (value[:, 0] > value[:, 1]).all(-1) | (value[:, 0] < value[:, 1]).all(-1)
    assert 0 < int(agree.sum()) < agree.numel()
    report = learner.update(0, [SampledRollout(rollout)])
    assert report.pairs == int(agree.sum())
    assert report.metrics["dropped_incomparable"] == int((~agree).sum())
    assert report.metrics["dropped_share"] == pytest.approx(float((~agree).float().mean()))
    assert report.metrics["reward"] == pytest.approx(float(value[:, :, -1, 0].mean()), rel=1e-5)


def test_the_toy_is_a_denoiser_like_any_other():
    assert isinstance(ToyDenoiser(), Denoiser)


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        ("constant", [1e-3, 1e-3, 1e-3, 1e-3]),
        ("linear", [1e-3, 7.5e-4, 5e-4, 2.5e-4]),
        ("cosine", [1e-3, 8.535534e-4, 5e-4, 1.464466e-4]),  # (1 + cos(0, 45, 90, 135 degrees)) / 2
    ],
)
def test_the_learning_rate_falls_over_the_run(scheduler, expected):
    optimizer = OptimizerConfig(learning_rate=1e-3, lr_scheduler=scheduler, batch_size=6, micro_batch_size=3)
    seen, runtime = toy_run(toy_experiment(optimizer=optimizer))
    assert [report.metrics["learning_rate"] for report in seen.reports] == pytest.approx(expected)
    assert runtime.learner.optimizer.param_groups[0]["lr"] == pytest.approx(expected[-1])


def test_the_learning_rate_rises_first():
    optimizer = OptimizerConfig(learning_rate=1e-3, lr_warmup_iterations=3, lr_scheduler="linear")
    rates = [optimizer.learning_rate_at(iteration, 7) for iteration in range(7)]
    assert rates == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 7.5e-4, 5e-4, 2.5e-4])
    with pytest.raises(ValueError, match="lr_warmup_iterations"):
        OptimizerConfig(lr_warmup_iterations=-1)
