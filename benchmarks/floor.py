"""The bare minimum of an RDPO iteration: network evaluations, backwards, decodes, reward calls, and nothing else."""

import torch

from benchmarks.clock import Clock
from benchmarks.work import Ours
from raypref.core.search import NEEDS
from raypref.methods.base import StepMethod
from raypref.train.scorer import DECODED_AT_ONCE


def run(ours: Ours) -> Clock:
    """Random numbers through the same networks, at the same batch sizes."""
    clock, experiment = Clock(), ours.experiment
    assert isinstance(experiment.method, StepMethod), "the floor is that of rollouts"
    search, scale = experiment.method.search, experiment.sampling.guidance_scale
    prompts, size = ours.chunk.prompts, experiment.optimizer.micro_batch_size
    sampler, learner, scorer = ours.sampler.denoiser, ours.learner.denoiser, ours.scoring.scorer

    def inputs(count: int) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...], float]:
        names = (prompts * count)[:count]
        return torch.randn(count, *sampler.latent_shape), torch.full((count,), 500), names, scale

    with clock("all"):
        with torch.no_grad():
            for step in range(search.steps[-1] + 1):
                sampler.predict(*inputs(len(prompts)) if step - 1 not in search.steps else inputs(2 * len(prompts)))
            sampler.predict(*inputs(2 * len(prompts)))
            for _ in search.steps:
                scored = len(prompts) * sum(2 if offset else 1 for offset in NEEDS[search.step_reward])
                for part in torch.arange(scored).split(DECODED_AT_ONCE):
                    x_t, _, names, _ = inputs(len(part))
                    scorer.rewards[0].reward.score(scorer.decoder.decode(x_t), names)
        for _ in range(len(prompts) * len(search.steps) // size):
            with torch.no_grad(), learner.reference():
                learner.predict(*inputs(size))
            learner.predict(*inputs(size)).square().mean().backward()
            for parameter in learner.parameters.parameters.values():
                parameter.grad = None
    return clock
