"""Guidance moves the winner along the gradient of the reward, through the network, and the trajectory goes on there."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from raypref.core.search import Guidance, Search
from raypref.core.seeding import Key
from raypref.core.types import Rollout
from raypref.models.base import Decoder, ModelConfig
from raypref.models.stable_diffusion import StableDiffusion
from raypref.rewards.colorfulness import Colorfulness
from raypref.train.experiment import SamplingConfig
from raypref.train.rollout import ScoreRequest, explore
from raypref.train.scorer import Scorer
from tests.reenactment import Reenactment
from tests.toys import ToyDenoiser, chunk_of, drive, score_of, toy_walk

PROMPTS = ("a", "q")


def explored(search: Search, score=score_of) -> Rollout:
    return drive(explore(toy_walk(ToyDenoiser(), chunk_of(PROMPTS)), search), score)[0]


def moves(search: Search) -> list[tuple[Reenactment, int, Tensor, Tensor, Tensor]]:
    """For each prompt, at the first branch: the re-enactment, the winner, where it was drawn, how it was moved, and the
    gradient of Q where it was drawn."""
    rollout, step = explored(search), search.steps[0]
    found = []
    for prompt, name in enumerate(PROMPTS):
        slow = Reenactment(name, Key(3)("rollout", prompt))
        x_t = slow.start()
        for plain in range(step):
            x_t = slow.child(plain, x_t, 0)
        drawn = [slow.child(step, x_t, candidate) for candidate in range(search.candidates)]
        quality = [float(slow.quality(step + 1, x_s)) for x_s in drawn]
        winner = quality.index(max(quality))
        for candidate, x_s in enumerate(drawn):
            if candidate != winner:
                torch.testing.assert_close(rollout.x_s[prompt, candidate, 0], x_s[0], rtol=1e-4, atol=1e-4)
            stands = x_s if candidate != winner else rollout.x_s[prompt, winner, :1]  # scored again after the move
            value = float(rollout.value[prompt, candidate, 0, 0])
            assert value == pytest.approx(float(slow.quality(step + 1, stands)), abs=2e-3)
        moved = rollout.x_s[prompt, winner, 0] - drawn[winner][0]
        found.append((slow, winner, drawn[winner], moved, slow.gradient(step + 1, drawn[winner])[0]))
    return found


def rms(tensor: Tensor) -> float:
    return float(tensor.square().mean().sqrt())


@pytest.mark.parametrize("step", [0, 3, 18, 19])
def test_the_winner_moves_along_the_gradient_by_its_share_of_the_steps_noise(step: int):
    search = Search(steps=(step,), step_reward="q", candidates=3, guidance=Guidance("reward_ascent", scale=0.25))
    for slow, _, _, moved, gradient in moves(search):
        wanted = 0.25 * slow.sigma(step) * gradient / rms(gradient)
        torch.testing.assert_close(moved, wanted, rtol=1e-2, atol=2e-4)
        assert rms(moved) == pytest.approx(0.25 * slow.sigma(step), rel=1e-2)


def test_a_small_move_raises_the_reward_by_what_the_gradient_promises():
    # Finite differences, so that nothing but Q itself is trusted.
    search = Search(steps=(16,), step_reward="q", guidance=Guidance("reward_ascent", scale=0.01))
    for slow, _, drawn, moved, gradient in moves(search):
        there, here = slow.quality(17, drawn + moved), slow.quality(17, drawn)
        assert float(there - here) == pytest.approx(float((gradient * moved).sum()), rel=0.05, abs=1e-4)
        assert float(there) > float(here)


@pytest.mark.parametrize("kind", ["reward_ascent", "target_l2"])
def test_without_normalising_the_gradient_itself_is_followed(kind: str):
    guidance = Guidance(kind, scale=1e-3, target=40.0, normalize=False)
    for slow, _, drawn, moved, gradient in moves(Search(steps=(12,), step_reward="q", guidance=guidance)):
        slope = gradient if kind == "reward_ascent" else 2 * (40.0 - float(slow.quality(13, drawn))) * gradient
        torch.testing.assert_close(moved, 1e-3 * slope, rtol=1e-2, atol=1e-5)


def test_a_target_attracts_from_below_and_from_above():
    def directions(target: float) -> list[Tensor]:
        guidance = Guidance("target_l2", target=target)
        return [moved for *_, moved, _ in moves(Search(steps=(8,), step_reward="q", guidance=guidance))]

    ascent = [moved for *_, moved, _ in moves(Search(steps=(8,), guidance=Guidance("reward_ascent")))]
    for up, below, above in zip(ascent, directions(100.0), directions(-100.0), strict=True):
        torch.testing.assert_close(below, up, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(above, -up, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("step_reward", ["q", "delta_parent"])
def test_the_trajectory_goes_on_from_the_moved_state(step_reward: str):
    search = Search(steps=(2, 3, 5), step_reward=step_reward, guidance=Guidance("reward_ascent", scale=0.5))
    rollout = explored(search)
    for prompt, name in enumerate(PROMPTS):
        slow = Reenactment(name, Key(3)("rollout", prompt))
        winner = int(rollout.value[prompt, :, 0, 0].argmax())
        moved = rollout.x_s[prompt, winner, 0]
        assert torch.equal(rollout.x_t[prompt, 0, 1], moved)
        for candidate in range(2):
            wanted = slow.child(3, moved[None], candidate)[0]
            if candidate != int(rollout.value[prompt, :, 1, 0].argmax()):
                torch.testing.assert_close(rollout.x_s[prompt, candidate, 1], wanted, rtol=1e-4, atol=1e-4)
        if step_reward == "delta_parent":
            known = float(rollout.parent_value[prompt, 0, 1, 0])
            assert known == pytest.approx(float(slow.quality(3, moved[None])), abs=2e-3)
            assert known == float(rollout.value[prompt, winner, 0, 0])
        after = rollout.x_s[prompt, int(rollout.value[prompt, :, 1, 0].argmax()), 1]
        torch.testing.assert_close(rollout.x_t[prompt, 0, 2], slow.child(4, after[None], 0)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["reward_ascent", "target_l2"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 0.0])
def test_a_gradient_that_is_not_finite_or_nothing_moves_nothing(kind: str, normalize: bool, bad: float):
    def score(request: ScoreRequest) -> Tensor:
        if not request.gradient:
            return score_of(request)
        slope = torch.tensor([bad if prompt == "a" else 1.0 for prompt in request.prompts])
        change = request.x_0.flatten(1).sum(1)
        return score_of(request).detach() + (change - change.detach()) * slope

    search = Search(steps=(1, 4), step_reward="q")
    found = explored(replace(search, guidance=Guidance(kind, normalize=normalize, target=50.0)), score)
    plain = explored(search)
    assert torch.equal(found.x_s[0], plain.x_s[0])
    assert not torch.equal(found.x_s[1, :, 0], plain.x_s[1, :, 0])
    assert bool(found.x_s.isfinite().all())


def test_guidance_follows_the_first_reward_through_decoder_and_network(random_model):
    """With the real classes: the gradient of the scorer in x_t against a difference of its scores."""
    denoiser = StableDiffusion.denoiser(ModelConfig(path=str(random_model), device="cpu"))
    scorer = Scorer(StableDiffusion.decoder(ModelConfig(path=str(random_model), device="cpu")), (Colorfulness(),))
    sampling = SamplingConfig(num_inference_steps=6, guidance_scale=2.0)
    walk = toy_walk(denoiser, chunk_of(("a b", "c")), sampling)
    x_t = walk.start(1)

    def quality(state: Tensor) -> Tensor:
        return scorer.score(walk.request({2: walk.x_0(2, state, walk.predict(2, state))})).value[:, 0]

    clean = {2: walk.x_0(2, x_t, walk.predict(2, x_t))}
    scores = scorer.score(walk.request(clean, gradient=True))
    assert scores.gradient is not None
    assert torch.equal(scores.value[:, 0], quality(x_t))
    slope = walk.pull_back(2, x_t, scores.gradient[None])
    size = slope.square().sum((2, 3, 4)).sqrt()[0]
    along = 1e-2 * slope / size[None, :, None, None, None]
    change = (quality(x_t + along) - quality(x_t - along)) / 2e-2
    torch.testing.assert_close(change, size, rtol=2e-2, atol=1e-5)
    assert all(parameter.grad is None for parameter in denoiser.parameters.parameters.values())


def test_a_missing_score_has_no_gradient_and_spoils_no_other():
    class Picky(Colorfulness):
        def score(self, images, prompts):
            missing = torch.tensor([torch.nan if prompt == "bad" else 0.0 for prompt in prompts])
            return super().score(images, prompts) + missing

    class Plain(Decoder):
        def decode(self, latents: Tensor) -> Tensor:
            return latents

    x_0 = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    t = torch.zeros(2, dtype=torch.int64)
    both = Scorer(Plain(), (Picky(),)).score(ScoreRequest(x_0, ("bad", "good"), t, True))
    alone = Scorer(Plain(), (Colorfulness(),)).score(ScoreRequest(x_0[1:], ("good",), t[1:], True))
    assert bool(both.value[0].isnan())
    assert both.gradient is not None
    assert alone.gradient is not None
    assert torch.equal(both.gradient[1], alone.gradient[0])
    assert not bool((both.gradient[0].nan_to_num() != 0).any())
