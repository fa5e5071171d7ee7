"""Every method, found by its name, trains on Ray to the same bits as without."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from raypref import methods
from raypref.cluster.runtime import RayRuntime
from raypref.methods.base import Method
from raypref.methods.regression import RegressionMethod
from raypref.registry import named_classes
from raypref.train.experiment import Experiment
from raypref.train.loop import train
from raypref.train.runtime import LocalRuntime, Runtime
from tests.cluster.conftest import LIVE
from tests.conftest import MakeExperiment
from tests.recording import Recording
from tests.smallest import smallest_experiment

METHODS = named_classes(methods, Method)


pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore:psi_sign")]


def one_of_each_kind() -> list[Any]:
    """The names; those slow that send the same from worker to worker as one before: their loss is the learner's own."""
    found, seen = [], set()
    for name, method in sorted((name, kind()) for name, kind in METHODS.items()):
        if isinstance(method, RegressionMethod):
            kind: object = method.own
        else:
            search = method.search
            kind = (method.arms, search.shape, search.follow, search.keep_mean, search.guidance.kind)
        found.append(pytest.param(name, marks=[pytest.mark.slow] if kind in seen else []))
        seen.add(kind)
    return found


@pytest.mark.parametrize("name", one_of_each_kind())
def test_it_trains_to_the_same_bits_as_without_ray(
    on_ray: Callable[[Experiment], RayRuntime], make_experiment: MakeExperiment, name: str
):
    plan = smallest_experiment(make_experiment, METHODS[name](), cluster=LIVE)
    plan = replace(plan, run=replace(plan.run, iterations=1))
    checksums = []
    runtimes: tuple[Runtime, ...] = (LocalRuntime(plan), on_ray(plan))
    for each in runtimes:
        seen = Recording()
        train(plan, each, seen)
        assert seen.reports[0].pairs > 0
        checksums.append(seen.final_checksum())
    assert checksums[0] == checksums[1]
