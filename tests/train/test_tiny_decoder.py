"""Step scores by a tiny decoder: what the evaluation and the report say of them, on a random AutoencoderTiny."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from raypref.config import load_experiment
from raypref.core.search import Search
from raypref.dry_run import dry_run
from raypref.methods.d3po import D3PO
from raypref.methods.rdpo import RDPO
from raypref.models.base import ModelConfig
from raypref.rewards.colorfulness import Colorfulness
from raypref.run import train
from raypref.train.chunk import evaluation_chunks
from raypref.train.rollout import ScoreRequest, Scores
from raypref.train.runtime import LocalRuntime, LocalScoring
from tests.conftest import MakeExperiment

THREE = RDPO(search=Search(steps=(0, 2), candidates=3))


class Overheard(LocalScoring):
    """Remembers what it was asked to score."""

    asked: list[ScoreRequest]

    def score(self, request: ScoreRequest) -> Scores:
        self.asked.append(request)
        return super().score(request)


def overheard(runtime: LocalRuntime) -> list[ScoreRequest]:
    runtime.sampler.scoring = Overheard(runtime.sampler.scoring.scorer)
    runtime.sampler.scoring.asked = []
    return runtime.sampler.scoring.asked


@torch.no_grad()
def colourfulness(pictures: Tensor) -> Tensor:
    return Colorfulness().score((pictures / 2 + 0.5).clamp(0, 1), [""] * len(pictures))


@torch.no_grad()
def test_the_same_candidates_are_scored_by_both_decoders(
    make_experiment: MakeExperiment, random_model: Path, random_tiny_vae: Path
):
    model = ModelConfig(path=str(random_model), device="cpu", tiny_vae=str(random_tiny_vae))
    plan = make_experiment(THREE, model=model)
    runtime = LocalRuntime(plan)
    asked = overheard(runtime)
    (found,) = runtime.picture(evaluation_chunks(plan)[:1])
    tiny, full = AutoencoderTiny.from_pretrained(random_tiny_vae), AutoencoderKL.from_pretrained(random_model / "vae")
    latents = asked[0].x_0
    assert torch.equal(asked[1].x_0, latents)
    count = len(found.prompts)
    assert len(latents) == 2 * 3 * count
    scores = colourfulness(tiny.decode(latents).sample), colourfulness(full.decode(latents / 0.5).sample)
    for row, step in enumerate((0, 2)):
        wanted = torch.stack([each.view(2, 3, count)[row].T for each in scores])
        torch.testing.assert_close(found.decoded_twice[step], wanted, rtol=1e-4, atol=1e-5)
        assert torch.equal(found.score_by_step[step], found.decoded_twice[step][0, :, 0])
    assert not torch.allclose(*found.decoded_twice[0], rtol=1e-2)
    plain = replace(plan, model=replace(model, tiny_vae=""))
    (without,) = LocalRuntime(plain).picture(evaluation_chunks(plan)[:1])
    assert without.decoded_twice == {}
    torch.testing.assert_close(without.scores["colorfulness"], found.scores["colorfulness"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(without.score_by_step[0], found.decoded_twice[0][1, :, 0], rtol=1e-4, atol=1e-5)


def test_a_method_that_ranks_finished_pictures_needs_no_comparison(
    make_experiment: MakeExperiment, random_model: Path, random_tiny_vae: Path
):
    model = ModelConfig(path=str(random_model), device="cpu", tiny_vae=str(random_tiny_vae))
    plan = make_experiment(D3PO(search=Search("chain", 2, (0, 2), "final")), model=model)
    runtime = LocalRuntime(plan)
    asked = overheard(runtime)
    (found,) = runtime.picture(evaluation_chunks(plan)[:1])
    assert (found.decoded_twice, len(asked)) == ({}, 1)


def test_the_report_says_that_step_scores_are_approximate_and_how_much(
    toml: Path, random_tiny_vae: Path, capsys: pytest.CaptureFixture[str]
):
    words = [f"model.tiny_vae={random_tiny_vae}", "run.iterations=1", "method.search.candidates=3"]
    experiment = load_experiment(toml, words)
    assert dry_run(experiment)["step scores"].startswith("approximate: predictions are decoded by")
    run = train(experiment)
    assert "tau of the tiny decoder" in capsys.readouterr().out
    rows = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    assert [set(row["tiny_pairs_by_step"]) for row in rows] == [{"0", "2", "4"}] * 2
    # Three prompts, two pictures each, three pairs among three candidates.
    assert all(pairs == 18 for row in rows for pairs in row["tiny_pairs_by_step"].values())
    tau = rows[-1]["tiny_tau_by_step"]["2"]
    page = (run / "report.html").read_text()
    assert f"{tau:.3f} at step 2 (18 pairs)" in page
    assert "approximately" in page
