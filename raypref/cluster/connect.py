"""Joining a Ray cluster, or starting one on this machine."""

import math
import os
import signal
import threading
from pathlib import Path
from typing import Any

import ray

from raypref.cluster.placement import placement, total
from raypref.train.experiment import Experiment
from raypref.train.stopped import StoppedRun


class NoCluster(StoppedRun):
    """Ray could not be started, or joined."""


def connect(experiment: Experiment, cpus: float = 0.0) -> Path | None:
    """Joins the cluster that cluster.address names, or starts one here: then the folder of its session.

    A cluster started here offers enough CPU slots for every worker (for `cpus`, where that is more), however few cores
    there are: a laptop is slow, not stuck.

    Raises:
        NoCluster: where Ray does not come up, or does not answer.
    """
    if ray.is_initialized():
        return None
    address = experiment.cluster.address
    if address == "local":
        address = os.environ.get("RAY_ADDRESS", "local")  # set inside a job
    if address != "local":
        _init(address=address)
        return None
    cpus = max(cpus, total(placement(experiment.cluster), "CPU", most=True))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray will do by default; unset, it warns
    started = _init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, math.ceil(cpus)),
        include_dashboard=False,
    )
    return Path(started.address_info["session_dir"])


def said(problem: object) -> str:
    """What Ray says, without its full stops, of which it may write two."""
    return str(problem).rstrip(". \n")


def _init(address: str, **settings: Any) -> Any:
    """Ray takes SIGTERM for itself, in Python and below; whoever handled it before does so again afterwards."""
    handler = signal.getsignal(signal.SIGTERM)
    ours = callable(handler) and threading.current_thread() is threading.main_thread()
    try:
        return ray.init(address=address, log_to_driver=False, logging_level="ERROR", **settings)
    except SystemExit as ended:
        if ours and ended.code == signal.SIGTERM:  # it came meanwhile, and this is what Ray makes of it
            handler(signal.SIGTERM, None)  # type: ignore[operator, misc]
        raise
    except Exception as problem:  # Ray has no class of its own for a start that fails
        raise NoCluster(
            f"Ray ({address}) is not there: {said(problem)}; try again when this machine is less busy, check "
            "cluster.address, or run without Ray: cluster.runtime=local"
        ) from problem
    finally:
        if ours:
            signal.signal(signal.SIGTERM, handler)
