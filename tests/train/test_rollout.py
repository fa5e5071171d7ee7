"""The search: what it evaluates, records and follows, against a slow re-enactment with diffusers' own scheduler."""

import math

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.distributions import Normal

from raypref.core.search import Search
from raypref.core.seeding import Key
from raypref.core.types import Rollout
from raypref.models.base import ModelConfig
from raypref.models.stable_diffusion import StableDiffusion
from raypref.train.chunk import Chunk, evaluation_chunks, rollout_chunks
from raypref.train.experiment import RunConfig, SamplingConfig
from raypref.train.rollout import ScoreRequest, explore, finish
from tests.conftest import MakeExperiment
from tests.toys import SAMPLING, ToyDenoiser, chunk_of, drive, score_of, toy_walk

RDPO_STEPS = (0, 4, 8, 12, 16)


def explored(
    search: Search,
    prompts: tuple[str, ...] = ("a", "q"),
    sampling: SamplingConfig = SAMPLING,
    denoiser: ToyDenoiser | None = None,
) -> tuple[Rollout, list[ScoreRequest], ToyDenoiser]:
    denoiser = denoiser or ToyDenoiser()
    rollout, requests = drive(explore(toy_walk(denoiser, chunk_of(prompts), sampling), search))
    return rollout, requests, denoiser


class Reenactment:
    """One prompt, one latent at a time, by diffusers' DDIM step."""

    def __init__(self, prompt: str, key: Key, steps: int = 20) -> None:
        self.prompt, self.key, self.denoiser = prompt, key, ToyDenoiser()
        self.scheduler = DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1,
        )  # fmt: skip
        self.scheduler.set_timesteps(steps)

    def start(self, candidate: int = 0) -> Tensor:
        return self.key("x_T", 0, candidate).normal(2, 2, 2)[None]

    @torch.no_grad()
    def out(self, step: int, x_t: Tensor) -> Tensor:
        return self.denoiser.predict(x_t, self.scheduler.timesteps[step][None], (self.prompt,), 5.0)

    def child(self, step: int, x_t: Tensor, candidate: int) -> Tensor:
        noise = self.key("step", step, candidate).normal(2, 2, 2)[None]
        t = self.scheduler.timesteps[step]
        return self.scheduler.step(self.out(step, x_t), t, x_t, eta=1.0, variance_noise=noise).prev_sample

    def quality(self, step: int, x_t: Tensor) -> float:
        """Q of a state at the start of a step; `step` = number of steps means that it is clean."""
        if step == len(self.scheduler.timesteps):
            clean = x_t
        else:
            t = self.scheduler.timesteps[step]
            clean = self.scheduler.step(
                self.out(step, x_t), t, x_t, variance_noise=0 * x_t, eta=1.0
            ).pred_original_sample
        return float(score_of(ScoreRequest(clean, (self.prompt,), torch.zeros(1, dtype=torch.int64))))


