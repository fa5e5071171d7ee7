"""The labelled pictures of an iteration, for methods that are given some."""

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
    size, key = experiment.run.prompts_per_iteration, Key(experiment.run.seed)("data")
    try:
        return prepared_set(experiment.data).batch(iteration, size, key, method.reads, method.desirable_only)
    except UnusableSet as problem:
        raise StoppedRun(f"data.path = {experiment.data.path!r}: {problem}") from None


@lru_cache(maxsize=4)
def prepared_set(config: DataConfig) -> PreparedSet:
    """The set that a config names, opened once a process.

    Raises:
        UnusableSet: where it is none.
    """
    return PreparedSet.open(Path(config.path), config)
