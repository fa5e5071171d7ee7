"""Frozen weights are there for all that is computed, and only then."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raypref.models import guided
from raypref.models.base import ModelConfig
from raypref.models.compiled import check_compiled
from raypref.models.offload import Offload
from raypref.models.stable_diffusion import StableDiffusion
from raypref.train.build import build_denoiser, build_learner, build_sampler, build_scorer
from raypref.train.chunk import evaluation_chunks, rollout_chunks
from raypref.train.experiment import Experiment
from raypref.train.loop import train
from raypref.train.runtime import LocalRuntime, LocalScoring
from tests.conftest import MakeExperiment
from tests.recording import Recording


class Reached(Exception):
    """So far, and no further without a GPU."""


def stop(*_: object) -> None:
    raise Reached


class Poisoned(Offload):
    """Whoever computes with weights that are away gets no number. It counts the turns."""

    turns = 0

    def __init__(self, modules: Sequence[torch.nn.Module], device: torch.device) -> None:
        super().__init__(modules, device)
        self._leave()

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


def test_a_role_that_fails_leaves_and_can_come_again():
    class Full(Poisoned):
        room = False

        def _come(self) -> None:
            if not self.room:
                raise torch.OutOfMemoryError
            super()._come()

    layer = torch.nn.Linear(2, 2).requires_grad_(False)
    offload = Full([layer], torch.device("cpu"))
    with pytest.raises(torch.OutOfMemoryError), offload.at_work():
        pytest.fail("it is not there")
    offload.room = True
    with suppress(KeyError), offload.at_work():
        assert layer.weight.isfinite().all()
        raise KeyError
    assert layer.weight.isnan().all()


def test_a_compiled_networks_gradient_is_looked_at_in_one_turn(random_model: Path, poisoned: type[Poisoned]):
    """Backward passes too belong inside."""
    denoiser = StableDiffusion.denoiser(ModelConfig(path=str(random_model), device="cpu", cpu_offload=True))
    check_compiled(denoiser, "a cat")
    assert poisoned.turns == 1


def test_nothing_frozen_is_put_on_the_device_before_there_is_work(random_model: Path, monkeypatch):
    """Roles that share a GPU start at once."""
    asked, move = set[str](), torch.nn.Module.to

    def to(module: torch.nn.Module, *where: object, **how: object) -> torch.nn.Module:
        asked.update(str(place) for place in where if isinstance(place, (str, torch.device)))
        return move(module, *(() if where and str(where[0]) == "cuda" else where), **how)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    for offload in (False, True):
        asked.clear()
        model = ModelConfig(path=str(random_model), device="cuda", cpu_offload=offload)
        monkeypatch.setattr(guided.LoRA, "__init__", stop)
        with pytest.raises(Reached):
            StableDiffusion.denoiser(model)
        assert ("cuda" in asked) != offload


def test_dropped_text_encoders_are_let_go_of(make_experiment: MakeExperiment):
    plan = offloaded(make_experiment(), free_text_encoders=True)
    homes = build_denoiser(plan)._offload._homes
    assert sum(home.numel() for home in homes.values()) == sum(
        tensor.numel()
        for network in [StableDiffusion.denoiser(plan.model).network]
        for tensor in (*network.parameters(), *network.buffers())
        if not tensor.requires_grad
    )
