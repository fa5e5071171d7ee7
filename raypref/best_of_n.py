"""Step-wise best-of-N: no training, the best of N candidates at chosen steps, by every reading of the step reward.

RDPO's Table 4. All rules see common random numbers: they start at the same x_T, and a candidate's noise depends on the
prompt, the step and its number alone; so rules differ only by what they choose.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raypref.checks import ConfigError
from raypref.core.search import NEEDS, PARENT, Guidance, Search, StepReward
from raypref.dry_run import guided_evaluations
from raypref.evaluate.heldout import Estimate, evaluate
from raypref.run import start_runtime
from raypref.train.chunk import evaluation_chunks
from raypref.train.experiment import Experiment

RULES: tuple[StepReward, ...] = (
    *("q", "delta_parent", "delta_parent_printed", "lookahead_q", "lookahead_gain", "lookahead_printed"),
)
"""The rules that can rank siblings."""


@dataclass(frozen=True)
class BestOfN:
    """One rule's answer."""

    rule: str
    """A step reward, or "none": plain trajectories."""
    candidates: int
    rewards: dict[str, Estimate]
    """Reward name -> mean over prompts of the finished pictures; the reward that chose comes first."""
    accuracy: dict[str, float]
    diversity: float
    guided_evaluations: int
    """Of the network, for one picture."""
    reward_calls: int
    """Predicted pictures scored on the way, for one picture."""
    same_as: str
    """An earlier rule that made the very same pictures, bit for bit; empty: none."""


def best_of_n(
    experiment: Experiment,
    rules: Sequence[StepReward] = RULES,
    candidates: Sequence[int] = (8,),
    steps: tuple[int, ...] = (),
    told: Callable[[BestOfN], None] = lambda row: None,
) -> list[BestOfN]:
    """Pictures of the held-out prompts by the pretrained model, chosen at `steps` (empty: all that a rule allows).

    Raises:
        ConfigError: where the rules, numbers or steps cannot work.
    """
    total = experiment.sampling.num_inference_steps
    searches: list[tuple[str, Search | None]] = [("none", None)]
    for number in candidates:
        for rule in rules:
            searches.append((rule, _search(rule, number, steps, total)))
    runtime = start_runtime(experiment)
    try:
        runtime.restore(None)
        rows: list[BestOfN] = []
        seen: dict[str, tuple[int, Tensor]] = {}
        for name, search in searches:
            judged = runtime.picture(evaluation_chunks(experiment), 0, search)
            evaluation = evaluate(0, judged, experiment.evaluate.images_per_prompt)
            images = torch.cat([part.images for part in judged])
            number = search.candidates if search else 1
            same = next((known for known, (n, earlier) in seen.items() if n == number and images.equal(earlier)), "")
            seen[f"{name}, N = {number}"] = (number, images)
            row = BestOfN(
                rule=name,
                candidates=number,
                rewards=evaluation.rewards,
                accuracy=evaluation.accuracy,
                diversity=evaluation.diversity,
                guided_evaluations=guided_evaluations_of_picture(search, total),
                reward_calls=reward_calls(search),
                same_as=same,
            )
            told(row)
            rows.append(row)
    finally:
        runtime.close()
    return rows


def _search(rule: StepReward, candidates: int, steps: tuple[int, ...], total: int) -> Search:
    if rule not in RULES:
        raise ConfigError(f"rule = {rule!r}: candidates of one parent can be ranked by {', '.join(RULES)}")
    allowed = range(total - 1 if rule.startswith("lookahead") else total)
    try:
        search = Search(candidates=candidates, steps=steps or tuple(allowed), step_reward=rule, guidance=Guidance())
        search.check_steps(total)
    except ValueError as problem:
        raise ConfigError(str(problem)) from None
    return search


def guided_evaluations_of_picture(search: Search | None, num_inference_steps: int) -> int:
    """Guided network evaluations from noise to one finished picture."""
    if search is None:
        return num_inference_steps
    reached = search.recorded()[-1] + 1
    return guided_evaluations(search, num_inference_steps) + max(0, num_inference_steps - 1 - reached)


def reward_calls(search: Search | None) -> int:
    """Predicted pictures that one finished picture asks to be scored, the finished one not counted."""
    if search is None:
        return 0
    needs = NEEDS[search.step_reward]
    children = search.candidates * len(search.steps) * (1 + (max(needs) == 2))
    fresh = [step for step in search.steps if step - search.inner_steps not in search.steps]
    return children + (len(fresh) if PARENT in needs else 0)
