"""The reward worker's work: decode clean latents and score the pictures."""

import time
from collections import Counter
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from raypref.models.base import Decoder, ModelConfig
from raypref.rewards.base import Reward
from raypref.train.asked import Asked
from raypref.train.experiment import GuardConfig
from raypref.train.out_of_memory import explaining_out_of_memory
from raypref.train.rollout import ScoreRequest, Scores


@dataclass(frozen=True)
class Judgement:
    """Pictures of an evaluation and everything that is said of them."""

    prompts: tuple[str, ...]
    images: UInt8[Tensor, "N height width 3"]
    scores: dict[str, Float[Tensor, " N"]]
    """Reward name -> scores; the training reward is among them."""
    accuracy: dict[str, Float[Tensor, " N"]]
    """Attribute -> 1, 0 or NaN, from the rewards that can tell."""
    failures: dict[str, int] = field(default_factory=dict)
    """Why, and of how many pictures, a reward said nothing."""
    score_by_step: dict[int, Float[Tensor, " N"]] = field(default_factory=dict)
    """Recorded step -> Q(x_s), the training reward of the clean picture predicted after that step."""
    decoded_twice: dict[int, Float[Tensor, "2 N G"]] = field(default_factory=dict)
    """Recorded step -> Q of G candidates of that step by the tiny decoder and by the full one, where model.tiny_vae
    decides what is trained on."""
    kl: Float[Tensor, "N T"] | None = None
    """KL of each step of the pictures' trajectories to the pretrained model's, in nats per latent element, where it was
    asked for; NaN at a step without noise, which has none."""


DECODED_AT_ONCE = 16
"""Pictures that the decoder and the rewards see together. A decoder's memory grows with them, and the last bits of its
numbers may depend on them, so they are the same everywhere."""


def guided_at_once(config: ModelConfig) -> int:
    """Pictures that are decoded together where their scores' gradient is wanted: until the way back a decoder keeps all
    that it computes, and the slices of a batch, which otherwise leave one after the other, would all stay."""
    return 1 if config.vae_slicing else DECODED_AT_ONCE


class Scorer:
    """A decoder, the rewards that train, and the rewards that are only watched."""

    def __init__(
        self,
        decoder: Decoder,
        rewards: tuple[Reward, ...],
        watched: tuple[Reward, ...] = (),
        reward_timeout: float = GuardConfig.reward_timeout,
        early: Decoder | None = None,
        guided_at_once: int = DECODED_AT_ONCE,
    ) -> None:
        """`decoder` decodes finished pictures, and `early`, where it is given, those that are predicted on the way."""
        self.decoder, self.early, self.guided_at_once = decoder, early, guided_at_once
        self.rewards = tuple(Asked(reward, reward_timeout) for reward in rewards)
        self.watched = tuple(Asked(reward, reward_timeout) for reward in watched)

    @explaining_out_of_memory("reward worker")
    def score(self, request: ScoreRequest) -> Scores:
        """Scores of the training rewards, float32 on the CPU; with their gradient where it is asked for.

        DECODED_AT_ONCE pictures at a time, `guided_at_once` with a gradient: a request holds every picture of a chunk,
        whatever the number of candidates.
        """
        started = time.perf_counter()
        rows = torch.arange(len(request.x_0)).split(self.guided_at_once if request.gradient else DECODED_AT_ONCE)
        parts = [self._score_rows(request.take(chosen)) for chosen in rows]
        gradients = [part.gradient for part in parts if part.gradient is not None]
        return Scores(
            value=torch.cat([part.value for part in parts]),
            gradient=torch.cat(gradients) if gradients else None,
            failures=together(*(part.failures for part in parts)),
            seconds=time.perf_counter() - started,
        )

    def _score_rows(self, request: ScoreRequest) -> Scores:
        x_0 = request.x_0.detach().requires_grad_(request.gradient)
        with torch.set_grad_enabled(request.gradient):
            images = self._decode(x_0, request.t, request.full)
            answers = [reward.score(images, request.prompts, request.t) for reward in self.rewards]
        value = torch.stack([answer.scores.detach().cpu() for answer in answers], -1)
        failures = together(*(answer.failures for answer in answers))
        if not request.gradient:
            return Scores(value, None, failures)
        gradient, failed = self.rewards[0].gradient(answers[0].scores, x_0)
        return Scores(value, gradient.cpu(), together(failures, failed))

    def _decode(
        self, x_0: Float[Tensor, "N C H W"], t: Int[Tensor, " N"], full: bool = False
    ) -> Float[Tensor, "N 3 height width"]:
        finished = (t == 0) | full
        if self.early is None or bool(finished.all()):
            return self.decoder.decode(x_0)
        if not bool(finished.any()):
            return self.early.decode(x_0)
        images = torch.cat([self.decoder.decode(x_0[finished]), self.early.decode(x_0[~finished])])
        return images[torch.argsort(torch.cat([finished.nonzero(), (~finished).nonzero()])[:, 0])]

    @explaining_out_of_memory("reward worker")
    @torch.no_grad()
    def judge(self, request: ScoreRequest) -> Judgement:
        """Pictures and all scores."""
        images = self.decoder.decode(request.x_0)
        judges = (*self.rewards, *self.watched)
        answers = {judge.name: judge.score(images, request.prompts, request.t) for judge in judges}
        told = {judge.name: judge.accuracy(images, request.prompts) for judge in judges}
        # What has no score may have no attributes either, for the same reason: of a picture that is one failure.
        failures = [Counter(answers[name].failures) | Counter(failed) for name, (_, failed) in told.items()]
        return Judgement(
            prompts=request.prompts,
            images=(images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu(),
            scores={name: answer.scores.cpu() for name, answer in answers.items()},
            accuracy={attribute: right.cpu() for found, _ in told.values() for attribute, right in found.items()},
            failures=together(*failures),
        )


def together(*failures: dict[str, int]) -> dict[str, int]:
    """The failures of several calls."""
    return dict(sum(map(Counter, failures), Counter[str]()))
