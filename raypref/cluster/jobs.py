"""Jobs of a Ray cluster, through the address of its dashboard."""

import asyncio
import os
import re
import shlex
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from raypref.cluster.connect import said
from raypref.train.stopped import StoppedRun

STOP_SECONDS = 120
"""Seconds from the request to end a job to the end by force. Ray's own 3 are for programs that have nothing to save."""
RECONNECT_SECONDS = 5.0
MAX_RECONNECTS = 60
LOST = (ClientError, AuthenticationError, RuntimeError, OSError)
"""What a request or a stream ends with, when the server cannot be reached or refuses."""


TOKEN_ADVICE = (
    "Set RAY_AUTH_MODE=token; that is enough where ~/.ray/auth_token holds the cluster's token, as on its head. "
    "Elsewhere set RAY_AUTH_TOKEN_PATH=FILE (or RAY_AUTH_TOKEN) too; on the head, `ray get-auth-token` prints it"
)


class JobServerError(StoppedRun):
    """The cluster's job server cannot be reached, or refuses."""


@dataclass(frozen=True)
class Job:
    """A command that a cluster runs on its head."""

    name: str
    """What its id begins with."""
    command: tuple[str, ...]
    folder: Path
    """A copy of it is the job's working folder, and that of its workers."""
    packages: tuple[Path, ...] = ()
    """Folders of Python packages that travel along, and go before those that the cluster has."""
    metadata: dict[str, str] = field(default_factory=dict)
    """What the dashboard shows beside it."""

    def runtime_env(self) -> dict[str, Any]:
        """How Ray is told."""
        told = {"working_dir": str(self.folder), "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}}
        modules = [str(package) for package in self.packages]
        return told | ({"py_modules": modules} if modules else {})  # Ray cannot make an environment of none


class JobServer:
    """The job server of one cluster."""

    def __init__(self, address: str) -> None:
        """Connects to an address such as http://127.0.0.1:8265.

        Raises:
            JobServerError: where it does not answer, or wants a token.
        """
        if "://" not in address:  # Ray would take it for the address that drivers go to, and wait
            raise JobServerError(f"{address}: write the dashboard's address as a URL, such as http://127.0.0.1:8265")
        self.address = address
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray prefers what it finds there, and in RAY_ADDRESS
        try:
            self.client = JobSubmissionClient(address)
        except AuthenticationError as problem:
            reason = said(problem.message.splitlines()[0])
            raise JobServerError(f"{address} wants a token: {reason}. {TOKEN_ADVICE}") from problem
        except (RuntimeError, ValueError, OSError) as problem:
            raise JobServerError(
                f"{address} is not the address of a Ray dashboard: {said(problem)}. Name that of the head's port 8265; "
                "where only the head itself may use it, `ray dashboard cluster.yaml` or `ssh -L 8265:localhost:8265 "
                "HEAD` brings it here"
            ) from problem

    def submit(self, job: Job) -> str:
        """Sends a job; its id.

        Raises:
            JobServerError: where it is refused.
        """
        try:
            return self.client.submit_job(
                entrypoint=shlex.join(job.command),
                submission_id=f"{re.sub(r'[^A-Za-z0-9_.-]', '-', job.name)}-{uuid4().hex[:6]}",
                runtime_env=job.runtime_env(),
                metadata=job.metadata,
            )
        except LOST as problem:
            raise JobServerError(f"the job server at {self.address} refused the job: {said(problem)}") from problem

    def follow(self, name: str, write: Callable[[str], object]) -> int:
        """Passes a job's output on to `write` as it grows, until the job ends. A connection that breaks is taken up
        again where it was.

        Returns:
            The job's exit code: that of its command; 143 (SIGTERM) where somebody stopped it; 1 where it never began,
            after `write` was told why.

        Raises:
            JobServerError: where the cluster does not answer any more. The job may go on all the same.
        """
        output, failures = Output(write), 0
        while True:
            try:
                asyncio.run(self._tail(name, output))
                info, failures = self.client.get_job_info(name), 0
                if info.status.is_terminal():
                    return _exit_code(info, write)
            except LOST as problem:
                failures += 1
                if failures == MAX_RECONNECTS:
                    raise JobServerError(
                        f"the job server at {self.address} does not answer: {said(problem)}"
                    ) from problem
            time.sleep(RECONNECT_SECONDS)

    async def _tail(self, name: str, output: "Output") -> None:
        output.from_the_beginning()
        async for text in self.client.tail_job_logs(name):
            output.add(text)


class Output:
    """Text that every connection tells from the beginning, passed on once."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self.write = write
        self._passed = self._told = 0

    def from_the_beginning(self) -> None:
        """What comes next has been told before."""
        self._told = 0

    def add(self, text: str) -> None:
        """Passes on what is new of it."""
        known = max(0, self._passed - self._told)
        self.write(text[known:])
        self._told += len(text)
        self._passed = max(self._passed, self._told)


def _exit_code(info: JobDetails, write: Callable[[str], object]) -> int:
    if info.status == JobStatus.STOPPED:
        return 128 + signal.SIGTERM
    if info.driver_exit_code is None:
        write(f"{info.message}\n")
        return 1
    return info.driver_exit_code
