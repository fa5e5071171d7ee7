"""RDPO written step by step from its Algorithm 1, at our batch sizes: nothing is shared, nothing is reused.

A whole trajectory of 20 forwards, two more for the candidates of each of the five branches, and four in training: 50 forwards
and 10 backwards for five pairs. Source: RDPO (Algorithm 1).
"""

import torch
from torch.nn.functional import logsigmoid

from benchmarks.clock import Clock
from benchmarks.work import Outcome, Published
from raypref.methods.rdpo import RDPO


def run(models: Published, method: RDPO, batch_size: int) -> Outcome:
    """One iteration."""
    clock, walk, total = Clock(), models.walk, len(models.process)
    prompts, columns = walk.chunk.prompts, torch.arange(len(walk.chunk.prompts))
    pairs = []
    with clock("all"):
        with clock("rollout"):
            x_t = walk.start(1)[0]
            for step in range(total):
                rows = walk.rows(step)
                with torch.no_grad():
                    out = models.predict(models.policy, rows, x_t, prompts)
                gaussian = models.process.reverse(rows, x_t, out)
                if step not in method.search.steps:
                    x_t = gaussian.sample(walk.noise("step", step, 1))[0]
                    continue
                children = gaussian.sample(walk.noise("step", step, 2)).flatten(0, 1)
                after = torch.full((len(children),), step + 1)
                with torch.no_grad():
                    outs = models.predict(models.policy, after, children, prompts * 2)
                with clock("reward"):
                    parent = models.score(models.process.x_0(rows, x_t, out), prompts, step)
                    child = models.score(models.process.x_0(after, children, outs), prompts * 2, step + 1)
                gain = child.unflatten(0, (2, -1)) - parent
                family, best = children.unflatten(0, (2, -1)), gain.argmax(0)
                pairs.append((step, x_t, family[best, columns], family[1 - best, columns]))
                x_t = family[best, columns]
        clock.exclude("rollout", "reward")
        with clock("learner"):
            steps = torch.cat([torch.full((len(prompts),), step) for step, *_ in pairs])
            parents, winners, losers = (torch.cat(column) for column in list(zip(*pairs, strict=True))[1:])
            names = prompts * len(pairs)
            losses = []
            for batch in torch.arange(len(steps)).split(batch_size):
                some = tuple(names[int(row)] for row in batch)
                won, lost = (
                    models.log_ratio(steps[batch], parents[batch], arm[batch], some) for arm in (winners, losers)
                )
                penalty = method.psi_lambda * torch.relu(lost)
                loss = -logsigmoid(method.beta * (won - lost) - penalty)
                loss.mean().backward()
                losses += loss.tolist()
                models.update()
    return Outcome(sum(losses) / len(losses), len(losses), clock)
