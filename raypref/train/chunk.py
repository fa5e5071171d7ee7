"""Work items: which prompts a worker rolls out or pictures, and under which addresses its random numbers lie."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from raypref.core.seeding import Key
from raypref.methods.regression import RegressionMethod
from raypref.train.experiment import Experiment
from raypref.train.preferences import preference_prompts


@dataclass(frozen=True)
class Chunk:
    """A few prompts, each with the key of its random numbers. Any worker gives the same answer to it."""

    name: str
    """For logs: "iteration 3, chunk 1"."""
    prompts: tuple[str, ...]
    keys: tuple[Key, ...]
    """One a prompt."""
    sources: tuple[bytes, ...] = ()
    """The picture that each prompt is to change, as its file's bytes, where pictures are edited."""


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
        return [] if method.own == "none" else list(preference_prompts(experiment, method, iteration))
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
    return picture_chunks(experiment, experiment.heldout_prompts)


def picture_chunks(experiment: Experiment, prompts: Sequence[str], sources: Sequence[bytes] = ()) -> list[Chunk]:
    """Pictures of any prompts, from the same seeds; `sources`, one a prompt, where they are edited."""
    seed, each = Key(experiment.run.seed)("evaluate"), experiment.evaluate.images_per_prompt
    repeated = [prompt for prompt in prompts for _ in range(each)]
    keys = [seed(index, copy) for index in range(len(prompts)) for copy in range(each)]
    chunks = _split("evaluation", repeated, keys, experiment.run.chunk_size * experiment.method.latents_at_once())
    places = iter([source for source in sources for _ in range(each)])
    return [replace(chunk, sources=tuple(islice(places, len(chunk.prompts)))) for chunk in chunks]


def _split(name: str, prompts: list[str], keys: list[Key], size: int) -> list[Chunk]:
    return [
        Chunk(f"{name}, chunk {start // size}", tuple(prompts[start : start + size]), tuple(keys[start : start + size]))
        for start in range(0, len(prompts), size)
    ]
