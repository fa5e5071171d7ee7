"""A compiled network whose gradient is another one is refused; its predictions need not tell."""

from pathlib import Path

import pytest
import torch

from raypref.methods.rdpo import RDPO
from raypref.models.base import ModelConfig
from raypref.models.compiled import WrongGradient, check_compiled
from raypref.models.stable_diffusion import StableDiffusion
from raypref.train.build import build_learner
from raypref.train.stopped import StoppedRun


def faithful(graph, inputs):
    return graph.forward


def forgetful(graph, inputs):
    """The same values, with a third of their gradient."""

    def run(*values):
        outs = graph.forward(*values)
        return tuple(out.detach() + (out - out.detach()) / 3 if out.is_floating_point() else out for out in outs)

    return run


@pytest.mark.parametrize("train", ["lora", "full"])
def test_lost_gradients_are_noticed_and_nothing_else(random_model: Path, train: str):
    for backend in (faithful, forgetful):
        torch.compiler.reset()
        denoiser = StableDiffusion.denoiser(ModelConfig(path=str(random_model), device="cpu", train=train))
        before = denoiser.parameters.flat.clone()
        denoiser.network.compile(backend=backend)
        if backend is faithful:
            check_compiled(denoiser, "a cat")
        else:
            with pytest.raises(WrongGradient, match=r"model\.compile = true: of \d+ trained tensors \d+ get another"):
                check_compiled(denoiser, "a cat")
        assert torch.equal(denoiser.parameters.flat, before)
        assert all(parameter.grad is None for parameter in denoiser.parameters.parameters.values())


def test_the_learner_does_not_begin(make_experiment, random_model: Path, monkeypatch: pytest.MonkeyPatch):
    compile_with = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compile_with(module, backend=forgetful))
    torch.compiler.reset()
    plan = make_experiment(RDPO(), model=ModelConfig(path=str(random_model), device="cpu", compile=True))
    with pytest.raises(
        StoppedRun, match=r"model\.compile = true: .* a fault of torch 2.* on cpu; leave model\.compile out"
    ):
        build_learner(plan)
