"""What methods on labelled pictures need of the policy's own drawing. Nothing is scored."""

from collections.abc import Generator
from dataclasses import replace

import torch

from raypref.core.regression import OwnSamples
from raypref.methods.regression import Own
from raypref.train.rollout import ScoreRequest, Scores, Walk, finish

Drawing = Generator[ScoreRequest, Scores, OwnSamples]


def draw_own(walk: Walk, own: Own) -> Drawing:
    """One plain trajectory a prompt: see `RegressionMethod.own`."""
    return _finished(walk) if own == "finished" else _on_the_way(replace(walk, guidance_scale=1.0))


def _finished(walk: Walk) -> Drawing:
    yield from ()
    x_0, _ = finish(walk)
    parameters = walk.denoiser.parameters
    times = torch.zeros(len(x_0), dtype=walk.process.t.dtype)
    return OwnSamples(walk.chunk.prompts, x_0, None, times, parameters.version, parameters.checksum)


def _on_the_way(walk: Walk) -> Drawing:
    """No trajectory is predicted beyond the last state that is wanted."""
    yield from ()
    steps = torch.tensor([key("own_step").integer(len(walk.process)) for key in walk.chunk.keys])
    states, outs, x_t = [], [], walk.start(1)
    for step in range(int(steps.max()) + 1):
        out = walk.predict(step, x_t)
        assert out is not None
        states.append(x_t[0])
        outs.append(out[0])
        x_t = walk.step(step, x_t, out, 1)
    rows = torch.arange(len(steps))
    parameters = walk.denoiser.parameters
    return OwnSamples(
        prompts=walk.chunk.prompts,
        latents=torch.stack(states)[steps, rows],
        out=torch.stack(outs)[steps, rows],
        t=walk.process.t[steps],
        policy_version=parameters.version,
        policy_checksum=parameters.checksum,
    )
