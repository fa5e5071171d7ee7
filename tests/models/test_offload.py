"""Frozen weights are there for all that is computed, and only then."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raypref.models import guided
from raypref.models.base import ModelConfig
from raypref.models.offload import Offload
from raypref.models.stable_diffusion import StableDiffusion
from raypref.train.build import build_denoiser, build_learner, build_sampler, build_scorer
from raypref.train.chunk import evaluation_chunks, rollout_chunks
from raypref.train.experiment import Experiment
from raypref.train.loop import train
from raypref.train.runtime import LocalRuntime, LocalScoring
from tests.conftest import MakeExperiment
from tests.recording import Recording


class Poisoned(Offload):
    """Whoever computes with weights that are away gets no number. It counts the turns."""

    turns = 0

    def _come(self) -> None:
        type(self).turns += 1
        super()._come()

    def _leave(self) -> None:
        for tensor, home in self._homes.items():
            tensor.data = torch.full_like(home, torch.nan) if home.is_floating_point() else torch.zeros_like(home)


@pytest.fixture
def poisoned(monkeypatch) -> type[Poisoned]:
    monkeypatch.setattr(guided, "Offload", Poisoned)
    monkeypatch.setattr(Poisoned, "turns", 0)
    return Poisoned


def offloaded(plan: Experiment, **changes: object) -> Experiment:
    return replace(plan, model=replace(plan.model, cpu_offload=True, **changes))


def final(experiment: Experiment) -> tuple[str, list[float]]:
    seen = Recording()
    train(experiment, LocalRuntime(experiment), seen)
    return seen.final_checksum(), seen.judgements[experiment.run.iterations][0].scores["colorfulness"].tolist()


@pytest.mark.parametrize("changes", [{}, {"free_text_encoders": True}, {"gradient_checkpointing": True}])
def test_a_run_is_the_same_bits(make_experiment: MakeExperiment, poisoned: type[Poisoned], changes: dict):
    plan = make_experiment()
    plan = replace(plan, run=replace(plan.run, iterations=2))
    plain = replace(plan, model=replace(plan.model, **changes))
    assert final(offloaded(plan, **changes)) == final(plain)


def test_weights_stay_for_a_whole_turn(make_experiment: MakeExperiment, poisoned: type[Poisoned]):
    """A chunk, an iteration's updates: not every forward pass fetches them."""
    plan = offloaded(make_experiment())
    learner = build_learner(plan)
    sampler = build_sampler(plan, LocalScoring(build_scorer(plan)))
    weights = learner.weights(0)
    poisoned.turns = 0
    sampled = [sampler.rollout(chunk, weights) for chunk in rollout_chunks(plan, 0)]
    assert poisoned.turns == len(sampled)
    learner.update(0, sampled)
    assert poisoned.turns == len(sampled) + 1
    sampler.picture(evaluation_chunks(plan)[0], weights)
    assert poisoned.turns == len(sampled) + 2


def test_there_and_back_nothing_is_lost_and_what_is_trained_stays(random_model: Path):
    network = StableDiffusion.denoiser(ModelConfig(path=str(random_model), device="cpu")).network
    kept = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    offload = Poisoned([network], torch.device("cpu"))
    for name, parameter in network.named_parameters():
        assert bool(parameter.isnan().all()) != parameter.requires_grad, name
    with offload.at_work():
        with offload.at_work():
            pass
        for name, parameter in network.named_parameters():
            assert torch.equal(parameter, kept[name])


def test_the_last_one_to_go_turns_off_the_light():
    layer = torch.nn.Linear(2, 2).requires_grad_(False)
    offload = Poisoned([layer], torch.device("cpu"))
    inside, go = threading.Event(), threading.Event()

    def work() -> None:
        with offload.at_work():
            inside.set()
            go.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(10)
    with offload.at_work():
        pass
    assert layer.weight.isfinite().all()
    go.set()
    thread.join()
    assert layer.weight.isnan().all()


def test_dropped_text_encoders_are_let_go_of(make_experiment: MakeExperiment):
    plan = offloaded(make_experiment(), free_text_encoders=True)
    homes = build_denoiser(plan)._offload._homes
    assert sum(home.numel() for home in homes.values()) == sum(
        tensor.numel()
        for network in [StableDiffusion.denoiser(plan.model).network]
        for tensor in (*network.parameters(), *network.buffers())
        if not tensor.requires_grad
    )
