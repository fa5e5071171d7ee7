"""Another experiment for workers that are up: a start is mostly imports, and costs more than small runs do."""

import sys

import ray

from raypref.cluster.pool import Pool
from raypref.cluster.runtime import RayRuntime
from raypref.train.experiment import Experiment

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import test files


def begin_again(worker, *arguments):
    worker.__init__(*arguments)


def reassign(runtime: RayRuntime, experiment: Experiment) -> None:
    """The runtime as if it had been started for `experiment`, whose [cluster] asks for the same workers."""
    assert experiment.cluster == runtime.experiment.cluster
    starts = [worker.__ray_call__.remote(begin_again, experiment) for worker in (*runtime.scorers, runtime.learner)]
    starts += [
        sampler.__ray_call__.remote(begin_again, experiment, runtime.scorer_names) for sampler in runtime.samplers
    ]
    ray.get(starts, timeout=240)
    runtime.experiment, runtime._jobs = experiment, {}
    runtime.pool = Pool(runtime.samplers, experiment.cluster.chunks_in_flight, experiment.cluster.timeout)
    runtime._weights = {0: runtime.learner.weights.remote(0)}
