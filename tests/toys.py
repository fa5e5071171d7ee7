"""A denoiser small enough to check by hand, adapter included, and scores that need no picture."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float, Num
from safetensors.torch import save_file
from torch import Tensor

from raypref.core.schedule import Schedule
from raypref.core.search import Search
from raypref.core.seeding import Key
from raypref.core.weights import FlatParameters
from raypref.models.base import Denoiser
from raypref.train.chunk import Chunk
from raypref.train.experiment import SamplingConfig
from raypref.train.rollout import ScoreRequest, Scores, Walk, explore
from raypref.train.sampler import SampledRollout, Scoring
from raypref.train.scorer import Judgement

SAMPLING = SamplingConfig()

Found = TypeVar("Found")
Score = Callable[[ScoreRequest], Float[Tensor, " N"]]


def sd_alphas_cumprod() -> Float[Tensor, " N"]:
    """Stable Diffusion's alpha_bar ("scaled_linear"), in float64 from its definition."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def sd_schedule(**changes: object) -> Schedule:
    alphas_cumprod = sd_alphas_cumprod()
    return Schedule(**({"alphas_cumprod": alphas_cumprod, "final_alpha_cumprod": float(alphas_cumprod[0])} | changes))


class ToyDenoiser(Denoiser):
    """out = tanh(x M + t / 1000 + letter of the prompt) + adapter(x), with adapter(x) = (x gain) / 2 + bias.

    It counts what it evaluates: `guided` is the number of latents given to `predict`, `graphed` of those whose graph
    was kept, `backward` of those that a gradient went back through.
    """

    latent_shape = (2, 2, 2)

    def __init__(self, seed: int = 0) -> None:
        self.schedule = sd_schedule()
        size = 8
        self.mixing = torch.randn(size, size, generator=torch.Generator().manual_seed(seed)) / size**0.5
        self.gain = torch.nn.Parameter(torch.zeros(size, size))
        self.bias = torch.nn.Parameter(torch.zeros(size))
        self.parameters = FlatParameters({"gain": self.gain, "bias": self.bias})
        self.adapted = True
        self.guided = self.graphed = self.backward = 0
        self.batches: list[int] = []

    def predict(
        self, x_t: Float[Tensor, "N C H W"], t: Num[Tensor, " N"], prompts: tuple[str, ...], guidance_scale: float
    ) -> Float[Tensor, "N C H W"]:
        assert len(x_t) == len(t) == len(prompts)
        self.guided += len(x_t)
        self.batches.append(len(x_t))
        flat = x_t.flatten(1)
        letters = torch.tensor([(ord(prompt[0]) - ord("a")) / 26 if prompt else -1.0 for prompt in prompts])[:, None]
        out = torch.tanh(flat @ self.mixing + t[:, None] / 1000 + guidance_scale * letters)
        if self.adapted:
            out = out + 0.5 * flat @ self.gain + self.bias
        if out.requires_grad:
            self.graphed += len(x_t)
            out.register_hook(self._count)
        return out.reshape(x_t.shape)

    def _count(self, gradient: Tensor) -> None:
        self.backward += len(gradient)

    @contextmanager
    def reference(self) -> Iterator[None]:
        self.adapted = False
        try:
            yield
        finally:
            self.adapted = True

    def free_text_encoders(self, prompts: Iterable[str]) -> None:
        """It has none."""

    def export(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        save_file({"adapter": self.parameters.flat.clone()}, folder / "pytorch_lora_weights.safetensors")

    def stir(self, seed: int = 1, scale: float = 0.05) -> None:
        """Moves the adapter away from zero."""
        noise = torch.randn(self.parameters.flat.shape, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            self.parameters.flat.copy_(scale * noise)


def score_of(request: ScoreRequest) -> Float[Tensor, " N"]:
    """A smooth score without ties: a fixed weighing of the clean latent."""
    clean = request.x_0.flatten(1)
    return torch.sin(clean * torch.arange(1, clean.shape[1] + 1)).sum(1)


def answer(request: ScoreRequest, score: Score) -> Scores:
    """What a reward worker with that one score would answer."""
    if not request.gradient:
        return Scores(score(request)[:, None])
    x_0 = request.x_0.detach().requires_grad_()
    value = score(replace(request, x_0=x_0))
    return Scores(value.detach()[:, None], torch.autograd.grad(value.sum(), x_0)[0])


class ToyScoring(Scoring):
    """Answers with `score_of`."""

    def score(self, request: ScoreRequest) -> Scores:
        return answer(request, score_of)

    def judge(self, request: ScoreRequest) -> Judgement:
        raise AssertionError("nothing is finished here")


def drive(search: Generator[ScoreRequest, Scores, Found], score: Score = score_of) -> tuple[Found, list[ScoreRequest]]:
    """Runs a search to its end with one reward, differentiated where asked; also what it wanted scored."""
    requests = []
    try:
        request = next(search)
        while True:
            requests.append(request)
            request = search.send(answer(request, score))
    except StopIteration as done:
        return done.value, requests


def chunk_of(prompts: tuple[str, ...], *address: str | int) -> Chunk:
    return Chunk("test", prompts, tuple(Key(3)("rollout", *address, item) for item in range(len(prompts))))


def toy_walk(denoiser: Denoiser, chunk: Chunk, sampling: SamplingConfig = SAMPLING) -> Walk:
    return Walk(denoiser, sampling.process(denoiser.schedule), chunk, sampling.guidance_scale)


def sampled(
    denoiser: Denoiser,
    search: Search,
    chunk: Chunk,
    sampling: SamplingConfig = SAMPLING,
    score: Score = score_of,
) -> SampledRollout:
    """A rollout as a sampler hands it to the learner."""
    return SampledRollout(drive(explore(toy_walk(denoiser, chunk, sampling), search), score)[0])
