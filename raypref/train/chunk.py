"""Work items: which prompts a worker rolls out or pictures, and under which addresses its random numbers lie."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from raypref.core.seeding import Key
from raypref.train.experiment import Experiment


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
    """The rollouts of an iteration: prompts in a shuffled order that restarts when all have been seen."""
    run, seed = experiment.run, Key(experiment.run.seed)
    prompts, keys = [], []
    for item in range(run.prompts_per_iteration):
        epoch, place = divmod(iteration * run.prompts_per_iteration + item, len(experiment.prompts))
        order = seed("prompts", epoch).permutation(len(experiment.prompts))
        prompts.append(experiment.prompts[int(order[place])])
        keys.append(seed("rollout", iteration, item))
    return _split(f"iteration {iteration}", prompts, keys, run.chunk_size)


def evaluation_chunks(experiment: Experiment) -> list[Chunk]:
    """The held-out pictures: the same seeds at every evaluation, all pictures of a prompt side by side."""
    return picture_chunks(experiment, experiment.heldout_prompts)


def picture_chunks(experiment: Experiment, prompts: Sequence[str], sources: Sequence[bytes] = ()) -> list[Chunk]:
    """Pictures of any prompts, from the same seeds; `sources`, one a prompt, where they are edited."""
    seed, each = Key(experiment.run.seed)("evaluate"), experiment.evaluate.images_per_prompt
    repeated = [prompt for prompt in prompts for _ in range(each)]
    keys = [seed(index, copy) for index in range(len(prompts)) for copy in range(each)]
    chunks = _split("evaluation", repeated, keys, experiment.run.chunk_size * experiment.method.search.candidates)
    places = iter([source for source in sources for _ in range(each)])
    return [replace(chunk, sources=tuple(islice(places, len(chunk.prompts)))) for chunk in chunks]


def _split(name: str, prompts: list[str], keys: list[Key], size: int) -> list[Chunk]:
    return [
        Chunk(f"{name}, chunk {start // size}", tuple(prompts[start : start + size]), tuple(keys[start : start + size]))
        for start in range(0, len(prompts), size)
    ]
