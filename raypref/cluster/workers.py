"""The three roles as actors: plain classes that pack and unpack; `ray.remote` is applied where they are spawned."""

import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from raypref.cluster.own_scoring import OwnScoring
from raypref.cluster.process_group import Meeting, ProcessGroup
from raypref.cluster.remote_scoring import RemoteScoring
from raypref.cluster.whereabouts import Whereabouts
from raypref.cluster.wire import borrow, pack, unpack
from raypref.train.attendance import Change
from raypref.train.build import build_learner, build_sampler, build_scorer
from raypref.train.chunk import Chunk
from raypref.train.drawing import Drawing
from raypref.train.experiment import Experiment
from raypref.train.ranks import Ranks, join
from raypref.train.sampler import SampledRollout
from raypref.train.scorer import Scorer
from raypref.train.state import learner_state, restore_learner, roll_back

Packed = Any


class ScorerWorker:
    """A reward worker: decodes and scores. Stateless, so a lost call is simply made again."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment

    def __repr__(self) -> str:
        return f"reward worker of {self.experiment.run.name}"

    @cached_property
    def scorer(self) -> Scorer:
        """Loaded by the first call: Ray never restarts an actor whose constructor has raised, not even once."""
        return build_scorer(self.experiment)

    def ready(self) -> Whereabouts:
        assert self.scorer
        return Whereabouts.own()

    def score(self, request: Packed) -> Packed:
        return pack(self.scorer.score(unpack(request)))

    def judge(self, request: Packed) -> Packed:
        return pack(self.scorer.judge(unpack(request)))


class SamplerWorker:
    """A sampler. Every job returns (result, receipt): the result goes to whoever needs it; the receipt, a list of what
    became of reward workers meanwhile, tells the driver that it is there without pulling it over."""

    def __init__(self, experiment: Experiment, scorers: list[str]) -> None:
        """`scorers`: the names of reward workers; where there are none, it scores what it draws itself."""
        self.scoring = RemoteScoring(scorers, experiment.scoring_timeout()) if scorers else OwnScoring(experiment)
        self.sampler, self.run = build_sampler(experiment, self.scoring), experiment.run.name

    def __repr__(self) -> str:
        return f"sampler of {self.run}"

    def ready(self) -> Whereabouts:
        """With rewards of its own loaded: what a constructor raises does not reach the driver as what it is."""
        self.scoring.load()
        return Whereabouts.own()

    def prove(self, weights: Packed) -> None:
        """Raises WeightsError where this sampler would predict otherwise than the learner."""
        self.sampler.prove(borrow(weights))

    def rollout(self, chunk: Chunk, weights: Packed) -> tuple[Packed, list[Change]]:
        return pack(self.sampler.rollout(chunk, borrow(weights))), self.scoring.incidents()

    def picture(self, chunk: Chunk, weights: Packed, drawing: Drawing | None) -> tuple[Packed, list[Change]]:
        return pack(self.sampler.picture(chunk, borrow(weights), drawing)), self.scoring.incidents()


class LearnerWorker:
    """The learner, or one of its ranks. What changes the policy returns (answer, weights...), so that a version of the
    weights leaves the worker with the call that made it, and stays when the worker is lost."""

    group: ProcessGroup | None = None
    """None: it is alone."""
    _held: Sequence[SampledRollout] = ()

    def __init__(self, experiment: Experiment) -> None:
        self.learner = build_learner(experiment)

    def __repr__(self) -> str:
        return f"learner of {self.learner.experiment.run.name}"

    def ready(self) -> Whereabouts:
        return Whereabouts.own()

    def invite(self) -> Meeting:
        self.group = self._new_group()
        return self.group.invite()

    def join(self, rank: int, ranks: int, meeting: Meeting) -> None:
        """Becomes one of several ranks.

        Raises:
            RanksDiffer: where it is not the first's equal.
        """
        self.group = self.group or self._new_group()
        self.group.join(rank, ranks, meeting)
        join(self.learner, Ranks(rank, ranks, self.group.gather))

    def _new_group(self) -> ProcessGroup:
        cluster = self.learner.experiment.cluster
        return ProcessGroup(2 * cluster.timeout, own_gpu=cluster.learner_gpus >= 1)

    def is_waiting(self) -> bool:
        """Whether it waits for other ranks; asked while it is at something."""
        return self.group is not None and self.group.waiting

    def follow(self, method: str, *arguments: Any) -> None:
        """Does as the first rank does, which answers."""
        getattr(self, method)(*arguments)

    def weights(self, *versions: int) -> tuple[Any, ...]:
        """Whether the newest one's moving average is deployed in its place; and the weights."""
        return self.learner.average is not None, *(pack(self.learner.weights(version)) for version in versions)

    def deployed(self) -> tuple[None, Packed]:
        return None, pack(self.learner.deployed())

    def hold(self, *sampled: Packed) -> None:
        """Takes an iteration's rollouts. Where they are lost on the way to one rank, no other has begun to train."""
        self._held = [unpack(part) for part in sampled]

    def update(self, iteration: int) -> tuple[Packed, Packed]:
        sampled, self._held = list(self._held), ()
        report = self.learner.update(iteration, sampled)
        return pack(report), pack(self.learner.weights(iteration + 1))

    def state(self) -> Packed:
        return pack(learner_state(self.learner))

    def restore(self, state: Packed) -> tuple[Any, ...]:
        restore_learner(self.learner, unpack(state))
        return self.weights(*sorted(self.learner.history))

    def roll_back(self, state: Packed, version: int) -> tuple[Any, ...]:
        roll_back(self.learner, unpack(state), version)
        return self.weights(version)

    def exported_files(self) -> dict[str, bytes]:
        """The exported policy by file name: the driver's disk may be another machine's."""
        with tempfile.TemporaryDirectory() as folder:
            self.learner.export(Path(folder))
            return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
