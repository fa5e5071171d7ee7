"""RDPO written step by step from its Algorithm 1, at our batch sizes: nothing is shared, nothing is reused.

A whole trajectory of 20 forwards, two more for the candidates of each of the five branches, and four in training: 50
forwards and 10 backwards for five pairs.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from benchmarks.clock import Clock
from benchmarks.work import Outcome, Pairs, Published
from raypref.methods.rdpo import RDPO


def run(models: Published, method: RDPO, batch_size: int) -> Outcome:
    """One iteration."""
    clock = Clock()

    def objective(won: Tensor, lost: Tensor) -> Tensor:
        return -logsigmoid(method.beta * (won - lost) - method.psi_lambda * torch.relu(lost))

    with clock("all"):
        with clock("rollout"):
            pairs = _search(models, method, clock)
        with clock("learner"):
            losses = models.train(pairs, batch_size, objective)
    clock.exclude("rollout", "reward")
    return Outcome(sum(losses) / len(losses), len(losses), clock)


@torch.no_grad()
def _search(models: Published, method: RDPO, clock: Clock) -> Pairs:
    walk = models.walk
    prompts, columns = walk.chunk.prompts, torch.arange(len(walk.chunk.prompts))
    pairs: Pairs = []
    x_t = walk.start(1)[0]
    for step in range(len(models.process)):
        rows = walk.rows(step)
        out = models.predict(models.policy, rows, x_t, prompts)
        gaussian = models.process.reverse(rows, x_t, out)
        if step not in method.search.steps:
            x_t = gaussian.sample(walk.noise("step", step, 1))[0]
            continue
        children = gaussian.sample(walk.noise("step", step, 2))
        flat, after = children.flatten(0, 1), torch.full((2 * len(prompts),), step + 1)
        outs = models.predict(models.policy, after, flat, prompts * 2)
        with clock("reward"):
            parent = models.score(models.process.x_0(rows, x_t, out), prompts, step)
            child = models.score(models.process.x_0(after, flat, outs), prompts * 2, step + 1).unflatten(0, (2, -1))
        best = (child - parent).argmax(0)
        pairs.append((step, torch.stack([x_t, children[best, columns], children[1 - best, columns]])))
        x_t = children[best, columns]
    return pairs
