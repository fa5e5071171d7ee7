"""SPO as its authors' script runs it: candidates share a batch and the followed one's forward is reused, but winner and
loser are trained by four forwards although they share their parent.

Batches of 10 prompts and of 10 pairs, an optimizer step after each. Source: Liang et al. 2024 (arXiv:2406.04314),
repository.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from benchmarks.clock import Clock
from benchmarks.work import Outcome, Pairs, Published, clipped
from raypref.methods.spo import SPO

BATCH = 10


def run(models: Published, method: SPO) -> Outcome:
    """One iteration."""
    clock = Clock()
    assert len(models.walk.chunk.prompts) == BATCH, "one batch of prompts"

    def objective(won: Tensor, lost: Tensor) -> Tensor:
        eps = method.ratio_clip_eps
        return -logsigmoid(method.beta * (clipped(won, eps) - clipped(lost, eps)))

    with clock("all"):
        with clock("rollout"):
            pairs = _search(models, method, clock)
        with clock("learner"):
            losses = models.train(pairs, BATCH, objective)
    clock.exclude("rollout", "reward")
    return Outcome(sum(losses) / len(losses), len(losses), clock)


@torch.no_grad()
def _search(models: Published, method: SPO, clock: Clock) -> Pairs:
    walk, total, group = models.walk, len(models.process), method.search.candidates
    prompts, columns = walk.chunk.prompts, torch.arange(len(walk.chunk.prompts))
    pairs: Pairs = []
    x_t = walk.start(1)[0]
    out = models.predict(models.policy, walk.rows(0), x_t, prompts)
    for step in range(total):
        count = group if step in method.search.steps else 1
        children = models.process.reverse(walk.rows(step), x_t, out).sample(walk.noise("step", step, count))
        flat, names, after = children.flatten(0, 1), prompts * count, torch.full((count * len(prompts),), step + 1)
        last = step + 1 == total
        outs = flat if last else models.predict(models.policy, after, flat, names)
        chosen = torch.zeros(len(prompts), dtype=torch.int64)
        if count > 1:
            with clock("reward"):
                x_0 = flat if last else models.process.x_0(after, flat, outs)
                scores = models.score(x_0, names, step + 1).unflatten(0, (count, -1))
            best, worst = children[scores.argmax(0), columns], children[scores.argmin(0), columns]
            pairs.append((step, torch.stack([x_t, best, worst])))
            chosen = torch.tensor([key("follow", step).integer(count) for key in walk.chunk.keys])
        x_t, out = children[chosen, columns], outs.unflatten(0, (count, -1))[chosen, columns]
    return pairs
