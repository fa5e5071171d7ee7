"""Work items: which prompts a worker rolls out or pictures, and under which addresses its random numbers lie."""

from dataclasses import dataclass

from raypref.core.seeding import Key
from raypref.methods.regression import RegressionMethod
from raypref.train.experiment import Experiment
from raypref.train.preferences import preferences


@dataclass(frozen=True)
class Chunk:
    """A few prompts, each with the key of its random numbers. Any worker gives the same answer to it."""

    name: str
    """For logs: "iteration 3, chunk 1"."""
    prompts: tuple[str, ...]
    keys: tuple[Key, ...]
    """One a prompt."""


def rollout_chunks(experiment: Experiment, iteration: int) -> list[Chunk]:
    """The rollouts of an iteration: see `rollout_prompts`."""
    prompts = rollout_prompts(experiment, iteration)
    keys = [Key(experiment.run.seed)("rollout", iteration, item) for item in range(len(prompts))]
    return _split(f"iteration {iteration}", prompts, keys, experiment.run.chunk_size)


def rollout_prompts(experiment: Experiment, iteration: int) -> list[str]:
    """Prompts in a shuffled order that restarts when all have been seen; with a method on labelled pictures theirs, if
    it needs anything drawn for them."""
    method, count = experiment.method, experiment.run.prompts_per_iteration
    if isinstance(method, RegressionMethod):
        return [] if method.own == "none" else list(preferences(experiment, method, iteration).prompts)
    return _shuffled(experiment, range(iteration * count, (iteration + 1) * count))


def pair_chunks(experiment: Experiment, numbers: range) -> list[Chunk]:
    """Two pictures for each of some pairs of an endless row of them, side by side; prompts as in `rollout_chunks`."""
    seed = Key(experiment.run.seed)("collect")
    prompts = [prompt for prompt in _shuffled(experiment, numbers) for _ in range(2)]
    keys = [seed(number, picture) for number in numbers for picture in range(2)]
    return _split(f"pairs from {numbers.start}", prompts, keys, 2 * experiment.run.chunk_size)


def _shuffled(experiment: Experiment, numbers: range) -> list[str]:
    """The prompts at some places of the endless order."""
    found, seed, count = [], Key(experiment.run.seed), len(experiment.prompts)
    for number in numbers:
        epoch, place = divmod(number, count)
        found.append(experiment.prompts[int(seed("prompts", epoch).permutation(count)[place])])
    return found


def evaluation_chunks(experiment: Experiment) -> list[Chunk]:
    """The held-out pictures: the same seeds at every evaluation, all pictures of a prompt side by side."""
    seed, each = Key(experiment.run.seed)("evaluate"), experiment.evaluate.images_per_prompt
    prompts = [prompt for prompt in experiment.heldout_prompts for _ in range(each)]
    keys = [seed(index, copy) for index in range(len(experiment.heldout_prompts)) for copy in range(each)]
    return _split("evaluation", prompts, keys, experiment.run.chunk_size * experiment.method.latents_at_once())


def _split(name: str, prompts: list[str], keys: list[Key], size: int) -> list[Chunk]:
    return [
        Chunk(f"{name}, chunk {start // size}", tuple(prompts[start : start + size]), tuple(keys[start : start + size]))
        for start in range(0, len(prompts), size)
    ]
