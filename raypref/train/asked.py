"""A reward as a run sees it: code of its own, which may raise, hang or return nonsense without ending the run."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raypref.rewards.base import Reward, StepAwareReward
from raypref.train.stopped import StoppedRun

T = TypeVar("T")

REASON_LENGTH = 200
"""Characters of a reason: it is one line among others."""


@dataclass(frozen=True)
class Answer:
    """What a reward said of N pictures."""

    scores: Float[Tensor, " N"]
    """NaN where there is no score: all of them where the call failed."""
    failures: dict[str, int]
    """Why, and of how many pictures, there is no score."""


class BadAnswer(Exception):
    """No answer, or one that cannot be used; it says why."""


class Asked:
    """A reward, and the seconds that it may take for one call.

    Calls run in a thread of their own. One that hangs is left behind, and until it comes back the reward is not called
    again: it need not stand two calls at once, and a run should wait for it but once.
    """

    def __init__(self, reward: Reward, patience: float) -> None:
        self.reward, self.patience = reward, patience
        self._hanging: threading.Thread | None = None

    @property
    def name(self) -> str:
        return self.reward.name

    def score(self, images: Float[Tensor, "N 3 H W"], prompts: tuple[str, ...], t: Int[Tensor, " N"]) -> Answer:
        """The scores of pictures predicted at times t, float32, with their graph where gradients are enabled. What is
        no picture, as where a decoder has overflowed, has no score, though the reward may make one of it."""

        def ask() -> Answer:
            scores = _checked(_score(self.reward, images, prompts, t), len(images))
            drawn = images.isfinite().flatten(1).all(1).to(scores.device)
            # An infinite score would win or lose against every other, and make every mean infinite.
            bad = drawn & ~scores.isfinite()
            why = {f"{self.name} returned NaN or infinity": bad, "the decoder made NaN or infinity": ~drawn}
            counts = {reason: int(rows.sum()) for reason, rows in why.items()}  # waits for a GPU: within the patience
            scores = scores.masked_fill(bad | ~drawn, torch.nan)
            return Answer(scores, {reason: count for reason, count in counts.items() if count})

        try:
            return self._within_patience(ask)
        except BadAnswer as problem:
            return Answer(torch.full((len(images),), torch.nan), self._of(problem, images))

    def gradient(
        self, scores: Float[Tensor, " N"], x_0: Float[Tensor, "N C H W"]
    ) -> tuple[Float[Tensor, "N C H W"], dict[str, int]]:
        """Of the scores in what they were computed from, zero where there is none; and why."""

        def ask() -> Tensor:
            return torch.autograd.grad(scores.nansum(), x_0)[0]

        if scores.isnan().all():  # it has been said why
            return torch.zeros_like(x_0), {}
        try:
            return self._within_patience(ask), {}
        except BadAnswer as problem:
            return torch.zeros_like(x_0), self._of(problem, x_0)

    def accuracy(
        self, images: Float[Tensor, "N 3 H W"], prompts: tuple[str, ...]
    ) -> tuple[dict[str, Float[Tensor, " N"]], dict[str, int]]:
        """The reward's yes/no judgements, none where it failed; and why. NaN is no failure: the prompt does not ask."""

        def ask() -> dict[str, Float[Tensor, " N"]]:
            found = self.reward.accuracy(images, prompts)
            return {attribute: _checked(right, len(images)) for attribute, right in found.items()}

        try:
            return self._within_patience(ask), {}
        except BadAnswer as problem:
            return {}, self._of(problem, images)

    def _of(self, problem: BadAnswer, pictures: Tensor) -> dict[str, int]:
        return {f"{self.name} {problem}"[:REASON_LENGTH]: len(pictures)}

    def _within_patience(self, ask: Callable[[], T]) -> T:
        """What `ask` returns.

        Raises:
            BadAnswer: where it raises an error, or does not return in time. Wishes to end the run are passed on.
        """
        if self._hanging is not None and self._hanging.is_alive():
            raise BadAnswer("has not come back from an earlier call")
        answers: list[T] = []
        problems: list[BaseException] = []
        gradients = torch.is_grad_enabled()  # torch keeps this for each thread

        def call() -> None:
            try:
                with torch.set_grad_enabled(gradients):
                    answers.append(ask())
            except BaseException as problem:
                problems.append(problem)

        thread = threading.Thread(target=call, name=f"reward {self.name}", daemon=True)
        thread.start()
        thread.join(self.patience)
        if thread.is_alive():
            self._hanging = thread
            raise BadAnswer(f"gave no answer for {self.patience:g} s (guard.reward_timeout)")
        if problems:
            _pass_on(problems[0])
        return answers[0]


def _pass_on(problem: BaseException) -> None:
    """Raises a reward's error as a BadAnswer, unless it wants the whole run to end."""
    if isinstance(problem, (BadAnswer, StoppedRun)) or not isinstance(problem, Exception):
        raise problem
    said = " ".join(str(problem).split())
    raise BadAnswer(f"raised {type(problem).__name__}: {said}") from problem


def _score(reward: Reward, images: Tensor, prompts: tuple[str, ...], t: Tensor) -> object:
    if isinstance(reward, StepAwareReward):
        return reward.score_at(images, prompts, t)
    return reward.score(images, prompts)


def _checked(found: object, count: int) -> Float[Tensor, " N"]:
    """The scores, float32, where they are one float each for `count` pictures.

    Raises:
        BadAnswer: where they are something else.
    """
    if not isinstance(found, Tensor) or not found.is_floating_point():
        what = f"a tensor of {found.dtype}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise BadAnswer(f"returned {what}, not a tensor of floats")
    if found.shape != (count,):
        raise BadAnswer(f"returned scores of shape {list(found.shape)} for {count} pictures, not [{count}]")
    return found.float()
