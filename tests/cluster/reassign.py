"""Another experiment for workers that are up: a start is mostly imports, and costs more than small runs do."""

import sys

import ray

from raypref.cluster.runtime import RayRuntime
from raypref.train.experiment import Experiment

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import test files


def begin_again(worker, *arguments):
    worker.__init__(*arguments)


def reassign(runtime: RayRuntime, experiment: Experiment) -> None:
    """The runtime as if it had been started for `experiment`, whose [cluster] asks for the same workers."""
    assert experiment.cluster == runtime.experiment.cluster
    workers = (*runtime.scorers, *runtime.learner.actors)
    starts = [worker.__ray_call__.remote(begin_again, experiment) for worker in workers]
    starts += [
        seat.actor.__ray_call__.remote(begin_again, experiment, runtime.scorer_names) for seat in runtime.crew.seats
    ]
    ray.get(starts, timeout=240)
    runtime.experiment = experiment
    runtime.restore(None)
