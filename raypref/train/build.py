"""Builds the three roles from an experiment: the one place where names become networks and rewards."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from raypref import models, rewards
from raypref.models.base import Denoiser, ModelFamily
from raypref.models.compiled import WrongGradient, check_compiled
from raypref.models.decoder import load_tiny_decoder
from raypref.models.existing_lora import UnusableLoRA
from raypref.registry import named_classes
from raypref.rewards.base import Reward
from raypref.train.canary import CANARY_PROMPT
from raypref.train.experiment import Experiment
from raypref.train.learner import Learner
from raypref.train.out_of_memory import explaining_out_of_memory
from raypref.train.preferences import prepared_set
from raypref.train.sampler import Sampler, Scoring
from raypref.train.scorer import Scorer, guided_at_once
from raypref.train.sources import Sources
from raypref.train.stopped import StoppedRun


def model_family(experiment: Experiment) -> type[ModelFamily]:
    """The family that `model.family` names."""
    return named_classes(models, ModelFamily)[experiment.model.family]


def claim_threads(experiment: Experiment) -> None:
    """Thread count is part of the numbers (sums split differently), so every role of a run sets the same one."""
    torch.set_num_threads(experiment.run.num_threads)


@contextmanager
def explaining_model(field: str, source: str) -> Iterator[None]:
    """Turns what diffusers says of a model that it cannot load, or we of one that cannot be trained, into one line.

    Raises:
        StoppedRun: in the place of an OSError or a ValueError: no other worker would fare better.
    """
    try:
        yield
    except UnusableLoRA:
        raise
    except (OSError, ValueError) as problem:
        said = " ".join(str(problem).split())[:300]
        on_the_hub = not Path(source).exists() and source != "tiny"
        way_out = f"; if it is not in the Hub's cache, run `hf download {source}` where there is network"
        raise StoppedRun(
            f"model.{field} = {source!r} cannot be loaded: {said}{way_out if on_the_hub else ''}"
        ) from problem


def build_denoiser(experiment: Experiment) -> Denoiser:
    """The network with its text encoders; or without them, every prompt of the run encoded.

    Raises:
        StoppedRun: where the model, or the LoRA to start from, is not to be had or does not fit.
    """
    try:
        with explaining_model("path", experiment.model.path):
            denoiser = model_family(experiment).denoiser(experiment.model)
    except UnusableLoRA as problem:
        raise StoppedRun(f"model.lora_weights = {experiment.model.lora_weights!r}: {problem}") from problem
    if experiment.model.free_text_encoders:
        trained = ("", *prepared_set(experiment.data).prompts) if experiment.data.path else experiment.prompts
        denoiser.free_text_encoders({CANARY_PROMPT, *trained, *experiment.heldout_prompts})
    return denoiser


@explaining_out_of_memory("sampler")
def build_sampler(experiment: Experiment, scoring: Scoring, learner: Learner | None = None) -> Sampler:
    """A sampler; with run.fused_sampling, on the network of the learner beside it."""
    claim_threads(experiment)
    sources = Sources(partial(model_family(experiment).encoder, experiment.model))
    if experiment.run.fused_sampling:
        assert learner is not None, "fused sampling is for one process"
        return Sampler(learner.denoiser, experiment, scoring, sources)
    return Sampler(build_denoiser(experiment), experiment, scoring, sources)


@explaining_out_of_memory("reward worker")
def build_scorer(experiment: Experiment) -> Scorer:
    """Raises StoppedRun where a reward's weights or code cannot be loaded: no other worker would fare better."""
    claim_threads(experiment)
    trained = (experiment.reward.name, *experiment.reward.also)
    others = (*experiment.evaluate.rewards, *(reward.name for reward in experiment.watched))
    training, watched = (
        tuple(build_reward(name, **experiment.settings_of(name)) for name in names)
        for names in (trained, [name for name in others if name not in trained])
    )
    model, early = experiment.model, None
    with explaining_model(*(("vae", model.vae) if model.vae else ("path", model.path))):
        decoder = model_family(experiment).decoder(model)
    if model.tiny_vae:
        with explaining_model("tiny_vae", model.tiny_vae):
            early = load_tiny_decoder(model)
    return Scorer(decoder, training, watched, experiment.guard.reward_timeout, early, guided_at_once(model))


def reward_environments(experiment: Experiment) -> dict[str, str]:
    """Environments of their own that rewards of the run, or parts of them, need, by the rewards' names."""
    known, found = named_classes(rewards, Reward), dict[str, str]()
    names = (experiment.reward.name, *experiment.reward.also, *experiment.evaluate.rewards,
             *(reward.name for reward in experiment.watched))  # fmt: skip
    asked = [(name, experiment.settings_of(name)) for name in names]
    while asked:
        name, settings = asked.pop()
        if known[name].environment:
            found[name] = known[name].environment
        asked += known[name].parts(settings)
    return found


def build_reward(name: str, **settings: object) -> Reward:
    """Raises StoppedRun where its weights or code cannot be loaded."""
    try:
        return named_classes(rewards, Reward)[name](**settings)
    except (OSError, ValueError, ImportError) as problem:
        raise StoppedRun(f"the reward {name!r} cannot be loaded: {problem}") from problem


@explaining_out_of_memory("learner")
def build_learner(experiment: Experiment) -> Learner:
    """Raises StoppedRun as `build_denoiser`, and where a compiled network would learn something else."""
    claim_threads(experiment)
    denoiser = build_denoiser(experiment)
    if experiment.model.compile:
        try:
            check_compiled(denoiser, CANARY_PROMPT)
        except WrongGradient as problem:
            raise StoppedRun(str(problem)) from problem
    return Learner(denoiser, experiment)
