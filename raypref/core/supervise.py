"""From scores to preferences: the step reward of every candidate, and the pairs it implies."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raypref.core.types import Rollout, StepReward, Transitions


def step_reward(rollout: Rollout, kind: StepReward) -> Float[Tensor, "P G S"]:
    """The credit of every candidate at every recorded step; NaN where a score is missing.

    q             Q(x_s) = r(c, x_0-hat(x_s))            TailorPO
    delta_parent  Q(x_s) - Q(x_t), the gain of the step  RDPO eq. 6, with the sign that its text describes
    final         r(c, x_0) of the candidate's chain     D3PO

    Siblings of one parent are ordered alike by q and delta_parent (the baseline is common); candidates with different
    parents are not.
    """
    if kind == "q":
        return rollout.value
    if kind == "delta_parent":
        return rollout.value - rollout.parent_value
    return rollout.final[..., None].expand_as(rollout.value)


def best_vs_worst(rollout: Rollout, credit: Float[Tensor, "P G S"]) -> Transitions:
    """Pairs the best with the worst candidate of every prompt and step.

    Ties and candidates without a score give no pair: a tie has no preference, and a missing score is not a low one.
    Pairs are ordered by prompt, then step.
    """
    known = ~credit.isnan()
    best = credit.masked_fill(~known, -torch.inf).argmax(1)  # [P S]
    worst = credit.masked_fill(~known, torch.inf).argmin(1)
    high, low = _of_candidate(credit, best), _of_candidate(credit, worst)
    prompt, row = torch.nonzero((known.sum(1) >= 2) & (high > low), as_tuple=True)  # [B]
    arms = torch.stack([best[prompt, row], worst[prompt, row]])  # [2 B]
    shared = rollout.x_t.shape[1] == 1
    parents = torch.zeros_like(arms[:1]) if shared else arms
    return Transitions(
        prompts=tuple(rollout.prompts[int(index)] for index in prompt),
        steps=rollout.steps[row],
        x_t=rollout.x_t[prompt, parents, row],
        x_s=rollout.x_s[prompt, arms, row],
        credit=torch.stack([high[prompt, row], low[prompt, row]]),
        weight=torch.ones(len(prompt)),
    )


def _of_candidate(values: Float[Tensor, "P G S"], candidate: Int[Tensor, "P S"]) -> Float[Tensor, "P S"]:
    return values.gather(1, candidate[:, None]).squeeze(1)
