"""The roles as Ray actors, behind the verbs of `Runtime`."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import ray
from ray.exceptions import ObjectLostError, RayActorError

from raypref.cluster.connect import connect
from raypref.cluster.pool import MAX_LOSSES, Job, Pool, Silence
from raypref.cluster.whereabouts import Whereabouts
from raypref.cluster.wire import pack, unpack
from raypref.cluster.workers import LearnerWorker, SamplerWorker, ScorerWorker
from raypref.core.search import Search
from raypref.train.chunk import Chunk
from raypref.train.experiment import Experiment
from raypref.train.learner import UpdateReport
from raypref.train.runtime import LearnerLost, Runtime
from raypref.train.scorer import Judgement
from raypref.train.state import LearnerState

logger = logging.getLogger(__name__)

Found = TypeVar("Found")


class RayRuntime(Runtime):
    """Samplers, reward workers and a learner as actors. The driver moves references, not data: rollouts go from
    sampler to learner, weights from learner to samplers, each version once through the object store."""

    def __init__(self, experiment: Experiment) -> None:
        """Starts every worker, and waits until each has loaded its model.

        Raises:
            Silence: where they did not start in time.
        """
        self.experiment = experiment
        self._workers: dict[str, Any] = {}
        self._owns_cluster = connect(experiment)
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        cluster, run = self.experiment.cluster, uuid4().hex[:8]
        # Samplers find reward workers by name: of handles among a constructor's arguments Ray warns that a restart may
        # not find them again.
        self.scorer_names = [f"raypref-{run}-reward-{index}" for index in range(cluster.reward_workers)]
        self.scorers = [
            self._spawn(f"reward worker {index}", ScorerWorker, cluster.reward_gpus, self.experiment, name=name)
            for index, name in enumerate(self.scorer_names)
        ]
        slots = cluster.chunks_in_flight
        self.samplers = [
            self._spawn(
                f"sampler {index}",
                SamplerWorker,
                cluster.sampler_gpus,
                self.experiment,
                self.scorer_names,
                max_concurrency=slots,
            )
            for index in range(cluster.samplers)
        ]
        self.learner = self._spawn("the learner", LearnerWorker, cluster.learner_gpus, self.experiment)
        places = self._await_workers()
        self.pool = Pool(self.samplers, [places[sampler] for sampler in self.samplers], slots, cluster.timeout)
        self._jobs: dict[int, list[Job]] = {}
        self._weights: dict[int, Any] = {}
        self._ask_learner("weights", 0, versions=[0])

    def _spawn(self, role: str, worker: type, gpus: float, *arguments: Any, **options: Any) -> Any:
        threads = str(self.experiment.run.num_threads)
        actor = (
            ray.remote(worker)
            .options(
                num_cpus=self.experiment.cluster.worker_cpus,
                num_gpus=gpus,
                max_restarts=-1,
                runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
                **options,
            )
            .remote(*arguments)
        )
        self._workers[role] = actor
        return actor

    def _await_workers(self) -> dict[Any, Whereabouts]:
        """Waits until every worker has loaded its model, and tells where each is."""
        cluster = self.experiment.cluster
        # A worker that dies while it starts, with its node perhaps, is started again, and so is the question.
        answers = {name: worker.ready.options(max_task_retries=-1).remote() for name, worker in self._workers.items()}
        ready, _ = ray.wait(list(answers.values()), num_returns=len(answers), timeout=cluster.timeout)
        missing = [name for name, answer in answers.items() if answer not in ready]
        if missing:
            raise Silence(
                f"{', '.join(missing)} did not start within {cluster.timeout:g} s (cluster.timeout). The run asks for "
                f"{cluster.total_cpus():g} CPUs and {cluster.total_gpus():g} GPUs; the cluster has "
                f"{ray.cluster_resources()}, of which free: {ray.available_resources()}"
            )
        return {self._workers[name]: ray.get(answer, timeout=cluster.timeout) for name, answer in answers.items()}

    def request(self, iteration: int, chunks: list[Chunk], version: int) -> None:
        self._jobs[iteration] = [Job("rollout", chunk, (self._weights[version],)) for chunk in chunks]
        self.pool.submit(self._jobs[iteration])

    def update(self, iteration: int) -> UpdateReport:
        def learn(rollouts: list[Any]) -> UpdateReport:
            return unpack(self._ask_learner("update", iteration, *rollouts, versions=[iteration + 1]))

        report = self._use_answers(self._jobs.pop(iteration), learn)
        for old in [version for version in self._weights if version < iteration + 1 - self.experiment.run.lag]:
            del self._weights[old]
        return report

    def picture(self, chunks: list[Chunk], version: int, search: Search | None = None) -> list[Judgement]:
        def fetch(judgements: list[Any]) -> list[Judgement]:
            return [unpack(packed) for packed in ray.get(judgements, timeout=self.experiment.cluster.timeout)]

        jobs = [Job("picture", chunk, (self._weights[version], search)) for chunk in chunks]
        self.pool.submit(jobs)
        return self._use_answers(jobs, fetch)

    def _use_answers(self, jobs: list[Job], use: Callable[[list[Any]], Found]) -> Found:
        """What `use` makes of references to the jobs' answers; those that are lost with a node are computed again."""
        for _ in range(MAX_LOSSES):
            try:
                return use(self.pool.wait_jobs(jobs))
            except ObjectLostError as lost:
                logger.warning("answers were lost with the node that held them and are computed again: %s", lost)
            for job in jobs:
                job.result = None
            self.pool.submit(jobs)
        raise LearnerLost("the weights that samplers need are gone")

    def _ask_learner(self, method: str, *arguments: Any, versions: Sequence[int] = ()) -> Any:
        """The learner's answer. Versions of the weights that come with it are kept for the samplers, by reference.

        Raises:
            LearnerLost: where it died, or was silent for cluster.timeout seconds.
        """
        call = getattr(self.learner, method).options(num_returns=1 + len(versions))
        references = call.remote(*arguments)
        answer, *weights = references if versions else [references]
        try:
            value = self.pool.wait_other(answer, "the learner")
        except RayActorError as problem:
            raise LearnerLost(f"the learner died: {problem}") from problem
        except Silence as problem:
            ray.kill(self.learner, no_restart=False)
            raise LearnerLost(str(problem)) from problem
        self._weights |= dict(zip(versions, weights, strict=True))
        return value

    def state(self) -> LearnerState:
        return unpack(self._ask_learner("state"))

    def restore(self, state: LearnerState) -> None:
        self.pool.forget()
        self._jobs.clear()
        self._weights.clear()
        # Asked in vain while a lost learner is on its way back, unless the question may be repeated.
        back = self.learner.ready.options(max_task_retries=-1).remote()
        self.pool.wait_other(back, "the learner, lost and not back")
        self._ask_learner("restore", pack(state), versions=sorted(state.history))

    def roll_back(self, state: LearnerState, version: int) -> None:
        self._ask_learner("roll_back", pack(state), version, versions=[version])

    def export_lora(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._ask_learner("lora_files").items():
            (folder / name).write_bytes(content)

    def close(self) -> None:
        """Ends the workers, and the cluster where this runtime started it."""
        if self._owns_cluster:
            ray.shutdown()
            return
        for worker in self._workers.values():
            ray.kill(worker)
