"""D3PO as its authors' script runs it: two whole trajectories, then every step of every sample alone.

Sampling in batches of 10, training in batches of 1; four guided forwards a step, of winner and loser by policy and
copied reference; gradients accumulated over a whole trajectory. Source: Yang et al. 2024 (arXiv:2311.13231).
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from benchmarks.clock import Clock
from benchmarks.work import Outcome, Published, clipped
from raypref.methods.d3po import D3PO

SAMPLE_BATCH = 10


def run(models: Published, method: D3PO) -> Outcome:
    """One iteration."""
    clock, prompts, total = Clock(), models.walk.chunk.prompts, len(models.process)
    assert len(prompts) == SAMPLE_BATCH, "one batch of prompts"
    with clock("all"):
        with clock("rollout"):
            chains = [_trajectory(models, arm) for arm in (0, 1)]
        with clock("reward"):
            scores = [models.score(states[-1], prompts, total) for states in chains]
        with clock("learner"):
            losses = []
            for row in range(len(prompts)):
                order = (0, 1) if scores[0][row] > scores[1][row] else (1, 0)
                losses += _train(models, method, prompts[row], *(chains[arm][:, row : row + 1] for arm in order))
    return Outcome(sum(losses) / len(losses), len(losses), clock)


def _trajectory(models: Published, arm: int) -> Tensor:
    """All states of one trajectory a prompt: [21 P C H W]."""
    walk = models.walk
    states = [walk.start(1)[0]]
    for step in range(len(models.process)):
        rows = walk.rows(step)
        with torch.no_grad():
            out = models.predict(models.policy, rows, states[-1], walk.chunk.prompts)
        states.append(models.process.reverse(rows, states[-1], out).sample(walk.noise("step", step, 2)[arm]))
    return torch.stack(states)


def _train(models: Published, method: D3PO, prompt: str, won: Tensor, lost: Tensor) -> list[float]:
    """All steps of one prompt's two trajectories, one after the other, and an update."""
    losses, total = [], len(models.process)
    for step in range(total):
        rows = torch.tensor([step])
        rho = [
            clipped(models.log_ratio(rows, states[step], states[step + 1], (prompt,)), method.ratio_clip_eps)
            for states in (won, lost)
        ]
        loss = -logsigmoid(method.beta * (rho[0] - rho[1])).mean()
        (loss / total).backward()
        losses.append(float(loss.detach()))
    models.update()
    return losses
