"""Fused sampling: the forward that sampling makes at a parent is the one that training differentiates."""

import math
from dataclasses import replace

import pytest
import torch

from raypref import methods
from raypref.core.types import Rollout
from raypref.methods.base import StepMethod
from raypref.methods.d3po import D3PO
from raypref.methods.rdpo import RDPO
from raypref.methods.spo import SPO
from raypref.methods.tailorpo import TailorPO
from raypref.registry import named_classes
from raypref.train.chunk import rollout_chunks
from raypref.train.experiment import ClusterConfig, Experiment, OptimizerConfig, RunConfig, SamplingConfig
from raypref.train.learner import Learner
from raypref.train.runtime import LocalRuntime
from raypref.train.sampler import SampledRollout, Sampler
from tests.conftest import MakeExperiment
from tests.toys import ToyDenoiser, ToyScoring, chunk_of

METHODS = {name: kind() for name, kind in named_classes(methods, StepMethod).items()} | {"spo": SPO(threshold=0.0)}


def plan(method: StepMethod, fused: bool) -> Experiment:
    rows = 2 * method.rows_per_prompt()
    return Experiment(
        method=method,
        run=RunConfig(prompts_per_iteration=2, chunk_size=2, lag=0, fused_sampling=fused),
        sampling=SamplingConfig(num_inference_steps=20, guidance_scale=5.0),
        optimizer=OptimizerConfig(learning_rate=1e-2, batch_size=rows, micro_batch_size=rows),
        cluster=ClusterConfig(runtime="local"),
    )


def roles(method: StepMethod, fused: bool) -> tuple[Learner, Sampler, SampledRollout]:
    """A learner, its sampler, and what that found for two prompts."""
    experiment, denoiser = plan(method, fused), ToyDenoiser()
    learner = Learner(denoiser, experiment)
    denoiser.stir()
    learner.history = {0: denoiser.parameters.take(0)}
    sampler = Sampler(denoiser if fused else ToyDenoiser(), experiment, ToyScoring())
    weights = learner.weights(0)
    sampler._use(weights)
    denoiser.guided = sampler.denoiser.guided = 0  # a version's canary is one more
    return learner, sampler, sampler.rollout(chunk_of(("a", "q")), weights)


def without(rollout: Rollout, step: int) -> Rollout:
    """The same with scores of the first prompt that are missing at a trained step, whose pair is then dropped."""
    value = rollout.value.clone()
    value[0, :, step] = math.nan
    return replace(rollout, value=value)


@pytest.mark.parametrize(
    ("method", "pairs", "evaluations", "backward"),
    [(RDPO(), 5, 28, 5), (TailorPO(), 5, 28, 5), (D3PO(), 20, 78, 39)],
)
def test_a_trajectory_costs_no_forward_for_the_policy_s_training(
    method: StepMethod, pairs: int, evaluations: int, backward: int
):
    learner, sampler, found = roles(method, True)
    batch = method.supervise(found.rollout)
    loss = learner.loss(batch)
    loss.per_example.sum().backward()
    assert (len(batch), sampler.denoiser.guided) == (2 * pairs, 2 * evaluations)
    assert sampler.denoiser.backward == 2 * backward


@pytest.mark.parametrize(("fused", "graphs"), [(True, 10), (False, 0)])
def test_sampling_keeps_the_graphs_of_trained_parents_where_they_are_trained_on_and_no_other(fused: bool, graphs: int):
    _, sampler, _ = roles(RDPO(), fused)
    assert isinstance(sampler.denoiser, ToyDenoiser)
    assert sampler.denoiser.graphed == graphs


@pytest.mark.parametrize("name", sorted(METHODS))
def test_what_is_sampled_and_learned_is_what_two_networks_do(name: str):
    fused, apart = (roles(METHODS[name], fused) for fused in (True, False))
    for column in ("x_t", "x_s", "value", "final"):
        mine, other = getattr(fused[2].rollout, column), getattr(apart[2].rollout, column)
        assert not mine.requires_grad
        torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)
    gradients, metrics = [], []
    for learner, _, found in (fused, apart):
        loss = learner.loss(learner.method.supervise(without(found.rollout, step=1)))
        loss.per_example.sum().backward()
        metrics.append({"loss": loss.per_example.detach()} | loss.metrics)
        gradients.append(torch.cat([p.grad.flatten() for p in learner.denoiser.parameters.parameters.values()]))
    assert float(gradients[1].abs().max()) > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-5)
    for metric, value in metrics[1].items():
        assert not metrics[0][metric].requires_grad
        torch.testing.assert_close(metrics[0][metric], value, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_a_fresh_adapter_has_log_ratio_zero_although_batches_differ():
    experiment = plan(RDPO(), True)
    learner = Learner(denoiser := ToyDenoiser(), experiment)
    found = Sampler(denoiser, experiment, ToyScoring()).rollout(chunk_of(("a", "q")), learner.weights(0))
    denoiser.mixing += 1e-6  # what a batch of another size does to the reference
    loss = learner.loss(learner.method.supervise(found.rollout))
    assert torch.equal(loss.metrics["rho_lose"], torch.zeros(10))


def test_two_iterations_of_a_diffusion_model_end_at_the_same_weights(experiment: MakeExperiment):
    """Through the local runtime, so both roles share one network there."""
    base = experiment()
    rows = base.run.prompts_per_iteration * base.method.rows_per_prompt()
    base = replace(
        base,
        cluster=ClusterConfig(runtime="local"),
        optimizer=replace(base.optimizer, batch_size=rows, micro_batch_size=rows),
    )
    moved = []
    for fused in (True, False):
        runtime = LocalRuntime(replace(base, run=replace(base.run, lag=0, fused_sampling=fused)))
        runtime.restore(None)
        assert (runtime.sampler.denoiser is runtime.learner.denoiser) is fused
        before = runtime.learner.denoiser.parameters.flat.clone()
        for iteration in range(2):
            runtime.request(iteration, rollout_chunks(runtime.learner.experiment, iteration), iteration)
            runtime.update(iteration)
        moved.append(runtime.learner.denoiser.parameters.flat - before)
    assert float(moved[1].norm()) > 0
    assert float((moved[0] - moved[1]).norm()) < 1e-3 * float(moved[1].norm())