def check_tree(search: Search, rollout: Rollout, prompt: int, name: str) -> None:
    slow = Reenactment(name, Key(3)("rollout", prompt))
    x_t, row = slow.start(), 0
    for step in range(search.steps[-1] + 1):
        if step not in search.steps:
            x_t = slow.child(step, x_t, 0)
            continue
        children = [slow.child(step, x_t, candidate) for candidate in range(search.candidates)]
        values = [slow.quality(step + 1, child) for child in children]
        torch.testing.assert_close(rollout.x_t[prompt, 0, row], x_t[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(rollout.x_s[prompt, :, row], torch.cat(children), rtol=1e-4, atol=1e-4)
        assert rollout.value[prompt, :, row].tolist() == pytest.approx(values, abs=2e-3)
        known = row > 0 and search.steps[row - 1] == step - 1  # the parent is a child that was scored just before
        if search.step_reward == "delta_parent" or known:
            assert float(rollout.parent_value[prompt, 0, row]) == pytest.approx(slow.quality(step, x_t), abs=2e-3)
        else:
            assert bool(rollout.parent_value[prompt, 0, row].isnan())
        if search.follow == "best":
            chosen = values.index(max(values))
        else:
            chosen = slow.key("follow", step).integer(search.candidates)
        x_t, row = children[chosen], row + 1


@pytest.mark.parametrize("follow", ["best", "random"])
@pytest.mark.parametrize("step_reward", ["delta_parent", "q"])
@pytest.mark.parametrize("steps", [RDPO_STEPS, (0, 1, 2, 7), (3, 18, 19), (19,)])
def test_a_tree_is_what_diffusers_would_have_drawn(follow: str, step_reward: str, steps: tuple[int, ...]):
    search = Search(steps=steps, follow=follow, step_reward=step_reward, candidates=3)
    rollout, _, _ = explored(search)
    assert rollout.prompts == ("a", "q")
    assert rollout.steps.tolist() == list(steps)
    assert bool(rollout.final.isnan().all())
    for prompt, name in enumerate(rollout.prompts):
        check_tree(search, rollout, prompt, name)


@pytest.mark.parametrize("same_start", [True, False])
@pytest.mark.parametrize("step_reward", ["final", "delta_cross", "q"])
def test_chains_are_what_diffusers_would_have_drawn(same_start: bool, step_reward: str):
    search = Search("chain", 2, (0, 1, 7, 19), step_reward, same_start=same_start)
    rollout, requests, _ = explored(search)
    assert len(requests) == 1
    assert rollout.x_t.shape[1] == 2
    for prompt, name in enumerate(rollout.prompts):
        slow = Reenactment(name, Key(3)("rollout", prompt))
        for candidate in range(2):
            x_t = slow.start(0 if same_start else candidate)
            for step in range(20):
                x_s = slow.child(step, x_t, candidate)
                if step in search.steps:
                    row = search.steps.index(step)
                    torch.testing.assert_close(rollout.x_t[prompt, candidate, row], x_t[0], rtol=1e-3, atol=1e-3)
                    torch.testing.assert_close(rollout.x_s[prompt, candidate, row], x_s[0], rtol=1e-3, atol=1e-3)
                    found = float(rollout.value[prompt, candidate, row])
                    before = float(rollout.parent_value[prompt, candidate, row])
                    if step_reward == "final":
                        assert math.isnan(found)  # nobody asked
                    else:
                        assert found == pytest.approx(slow.quality(step + 1, x_s), abs=1e-2)
                    if step_reward == "delta_cross":
                        assert before == pytest.approx(slow.quality(step, x_t), abs=1e-2)
                    else:
                        assert math.isnan(before)
                x_t = x_s
            assert float(rollout.final[prompt, candidate]) == pytest.approx(slow.quality(20, x_t), abs=1e-2)


@pytest.mark.parametrize("step_reward", ["delta_parent", "q"])
def test_a_tree_costs_23_guided_evaluations_a_prompt(step_reward: str):
    # x_T once; 5 branches look at 2 children each; 12 plain steps between them. What looks at the followed child serves
    # as the next step's prediction, and nothing is predicted after the last branch.
    for prompts in (("a",), ("a", "b", "c")):
        _, _, denoiser = explored(Search(steps=RDPO_STEPS, step_reward=step_reward), prompts)
        assert denoiser.guided == 23 * len(prompts)


def test_chains_from_one_start_cost_39_guided_evaluations_a_prompt():
    for step_reward in ("final", "delta_cross"):
        _, _, denoiser = explored(Search("chain", 2, tuple(range(20)), step_reward), ("a", "b"))
        assert denoiser.guided == 39 * 2
    _, _, denoiser = explored(Search("chain", 2, (0,), "final", same_start=False), ("a",))
    assert denoiser.guided == 40


def test_children_of_the_last_step_are_scored_without_a_forward():
    # 20 predictions lead to the parent of step 19; its children are clean.
    rollout, requests, denoiser = explored(Search(steps=(19,), step_reward="q"), ("a",))
    assert denoiser.guided == 20
    assert torch.equal(requests[0].x_0, rollout.x_s[0, :, 0])


def test_a_parent_is_scored_once_and_known_after_a_branch():
    _, requests, _ = explored(Search(steps=(2, 3, 4, 9), step_reward="delta_parent"), ("a",))
    # Step 2: two children and the parent. 3 and 4: the parent is the child just scored. 9: a new parent.
    assert [len(request.x_0) for request in requests] == [3, 2, 2, 3]
    rollout, _, _ = explored(Search(steps=(2, 3, 4, 9), step_reward="delta_parent"), ("a", "b"))
    assert torch.equal(rollout.parent_value[:, 0, 1:3], rollout.value[:, :, :2].max(1).values)


def test_requests_name_the_prompt_of_every_latent():
    _, requests, _ = explored(Search(steps=(0,)), ("a", "b"))
    assert requests[0].prompts == ("a", "b") * 3
    _, requests, _ = explored(Search("chain", 2, (0,), "final"), ("a", "b"))
    assert requests[0].prompts == ("a", "b") * 2


def test_a_missing_score_is_never_followed():
    def score(request: ScoreRequest) -> Tensor:
        scores = -1000 + score_of(request)
        scores[0] = torch.nan  # the first child
        return scores

    walk = toy_walk(ToyDenoiser(), chunk_of(("a",)))
    rollout, _ = drive(explore(walk, Search(steps=(0, 1), step_reward="q")), score)
    assert torch.equal(rollout.x_t[0, 0, 1], rollout.x_s[0, 1, 0])


@pytest.mark.parametrize(
    "search",
    [Search(steps=(0, 3, 4, 19), step_reward="q"), Search("chain", 2, (0, 5, 19), "final")],
    ids=["tree", "chain"],
)
@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_what_is_recorded_has_the_density_of_the_reverse_step(search: Search, scheduler: str):
    if scheduler == "ddpm":
        search = Search(search.shape, 2, search.steps[:-1], search.step_reward)  # its last step has no density
    rollout, _, denoiser = explored(search, ("b", "z"), SamplingConfig(scheduler=scheduler))
    process = SamplingConfig(scheduler=scheduler).process(denoiser.schedule)
    for prompt, name in enumerate(rollout.prompts):
        for row, step in enumerate(search.steps):
            for candidate in range(2):
                x_t = rollout.x_t[prompt, candidate % rollout.x_t.shape[1], row][None]
                with torch.no_grad():
                    out = denoiser.predict(x_t, process.t[step][None], (name,), 5.0)
                gaussian = process.reverse(torch.tensor([step]), x_t, out)
                noise = Key(3)("rollout", prompt, "step", step, candidate).normal(2, 2, 2)
                wanted = Normal(0.0, 1.0).log_prob(noise).sum() - 8 * torch.log(gaussian.std[0])
                found = gaussian.log_prob(rollout.x_s[prompt, candidate, row][None], "sum")
                assert float(found) == pytest.approx(float(wanted), abs=2e-3)


def parts_of(rollout: Rollout) -> list[Tensor]:
    return [rollout.x_t, rollout.x_s, rollout.value]


def row_of(chunk: Chunk, row: int) -> Chunk:
    return Chunk("row", chunk.prompts[row : row + 1], chunk.keys[row : row + 1])


@pytest.mark.parametrize("shape", ["tree", "chain"])
@pytest.mark.parametrize("follow", ["best", "random"])
def test_numbers_belong_to_the_prompt_and_not_to_its_chunk(shape: str, follow: str):
    search = Search(shape, 2, (0, 2, 6), "q", follow)
    chunk = chunk_of(("a", "f", "q"))
    together = drive(explore(toy_walk(ToyDenoiser(), chunk), search))[0]
    for row in range(3):
        alone = drive(explore(toy_walk(ToyDenoiser(), row_of(chunk, row)), search))[0]
        torch.testing.assert_close(alone.x_t[0], together.x_t[row], rtol=1e-4, atol=1e-4)
        for one, all_of_them in zip(parts_of(alone), parts_of(together), strict=True):
            torch.testing.assert_close(one[0], all_of_them[row], rtol=1e-2, atol=1e-2)
    start = toy_walk(ToyDenoiser(), chunk).start(2)
    assert torch.equal(start[:, 1:2], toy_walk(ToyDenoiser(), row_of(chunk, 1)).start(2))


def test_other_chunks_do_not_change_a_chunk():
    search = Search(steps=(0, 3))
    denoiser = ToyDenoiser()
    drive(explore(toy_walk(denoiser, chunk_of(("x", "y"), 99)), search))
    torch.manual_seed(123)
    after = drive(explore(toy_walk(denoiser, chunk_of(("a", "b"))), search))[0]
    fresh = explored(search, ("a", "b"))[0]
    assert all(torch.equal(one, two) for one, two in zip(parts_of(after), parts_of(fresh), strict=True))


def test_the_same_prompt_twice_gives_two_different_trajectories():
    rollout, _, _ = explored(Search(steps=(0, 3)), ("a", "a"))
    assert not torch.isclose(rollout.x_t[0], rollout.x_t[1]).any()
    assert not torch.isclose(rollout.x_s[0], rollout.x_s[1]).any()


def test_candidates_and_steps_have_noise_of_their_own():
    walk = toy_walk(ToyDenoiser(), chunk_of(("a", "b")))
    draws = [walk.start(3), walk.noise("step", 0, 3), walk.noise("step", 1, 3), walk.noise("look-ahead", 1, 3)]
    assert len({tuple(draw.flatten().tolist()) for draw in torch.cat(draws).flatten(0, 1)}) == 24
    assert torch.equal(walk.noise("step", 1, 3)[:2], walk.noise("step", 1, 2))


def test_a_finished_picture_is_one_plain_trajectory():
    chunk = chunk_of(("a", "q"))
    found, predicted = finish(toy_walk(ToyDenoiser(), chunk))
    assert predicted == {}
    for row, (prompt, key) in enumerate(zip(chunk.prompts, chunk.keys, strict=True)):
        slow = Reenactment(prompt, key)
        x_t = slow.start()
        for step in range(20):
            x_t = slow.child(step, x_t, 0)
        torch.testing.assert_close(found[row], x_t[0], rtol=1e-3, atol=1e-3)


def test_a_rollout_names_the_weights_that_drew_it():
    for search in (Search(steps=(0,)), Search("chain", 2, (0,), "final")):
        denoiser = ToyDenoiser()
        denoiser.parameters.install(denoiser.parameters.take(7))
        rollout = explored(search, denoiser=denoiser)[0]
        assert (rollout.policy_version, rollout.policy_checksum) == (7, denoiser.parameters.take(7).manifest.checksum)


def test_the_real_network_is_searched_alike(random_model):
    """The random Stable Diffusion: recorded children are the addressed noise around the recomputed mean."""
    denoiser = StableDiffusion.denoiser(ModelConfig(path=str(random_model), device="cpu"))
    sampling = SamplingConfig(num_inference_steps=6, guidance_scale=3.0)
    search = Search(steps=(1, 2, 5))
    rollout, requests = drive(explore(toy_walk(denoiser, chunk_of(("a b", "c")), sampling), search))
    assert [len(request.x_0) for request in requests] == [6, 4, 6]
    process = sampling.process(denoiser.schedule)
    for row, step in enumerate(search.steps):
        x_t = rollout.x_t[:, 0, row]
        with torch.no_grad():
            out = denoiser.predict(x_t, process.t[step].expand(2), rollout.prompts, 3.0)
        mean = process.mean_state[step].float() * x_t + process.mean_out[step].float() * out
        for prompt in range(2):
            for candidate in range(2):
                noise = Key(3)("rollout", prompt, "step", step, candidate).normal(4, 8, 8)
                wanted = mean[prompt] + process.sigma[step].float() * noise
                torch.testing.assert_close(rollout.x_s[prompt, candidate, row], wanted, rtol=1e-4, atol=1e-4)


def test_every_prompt_is_seen_once_before_any_is_seen_twice(experiment: MakeExperiment):
    setup = experiment(run=RunConfig(prompts_per_iteration=2, chunk_size=1), prompts=("a", "b", "c", "d", "e", "f"))
    chunks = [chunk for iteration in range(6) for chunk in rollout_chunks(setup, iteration)]
    seen = [prompt for chunk in chunks for prompt in chunk.prompts]
    assert sorted(seen[:6]) == sorted(seen[6:]) == list("abcdef")
    assert seen[:6] != seen[6:]
    assert len({key for chunk in chunks for key in chunk.keys}) == 12


def test_chunking_regroups_prompts_and_keys_and_changes_neither(experiment: MakeExperiment):
    def flat(size: int) -> list[tuple]:
        chunks = rollout_chunks(experiment(run=RunConfig(prompts_per_iteration=4, chunk_size=size)), 3)
        assert all(len(chunk.prompts) == size for chunk in chunks)
        return [pair for chunk in chunks for pair in zip(chunk.prompts, chunk.keys, strict=True)]

    assert flat(1) == flat(2) == flat(4)


def test_evaluation_uses_the_same_seeds_every_time_and_one_a_picture(experiment: MakeExperiment):
    chunks = evaluation_chunks(experiment())
    pairs = [pair for chunk in chunks for pair in zip(chunk.prompts, chunk.keys, strict=True)]
    assert [prompt for prompt, _ in pairs] == ["x", "x", "y z", "y z"]
    assert len({key for _, key in pairs}) == 4
    assert chunks == evaluation_chunks(experiment())
