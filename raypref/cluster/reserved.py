"""The bundles of the placement group that this process is in, as a trial of Ray Tune is: a worker takes its own."""

from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raypref.cluster.placement import Bundle, Role, placement
from raypref.train.experiment import ClusterConfig


class Reserved:
    """Left alone, Ray puts a worker wherever the group has room. Where its bundles are on several nodes, a small worker
    can then take the place of a large one, which waits for ever."""

    def __init__(self, cluster: ClusterConfig) -> None:
        """`cluster`: what the group was made for, by `group_bundles`."""
        self._group = ray.util.get_current_placement_group()
        roles = [bundle.role for bundle in placement(cluster) for _ in range(bundle.least) if bundle.resources()]
        if self._group is not None and self._group.bundle_count != 1 + len(roles):
            self._group = None  # somebody else's
        self._free: dict[Role, list[int]] = {role: [] for role in roles}
        for index, role in enumerate(roles, 1):  # before them is the process itself
            self._free[role].append(index)

    def options(self, bundle: Bundle) -> dict[str, Any]:
        """Of the next worker of a bundle's role, as actors take them; without a group, those of the bundle itself.

        One that takes the place of another finds the only bundle that is free.
        """
        if self._group is None:
            return bundle.options()
        free = self._free.get(bundle.role)
        index = free.pop(0) if free else -1
        # The labels are the group's affair.
        strategy = PlacementGroupSchedulingStrategy(self._group, index)
        return bundle.options() | {"label_selector": None, "scheduling_strategy": strategy}


DRIVER = {"CPU": 0.1}
"""What the loop of a run reserves beside its workers: it waits for them."""

GroupBundle = tuple[dict[str, float], dict[str, str]]
"""Resources, and labels that the node must have."""


def group_bundles(cluster: ClusterConfig, num_threads: int) -> list[GroupBundle]:
    """The placement group of a whole run: its own process first, then a bundle for each worker that it needs."""
    bundles = placement(cluster)
    learner = dict(bundles[0].labels)  # the loop, too, had better not be on a node that may go
    if cluster.runtime == "local":  # one process plays all roles
        memory = bundles[0].memory
        return [({"CPU": float(num_threads), "GPU": cluster.learner_gpus, "memory": float(memory)}, learner)]
    workers = [(each.resources(), dict(each.labels)) for each in bundles for _ in range(each.least) if each.resources()]
    return [(DRIVER, learner), *workers]
