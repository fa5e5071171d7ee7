"""D3PO as its authors' script runs it: two whole trajectories one after the other, then every step of every sample alone.

Sampling in batches of 10, training in batches of 1; four guided forwards a step, of winner and loser by policy and copied
reference; gradients accumulated over a whole trajectory. Source: Yang et al. 2024 (arXiv:2311.13231) and its repository.
"""

import torch
from torch.nn.functional import logsigmoid

from benchmarks.clock import Clock
from benchmarks.work import Outcome, Published
from raypref.methods.d3po import D3PO

SAMPLE_BATCH = 10


def run(models: Published, method: D3PO) -> Outcome:
    """One iteration."""
    clock, walk, total = Clock(), models.walk, len(models.process)
    prompts = walk.chunk.prompts
    assert len(prompts) == SAMPLE_BATCH, "one batch of prompts"
    with clock("all"):
        chains = []
        for arm in (0, 1):
            with clock("rollout"):
                states = [walk.start(1)[0]]
                for step in range(total):
                    rows = walk.rows(step)
                    with torch.no_grad():
                        out = models.predict(models.policy, rows, states[-1], prompts)
                    gaussian = models.process.reverse(rows, states[-1], out)
                    states.append(gaussian.sample(walk.noise("step", step, 2)[arm]))
            with clock("reward"):
                chains.append((models.score(states[-1], prompts, total), torch.stack(states)))
        (first, one), (second, other) = chains
        losses = []
        with clock("learner"):
            for row in range(len(prompts)):
                won, lost = (one, other) if first[row] > second[row] else (other, one)
                for step in range(total):
                    rows, prompt = torch.tensor([step]), (prompts[row],)
                    rho = [
                        models.log_ratio(rows, states[step, row : row + 1], states[step + 1, row : row + 1], prompt)
                        for states in (won, lost)
                    ]
                    low, high = 1 - method.ratio_clip_eps, 1 + method.ratio_clip_eps
                    kept = [ratio.exp().clamp(low, high).log() for ratio in rho]
                    loss = -logsigmoid(method.beta * (kept[0] - kept[1])).mean()
                    (loss / total).backward()
                    losses.append(float(loss))
                models.update()
    return Outcome(sum(losses) / len(losses), len(losses), clock)
