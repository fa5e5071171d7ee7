"""The roles as Ray actors, behind the verbs of `Runtime`."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RuntimeEnvSetupError

from raypref.cluster.connect import connect
from raypref.cluster.crew import Crew
from raypref.cluster.environment import NoEnvironment, delete_environments, in_environment
from raypref.cluster.learner_group import LearnerGroup
from raypref.cluster.metrics import RunMetrics
from raypref.cluster.placement import Role, placement
from raypref.cluster.pool import AnswersLost, Job, Pool, Quarantined
from raypref.cluster.reserved import Reserved
from raypref.cluster.wire import pack, unpack
from raypref.cluster.workers import LearnerWorker, SamplerWorker, ScorerWorker
from raypref.train.attendance import Attendance, Change
from raypref.train.build import claim_threads, reward_environments
from raypref.train.chunk import Chunk
from raypref.train.drawing import Drawing
from raypref.train.experiment import Experiment
from raypref.train.learner import UpdateReport
from raypref.train.runtime import MAX_LOSSES, Runtime
from raypref.train.scorer import Judgement
from raypref.train.state import LearnerState

logger = logging.getLogger(__name__)

Found = TypeVar("Found")


class RayRuntime(Runtime):
    """Samplers, reward workers and a learner as actors. The driver moves references, not data: rollouts go from
    sampler to learner, weights from learner to samplers, each version once through the object store."""

    def __init__(self, experiment: Experiment) -> None:
        """Starts the workers, and waits until those have loaded their models that a run begins with.

        Raises:
            raypref.cluster.pool.Silence: where they did not start in time.
            NobodyLeft, LearnerLost: where samplers or learners were lost again and again while they started.
            NoEnvironment: where that of a reward cannot be built.
        """
        self.experiment = experiment
        self.scorers: list[Any] = []
        self._prefix, self._numbers = f"{experiment.run.name}-{uuid4().hex[:8]}", count()
        claim_threads(experiment)  # the driver sums too, over held-out pictures
        self._own_cluster = connect(experiment)
        self._metrics = RunMetrics(experiment)
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        cluster = self.experiment.cluster
        self._bundles = {bundle.role: bundle for bundle in placement(cluster)}
        self._reserved = Reserved(cluster)
        samplers = self._bundles["sampler"]
        self.crew = Crew(self._spawn_sampler, samplers.least, samplers.most, cluster.timeout, cluster.idle_timeout)
        self.crew.newest_weights = lambda: self._weights[max(self._weights)] if self._weights else None
        self.pool = Pool(self.crew, cluster.chunks_in_flight, cluster.timeout, self.experiment.scoring_timeout())
        self._jobs: dict[int, list[Job]] = {}
        self._weights: dict[int, Any] = {}
        self._averages = False
        """Whether the newest version's moving average is deployed in its place."""
        self._average: Any = None
        """A reference to it, once it is asked for."""
        self.learner = LearnerGroup(self._spawn_rank, cluster.learner_ranks, self.pool)
        # Samplers find reward workers by name: of handles among a constructor's arguments Ray warns that a restart may
        # not find them again.
        self.scorer_names = [self._name("reward worker") for _ in range(cluster.reward_workers)]
        environment = in_environment(reward_environments(self.experiment).values(), cluster.timeout)
        for name in self.scorer_names:
            options = {"name": name, "max_restarts": -1, **environment}
            self.scorers.append(self._spawn(ScorerWorker, "reward worker", self.experiment, **options))
        # In a cluster that was started here the others would only keep the first from starting: they are asked for
        # when chunks wait.
        self.crew.ask(samplers.least if self._own_cluster else samplers.most)
        try:
            for scorer in self.scorers:
                answer = scorer.ready.options(max_task_retries=-1).remote()
                place = self.pool.wait_other(answer, "a reward worker's start")
                self.crew.register.note(Change("joined", "reward worker", str(place), "it has loaded its model"))
        except RuntimeEnvSetupError as problem:
            raise NoEnvironment(str(problem)) from None
        self.learner.wait_ready()
        self.pool.wait_ready()

    def _spawn_sampler(self) -> Any:
        slots = self.experiment.cluster.chunks_in_flight
        return self._spawn(SamplerWorker, "sampler", self.experiment, self.scorer_names, max_concurrency=slots)

    def _spawn_rank(self) -> Any:
        # Of several ranks the driver asks what they are at while they are at it.
        options: dict[str, Any] = {"max_concurrency": 2} if self.experiment.cluster.learner_ranks > 1 else {}
        return self._spawn(LearnerWorker, "learner", self.experiment, **options)

    def _spawn(self, worker: type, role: Role, *arguments: Any, name: str = "", **options: Any) -> Any:
        """Starts a worker where its bundle has, or will have, a place."""
        # No runtime_env unless it must be: a worker with one cannot take a process that Ray has started in advance.
        bundle = self._bundles[role]
        options |= {"name": name or self._name(role)} | self._reserved.options(bundle)
        actor = ray.remote(worker).options(**options).remote(*arguments)
        self.crew.places.watch(actor, bundle)
        return actor

    def _name(self, role: Role) -> str:
        """An actor's name in Ray's dashboard and tools; no two are alike."""
        return f"{self._prefix}-{role.removesuffix(' worker')}-{next(self._numbers)}"

    def request(self, iteration: int, chunks: list[Chunk], version: int) -> None:
        self._jobs[iteration] = [Job("rollout", chunk, (self._weights[version],)) for chunk in chunks]
        self.pool.submit(self._jobs[iteration])

    def update(self, iteration: int) -> UpdateReport:
        def learn(rollouts: list[Any]) -> UpdateReport:
            self._ask_learner("hold", *rollouts)
            return unpack(self._ask_learner("update", iteration, versions=[iteration + 1]))

        report = self._use_answers(self._jobs.pop(iteration), learn)
        register = self.crew.register
        nodes = Counter(seat.whereabouts.node for seat in self.crew.at_work() if seat.whereabouts)
        self._metrics.updated(iteration, report, register.samplers(), self.pool.queued(), register.lost, nodes)
        for old in [version for version in self._weights if version < iteration + 1 - self.experiment.run.lag]:
            del self._weights[old]
        return report

    def pictures(self, chunks: list[Chunk], drawing: Drawing | None = None) -> Iterator[Judgement]:
        def fetch(judgements: list[Any]) -> Judgement:
            try:
                return unpack(ray.get(judgements[0], timeout=self.experiment.cluster.timeout))
            except (ObjectLostError, GetTimeoutError) as problem:
                raise AnswersLost(str(problem)) from None

        weights = self._deployed()
        jobs = deque(Job("picture", chunk, (weights, drawing)) for chunk in chunks)
        self.pool.submit(list(jobs))
        while jobs:  # while one is waited for, the pool goes on with the others; what is handed on is let go of here
            yield self._use_answers([jobs.popleft()], fetch)

    def _deployed(self) -> Any:
        """A reference to what `Learner.deployed` is."""
        newest = max(self._weights)
        if self._averages and self._average is None:
            self._average = self.learner.ask("deployed", versions=[newest])[1][newest]
        return self._average if self._averages else self._weights[newest]

    def _use_answers(self, jobs: list[Job], use: Callable[[list[Any]], Found]) -> Found:
        """What `use` makes of references to the jobs' answers; those that are lost with a node are computed again."""
        losses: list[str] = []
        while len(losses) < MAX_LOSSES:
            try:
                return use(self.pool.wait_jobs(jobs))
            except AnswersLost as lost:
                losses.append(str(lost))
                logger.warning("answers were lost with the node that held them and are computed again: %s", lost)
            self.pool.again(jobs)
        raise Quarantined(f"the answers to {jobs[0].chunk.name} and others were lost again and again: {losses}")

    def _ask_learner(self, method: str, *arguments: Any, versions: Sequence[int] = ()) -> Any:
        """The learner's answer. Versions of the weights that come with it are kept for the samplers, by reference."""
        value, weights = self.learner.ask(method, *arguments, versions=versions)
        self._weights |= weights
        if versions:
            self._average = None
        return value

    def state(self) -> LearnerState:
        return unpack(self._ask_learner("state"))

    def restore(self, state: LearnerState | None) -> None:
        self.pool.forget()
        self._jobs.clear()
        self._weights.clear()
        if self.learner.lost:
            self.learner.restart()
        if state is None:
            self._averages = self._ask_learner("weights", 0, versions=[0])
        else:
            self._averages = self._ask_learner("restore", ray.put(pack(state)), versions=sorted(state.history))

    def roll_back(self, state: LearnerState, version: int) -> None:
        self._ask_learner("roll_back", ray.put(pack(state)), version, versions=[version])

    def attendance(self) -> Attendance:
        return self.crew.register.take()

    def export(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._ask_learner("exported_files").items():
            (folder / name).write_bytes(content)

    def close(self) -> None:
        """Ends the workers, and the cluster where this runtime started it."""
        if self._own_cluster is not None:
            ray.shutdown()
            delete_environments(self._own_cluster)
            return
        for scorer in self.scorers:
            ray.kill(scorer)
        if hasattr(self, "learner"):
            self.learner.close()
            self.pool.close()
            self._jobs.clear()
            self._weights.clear()
