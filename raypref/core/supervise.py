"""From scores to training signals: the step reward of every candidate, and the pairs or advantages it implies."""

from collections import defaultdict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from raypref.core.search import StepReward
from raypref.core.types import Rollout, Transitions


def step_reward(rollout: Rollout, kind: StepReward) -> Float[Tensor, "P G S R"]:
    """The credit of every candidate at every recorded step; NaN where a score is missing. See `credit`."""
    if kind == "final":
        return rollout.final[:, :, None].expand_as(rollout.value)
    return credit(kind, rollout.parent_value, rollout.value, rollout.next_value)


def credit(
    kind: StepReward, parent: Float[Tensor, "*m"], child: Float[Tensor, "*n"], following: Float[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """The readings of RDPO's eq. 6, from Q(x_t), Q(x_s) and Q of a state one step below x_s:

    q                     Q(x_s)             TailorPO, eq. 5 of RDPO
    delta_parent          Q(x_s) - Q(x_t)    the gain of the step: eq. 6 as its text describes it
    delta_parent_printed  Q(x_t) - Q(x_s)    eq. 6 as printed; ranks the worse step first
    delta_cross           Q(x_s) - Q(x_t)    the gain, between candidates of different parents
    lookahead_q           Q(next)
    lookahead_gain        Q(next) - Q(x_s)
    lookahead_printed     Q(x_s) - Q(next)   eq. 6 as printed, its argument taken literally

    Siblings of one parent are ordered alike by q and delta_parent, whose baseline is common; candidates with different
    parents are not.
    """
    if kind == "q":
        return child
    if kind in ("delta_parent", "delta_cross"):
        return child - parent
    if kind == "delta_parent_printed":
        return parent - child
    if kind == "lookahead_q":
        return following
    if kind == "lookahead_gain":
        return following - child
    if kind == "lookahead_printed":
        return child - following
    raise ValueError(f"step_reward = {kind!r} is not a function of predicted pictures")


def standing(credit: Float[Tensor, "P G S R"]) -> Float[Tensor, "P G S"]:
    """How many candidates each one beats, less how many beat it; NaN for a candidate without all its scores.

    One candidate beats another where it is at least as good in every reward and better in one (Pareto dominance, as in
    D3PO's code). With a single reward this is the order of the reward itself.
    """
    better = _beats(credit).float()  # [P G G S]: the first beats the second
    return (better.sum(2) - better.sum(1)).masked_fill(credit.isnan().any(-1), torch.nan)


def _beats(credit: Float[Tensor, "P G S R"]) -> Bool[Tensor, "P G G S"]:
    first, second = credit[:, :, None], credit[:, None]
    return (first >= second).all(-1) & (first > second).any(-1)


def best_vs_worst(rollout: Rollout, credit: Float[Tensor, "P G S R"], threshold: float = 0.0) -> Transitions:
    """Pairs the best with the worst candidate of every prompt and step.

    No pair comes of a tie (all scored candidates are equal in every reward), of a best and worst that are incomparable
    (each better in some reward), of fewer than two scored candidates, or of a gap that is too small: tanh(gap / 2), the
    difference of the two softmax probabilities, must exceed `threshold` in some reward (SPO's rule). A tie has no
    preference, and a missing score is not a low one.
    Pairs are ordered by prompt, then step.
    """
    place = standing(credit)
    scored = ~place.isnan()
    known = place.nan_to_num(nan=0.0)  # standings sum to 0: what is not scored is best or worst only where all tie
    best, worst = known.argmax(1), known.argmin(1)  # [P S]
    high, low = _of_candidate(credit, best), _of_candidate(credit, worst)  # [P S R]
    enough = scored.sum(1) >= 2
    tied = enough & _all_equal(credit, scored)
    decided = enough & (high >= low).all(-1) & (high > low).any(-1)
    clear = decided & (torch.tanh((high - low) / 2) > threshold).any(-1)
    prompt, row = torch.nonzero(clear, as_tuple=True)  # [B]
    arms = torch.stack([best[prompt, row], worst[prompt, row]])  # [2 B]
    parents = arms if rollout.x_t.shape[1] > 1 else torch.zeros_like(arms[:1])
    return Transitions(
        prompts=tuple(rollout.prompts[int(index)] for index in prompt),
        steps=rollout.steps[row],
        x_t=rollout.x_t[prompt, parents, row],
        x_s=rollout.x_s[prompt, arms, row],
        credit=torch.stack([high[prompt, row, 0], low[prompt, row, 0]]),
        weight=torch.ones(len(prompt)),
        mean=None if rollout.mean is None else rollout.mean[prompt, parents, row],
        dropped={
            "unscored": int((~enough).sum()),
            "tie": int(tied.sum()),
            "incomparable": int((enough & ~decided & ~tied).sum()),
            "threshold": int((decided & ~clear).sum()),
        },
    )


def _all_equal(credit: Float[Tensor, "P G S R"], scored: Bool[Tensor, "P G S"]) -> Bool[Tensor, "P S"]:
    """Whether the scored candidates have the same credit in every reward."""
    lowest = credit.masked_fill(~scored[..., None], torch.inf).amin(1)
    return (lowest == credit.masked_fill(~scored[..., None], -torch.inf).amax(1)).all(-1)


def _of_candidate(values: Float[Tensor, "P G S R"], candidate: Int[Tensor, "P S"]) -> Float[Tensor, "P S R"]:
    index = candidate[:, None, :, None].expand(-1, 1, -1, values.shape[-1])
    return values.gather(1, index).squeeze(1)


def advantages(rollout: Rollout, clip: float) -> Float[Tensor, "P G"]:
    """Final rewards, standardised over all trajectories of the same prompt and clamped to [-clip, clip]; of several
    rewards the mean. NaN where a score is missing; exactly 0 where all scores are equal, hence float64: the mean of
    equal numbers is then the number itself, while a rounding error would be standardised to an advantage."""
    rows = defaultdict(list)
    for row, prompt in enumerate(rollout.prompts):
        rows[prompt].append(row)
    result = torch.full_like(rollout.final, torch.nan)
    for same in rows.values():
        scores = rollout.final[same].double()  # [n G R]
        mean = scores.nanmean((0, 1))
        spread = (scores - mean).square().nanmean((0, 1)).sqrt()
        result[same] = ((scores - mean) / (spread + 1e-6)).to(result)
    return result.mean(-1).clamp(-clip, clip)


def each_alone(rollout: Rollout, advantage: Float[Tensor, "P G"]) -> Transitions:
    """Every recorded step of every trajectory, credited with its trajectory's advantage; ordered by prompt, trajectory
    and step. Trajectories with no score, or with an advantage of exactly 0, teach nothing and are dropped."""
    steps = len(rollout.steps)
    kept = ~advantage.isnan() & (advantage != 0)
    prompt, path, row = torch.nonzero(kept[..., None].expand(-1, -1, steps), as_tuple=True)  # [B]
    parents = path if rollout.x_t.shape[1] > 1 else torch.zeros_like(path)
    return Transitions(
        prompts=tuple(rollout.prompts[int(index)] for index in prompt),
        steps=rollout.steps[row],
        x_t=rollout.x_t[prompt, parents, row][None],
        x_s=rollout.x_s[prompt, path, row][None],
        credit=advantage[prompt, path][None],
        weight=torch.ones(len(prompt)),
        mean=None if rollout.mean is None else rollout.mean[prompt, parents, row][None],
        dropped={
            "unscored": steps * int(advantage.isnan().sum()),
            "tie": steps * int((advantage == 0).sum()),
            "incomparable": 0,
            "threshold": 0,
        },
    )
