"""SPO as its authors' script runs it: candidates share a batch and the followed one's forward is reused, but winner and
loser are trained by four forwards although they share their parent.

Batches of 10 prompts and of 10 pairs, an optimizer step after each. Source: Liang et al. 2024 (arXiv:2406.04314) and its
repository.
"""

import torch
from torch.nn.functional import logsigmoid

from benchmarks.clock import Clock
from benchmarks.work import Outcome, Published
from raypref.methods.spo import SPO

BATCH = 10


def run(models: Published, method: SPO) -> Outcome:
    """One iteration."""
    clock, walk, total = Clock(), models.walk, len(models.process)
    prompts, group = walk.chunk.prompts, method.search.candidates
    everyone, columns = prompts * group, torch.arange(len(prompts))
    assert len(prompts) == BATCH, "one batch of prompts"
    pairs = []  # (step, parent, winner, loser) of every prompt and step
    with clock("all"):
        with clock("rollout"):
            x_t = walk.start(1)[0]
            with torch.no_grad():
                out = models.predict(models.policy, walk.rows(0), x_t, prompts)
            for step in range(total):
                branched = step in method.search.steps
                gaussian = models.process.reverse(walk.rows(step), x_t, out)
                children = gaussian.sample(walk.noise("step", step, group if branched else 1)).flatten(0, 1)
                names, last = everyone if branched else prompts, step + 1 == total
                rows = torch.full((len(children),), step + 1)
                if not last:
                    with torch.no_grad():
                        outs = models.predict(models.policy, rows, children, names)
                chosen = torch.zeros(len(prompts), dtype=torch.int64)
                if branched:
                    x_0 = children if last else models.process.x_0(rows, children, outs)
                    with clock("reward"):
                        scores = models.score(x_0, names, step + 1).unflatten(0, (group, -1))
                    family = children.unflatten(0, (group, -1))
                    best, worst = scores.argmax(0), scores.argmin(0)
                    pairs.append((step, x_t, family[best, columns], family[worst, columns]))
                    chosen = torch.tensor([key("follow", step).integer(group) for key in walk.chunk.keys])
                picked = chosen * len(prompts) + columns
                x_t, out = children[picked], out if last else outs[picked]
        clock.exclude("rollout", "reward")
        with clock("learner"):
            steps = torch.cat([torch.full((len(prompts),), step) for step, *_ in pairs])
            parents, winners, losers = (torch.cat(column) for column in list(zip(*pairs, strict=True))[1:])
            names = prompts * len(pairs)
            losses = []
            for batch in torch.randperm(len(steps), generator=torch.Generator().manual_seed(0)).split(BATCH):
                some = tuple(names[int(row)] for row in batch)
                rho = [
                    models.log_ratio(steps[batch], parents[batch], arm[batch], some) for arm in (winners, losers)
                ]
                low, high = 1 - method.ratio_clip_eps, 1 + method.ratio_clip_eps
                kept = [ratio.exp().clamp(low, high).log() for ratio in rho]
                loss = -logsigmoid(method.beta * (kept[0] - kept[1]))
                loss.mean().backward()
                losses += loss.tolist()
                models.update()
    return Outcome(sum(losses) / len(losses), len(losses), clock)
