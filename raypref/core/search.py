"""How a rollout explores: a method's search is its default, and a config overrides single fields."""

from dataclasses import dataclass
from typing import Literal

Shape = Literal["tree", "chain"]
Follow = Literal["best", "random"]
StepReward = Literal[
    "q",
    "delta_parent",
    "delta_parent_printed",
    "delta_cross",
    "lookahead_q",
    "lookahead_gain",
    "lookahead_printed",
    "final",
]

PARENT, CHILD, NEXT = 0, 1, 2
NEEDS: dict[StepReward, tuple[int, ...]] = {
    "q": (CHILD,),
    "delta_parent": (PARENT, CHILD),
    "delta_parent_printed": (PARENT, CHILD),
    "delta_cross": (PARENT, CHILD),
    "lookahead_q": (NEXT,),
    "lookahead_gain": (CHILD, NEXT),
    "lookahead_printed": (CHILD, NEXT),
    "final": (),
}
"""The states whose predicted clean picture a step reward scores, by how many steps they lie below the parent."""


@dataclass(frozen=True)
class Guidance:
    """Moves the followed candidate along the gradient of the reward (TailorPO-G)."""

    kind: Literal["none", "reward_ascent", "target_l2"] = "none"
    """reward_ascent: along the gradient of r(x_0-hat). target_l2: down that of (target - r(x_0-hat))^2."""
    scale: float = 0.1
    """Length of the move: root mean square over the latent, in units of the step's sigma; or, not normalised, the
    factor of the plain gradient."""
    target: float = 1.0
    """target_l2: the reward aimed at."""
    normalize: bool = True
    """Whether only the gradient's direction counts."""

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"scale = {self.scale}: use a positive number, such as 0.1.")


@dataclass(frozen=True)
class Search:
    """How a rollout explores."""

    shape: Shape = "tree"
    """tree: at each of `steps` one parent branches into candidates. chain: independent trajectories to the end."""
    candidates: int = 2
    """G, branches of a parent or trajectories of a prompt."""
    steps: tuple[int, ...] = (0, 4, 8, 12, 16)
    """Indices of the steps to branch at (tree) or to train on (chain), 0 being the noisiest."""
    step_reward: StepReward = "delta_parent"
    """What ranks candidates: see docs/step-rewards.md."""
    follow: Follow = "best"
    """tree only: the branch that the trajectory continues from."""
    same_start: bool = True
    """chain only: all trajectories of a prompt start at one x_T."""
    inner_steps: int = 1
    """tree only: steps that a branch runs before it is judged; all are trained on with that judgement (SPO-SDXL)."""
    keep_mean: bool = False
    """Whether rollouts keep the mean of the policy that drew them, for methods with a ratio to it."""
    guidance: Guidance = Guidance()
    """tree only: see `Guidance`."""

    def __post_init__(self) -> None:
        if self.candidates < 2:
            raise ValueError(f"candidates = {self.candidates}: a preference needs at least 2.")
        if not self.steps or list(self.steps) != sorted(set(self.steps)) or self.steps[0] < 0:
            raise ValueError(
                f"steps = {list(self.steps)}: give at least one index, ascending, without repeats, from 0."
            )
        if self.inner_steps < 1:
            raise ValueError(f"inner_steps = {self.inner_steps}: use 1 or more.")
        if any(b - a < self.inner_steps for a, b in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError(
                f"inner_steps = {self.inner_steps}: a branch would run into the next one; keep steps = "
                f"{list(self.steps)} at least that far apart."
            )
        if self.shape == "tree":
            self._check_tree()
        else:
            self._check_chain()

    def _check_tree(self) -> None:
        if self.step_reward == "final":
            raise ValueError(
                "step_reward = 'final' cannot rank a tree's siblings, which share one future. "
                "Use step_reward = 'delta_parent' or 'q', or shape = 'chain'."
            )
        if self.step_reward == "delta_cross":
            raise ValueError(
                "step_reward = 'delta_cross' compares candidates of different parents, but a tree's siblings share "
                "theirs. Use step_reward = 'delta_parent', or shape = 'chain'."
            )
        if self.guidance.kind != "none" and self.follow == "random":
            raise ValueError("guidance moves the best candidate: use follow = 'best'.")
        if self.guidance.kind != "none" and self.inner_steps > 1:
            raise ValueError(f"inner_steps = {self.inner_steps}: guidance moves the child of a step; use 1.")

    def _check_chain(self) -> None:
        if self.step_reward.startswith("delta_parent"):
            raise ValueError(
                f"step_reward = {self.step_reward!r} is for siblings; trajectories of a chain have parents of their "
                "own. Use step_reward = 'delta_cross' (the same gain), 'q' or 'final'."
            )
        if self.inner_steps > 1:
            raise ValueError(f"inner_steps = {self.inner_steps}: only a tree's branches have inner steps; use 1.")
        if self.guidance.kind != "none":
            raise ValueError("guidance.kind: only a tree's followed branch can be guided; use 'none'.")

    def recorded(self) -> tuple[int, ...]:
        """The steps whose transitions are recorded and trained on."""
        return tuple(step + inner for step in self.steps for inner in range(self.inner_steps))

    def shares_parent(self) -> bool:
        """Whether siblings of a recorded step have one parent, so that one forward serves them all."""
        return self.shape == "tree" and self.inner_steps == 1

    def check_steps(self, num_inference_steps: int) -> None:
        """Raises ValueError where a recorded step, or the state that it is judged at, lies outside the sampler."""
        last = self.recorded()[-1]
        if last >= num_inference_steps:
            raise ValueError(
                f"steps = {list(self.steps)}: with num_inference_steps = {num_inference_steps} "
                f"the last step is {num_inference_steps - 1}."
            )
        if NEXT in NEEDS[self.step_reward] and last == num_inference_steps - 1:
            raise ValueError(
                f"steps = {list(self.steps)}: step_reward = {self.step_reward!r} looks one step ahead, and nothing "
                f"comes after step {last}; leave it out."
            )
