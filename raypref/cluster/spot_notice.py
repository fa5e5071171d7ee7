"""Tells Ray when the cloud is about to take this node away: `python -m raypref.cluster.spot_notice aws`.

A spot node learns of its end two minutes (AWS) or half a minute (GCP) before, from an address that only it can ask.
This program asks there, and has Ray drain the node: nothing new is placed on it, and a run gives its samplers no new
chunk. `ray up` knows nothing of such notices, so cluster.yaml starts it beside Ray on every spot node; on Kubernetes
the pod's SIGTERM does the same.

Sources: the AWS guide for spot instances ("spot/instance-action", instance metadata service version 2), and Google's
for compute instances ("instance/preempted").
"""

import argparse
import json
import logging
import subprocess
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
DRAIN_SECONDS = 60.0
UNREADABLE = (OSError, HTTPException, LookupError, ValueError)
"""What a question ends with that is not answered, or not as it should be."""


class Cloud(ABC):
    """Where a cloud announces the end of a node."""

    @abstractmethod
    def seconds_left(self) -> float | None:
        """Seconds until this node goes; None as long as nothing is announced.

        Raises:
            OSError: where the cloud does not answer.
        """


@dataclass(frozen=True)
class AWS(Cloud):
    """EC2. Without a session's token the metadata service answers nothing where version 1 is switched off."""

    host: str = "http://169.254.169.254"

    def seconds_left(self) -> float | None:
        token = _ask(f"{self.host}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
        session = {"X-aws-ec2-metadata-token": token}
        try:
            notice = json.loads(_ask(f"{self.host}/latest/meta-data/spot/instance-action", session))
        except urllib.error.HTTPError as problem:
            if problem.code == 404:  # nothing announced
                return None
            raise
        return max(0.0, (datetime.fromisoformat(notice["time"]) - datetime.now(UTC)).total_seconds())


@dataclass(frozen=True)
class GCP(Cloud):
    """Compute Engine, which says that the node goes, not when."""

    host: str = "http://metadata.google.internal"
    notice: float = 30.0

    def seconds_left(self) -> float | None:
        address = f"{self.host}/computeMetadata/v1/instance/preempted"
        return self.notice if _ask(address, {"Metadata-Flavor": "Google"}) == "TRUE" else None


CLOUDS: dict[str, type[AWS] | type[GCP]] = {"aws": AWS, "gcp": GCP}


def watch(cloud: Cloud, drain: Callable[[float], None], every: float) -> None:
    """Asks every few seconds, and returns once the end of the node was announced and Ray has been told. What fails is
    tried again: nobody else would tell."""
    while True:
        try:
            seconds = cloud.seconds_left()
        except UNREADABLE as problem:
            logger.warning("no answer from the metadata service: %r", problem)
            seconds = None
        if seconds is not None and _told(drain, seconds):
            return
        time.sleep(every)


def _told(drain: Callable[[float], None], seconds: float) -> bool:
    try:
        drain(seconds)
    except (OSError, subprocess.SubprocessError) as problem:
        logger.warning("this node goes in %.0f s, and Ray could not be told: %s", seconds, problem)
        return False
    logger.info("this node goes in %.0f s; Ray has been told", seconds)
    return True


def drain_this_node(seconds: float) -> None:
    """Has Ray place nothing new here; what runs here goes on until the node is gone."""
    command = ["ray", "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "the cloud takes this spot node away"]
    command += ["--deadline-remaining-seconds", str(int(seconds))]
    subprocess.run(command, check=True, timeout=DRAIN_SECONDS)


def _ask(address: str, headers: Mapping[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(address, headers=dict(headers), method=method)
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
        return answer.read().decode().strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cloud", choices=CLOUDS)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two questions")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    watch(CLOUDS[chosen.cloud](), drain_this_node, chosen.every)


if __name__ == "__main__":
    main()
