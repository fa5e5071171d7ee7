"""The roles as Ray actors, behind the verbs of `Runtime`."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import GetTimeoutError

from raypref.cluster.connect import connect
from raypref.cluster.pool import Job, Pool
from raypref.cluster.wire import pack, unpack
from raypref.cluster.workers import LearnerWorker, SamplerWorker, ScorerWorker
from raypref.core.search import Search
from raypref.train.chunk import Chunk
from raypref.train.experiment import Experiment
from raypref.train.learner import UpdateReport
from raypref.train.runtime import Runtime
from raypref.train.scorer import Judgement
from raypref.train.state import LearnerState


class RayRuntime(Runtime):
    """Samplers, reward workers and a learner as actors. The driver moves references, not data: rollouts go from
    sampler to learner, weights from learner to samplers, each version once through the object store."""

    def __init__(self, experiment: Experiment) -> None:
        """Starts every worker, and waits until each has loaded its model.

        Raises:
            TimeoutError: where they did not start in time.
        """
        self.experiment = experiment
        self._workers: list[Any] = []
        self._owns_cluster = connect(experiment)
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        cluster = self.experiment.cluster
        # Samplers find reward workers by name: of handles among a constructor's arguments Ray warns that a restart may
        # not find them again.
        self.scorer_names = [f"reward-{index}-{uuid4().hex[:8]}" for index in range(cluster.reward_workers)]
        self.scorers = [
            self._spawn(
                ScorerWorker, cluster.reward_gpus, self.experiment, name=name, max_restarts=-1, max_task_retries=2
            )
            for name in self.scorer_names
        ]
        slots = cluster.chunks_in_flight
        self.samplers = [
            self._spawn(
                SamplerWorker,
                cluster.sampler_gpus,
                self.experiment,
                self.scorer_names,
                max_restarts=-1,
                max_concurrency=slots,
            )
            for _ in range(cluster.samplers)
        ]
        self.learner = self._spawn(LearnerWorker, cluster.learner_gpus, self.experiment)
        self._await_workers()
        self.pool = Pool(self.samplers, slots, cluster.timeout)
        self._jobs: dict[int, list[Job]] = {}
        self._weights: dict[int, Any] = {0: self.learner.weights.remote(0)}

    def _spawn(self, worker: type, gpus: float, *arguments: Any, **options: Any) -> Any:
        threads = str(self.experiment.run.num_threads)
        actor = (
            ray.remote(worker)
            .options(
                num_cpus=self.experiment.cluster.worker_cpus,
                num_gpus=gpus,
                runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
                **options,
            )
            .remote(*arguments)
        )
        self._workers.append(actor)
        return actor

    def _await_workers(self) -> None:
        """Waits until every worker has loaded its model.

        Raises:
            TimeoutError: with what the run asks for and what the cluster has.
        """
        cluster = self.experiment.cluster
        try:
            ray.get(
                [worker.ready.remote() for worker in self._workers],
                timeout=cluster.timeout,
            )
        except GetTimeoutError:
            raise TimeoutError(
                f"not all workers started within {cluster.timeout:g} s (cluster.timeout). The run asks "
                f"for {cluster.total_cpus():g} CPUs and {cluster.total_gpus():g} GPUs; the cluster has "
                f"{ray.cluster_resources()}, of which free: {ray.available_resources()}"
            ) from None

    def request(self, iteration: int, chunks: list[Chunk], version: int) -> None:
        self._jobs[iteration] = [Job("rollout", chunk, (self._weights[version],)) for chunk in chunks]
        self.pool.submit(self._jobs[iteration])

    def update(self, iteration: int) -> UpdateReport:
        rollouts = self.pool.wait_jobs(self._jobs.pop(iteration))
        report = unpack(self.pool.wait_other(self.learner.update.remote(iteration, *rollouts), "the learner"))
        self._weights[iteration + 1] = self.learner.weights.remote(iteration + 1)
        for old in [version for version in self._weights if version < iteration + 1 - self.experiment.run.lag]:
            del self._weights[old]
        return report

    def picture(self, chunks: list[Chunk], version: int, search: Search | None = None) -> list[Judgement]:
        jobs = [Job("picture", chunk, (self._weights[version], search)) for chunk in chunks]
        self.pool.submit(jobs)
        return [unpack(packed) for packed in ray.get(self.pool.wait_jobs(jobs))]

    def state(self) -> LearnerState:
        return unpack(self.pool.wait_other(self.learner.state.remote(), "the learner"))

    def restore(self, state: LearnerState) -> None:
        self.pool.wait_other(self.learner.restore.remote(pack(state)), "the learner")
        self._weights = {version: self.learner.weights.remote(version) for version in state.history}

    def roll_back(self, state: LearnerState, version: int) -> None:
        self.pool.wait_other(self.learner.roll_back.remote(pack(state), version), "the learner")
        self._weights[version] = self.learner.weights.remote(version)

    def export_lora(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.pool.wait_other(self.learner.lora_files.remote(), "the learner").items():
            (folder / name).write_bytes(content)

    def close(self) -> None:
        """Ends the workers, and the cluster where this runtime started it."""
        if self._owns_cluster:
            ray.shutdown()
            return
        for worker in self._workers:
            ray.kill(worker)
