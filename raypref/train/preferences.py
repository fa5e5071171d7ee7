"""The labelled pictures of an iteration, for methods that are given some."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from raypref.core.seeding import Key
from raypref.core.types import Preferences
from raypref.data.preference_source import DataConfig
from raypref.data.preferences import PreparedSet, UnusableSet
from raypref.methods.regression import RegressionMethod
from raypref.train.experiment import Experiment
from raypref.train.stopped import StoppedRun


def preferences(experiment: Experiment, method: RegressionMethod, iteration: int) -> Preferences:
    """A function of the set, the seed and the iteration alone: whoever asks is given the same rows.

    Raises:
        StoppedRun: where there is no set, or it does not hold what the method needs.
    """
    with _naming(experiment.data):
        return prepared_set(experiment.data).batch(iteration, *_address(experiment, method))


def preference_prompts(experiment: Experiment, method: RegressionMethod, iteration: int) -> tuple[str, ...]:
    """The prompts of `preferences`, for which no latents are read.

    Raises:
        StoppedRun: where there is no set, or it does not hold what the method needs.
    """
    with _naming(experiment.data):
        return prepared_set(experiment.data).batch_prompts(iteration, *_address(experiment, method))


def _address(experiment: Experiment, method: RegressionMethod) -> tuple[int, Key, int, bool]:
    size, key = experiment.run.prompts_per_iteration, Key(experiment.run.seed)("data")
    return size, key, method.reads, method.desirable_only


@contextmanager
def _naming(config: DataConfig) -> Iterator[None]:
    """What is wrong with a set is said with the setting that names it."""
    try:
        yield
    except UnusableSet as problem:
        raise StoppedRun(f"data.path = {config.path!r}: {problem}") from None


@lru_cache(maxsize=4)
def prepared_set(config: DataConfig) -> PreparedSet:
    """The set that a config names, opened once a process.

    Raises:
        UnusableSet: where it is none.
    """
    return PreparedSet.open(Path(config.prepared or config.path), config)
