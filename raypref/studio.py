"""Where questions get their pictures: the policies of runs, drawn on the runtime that draws for training."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from raypref.evaluate.question import Album, Contender, Scene, Studio
from raypref.kept import Kept, fingerprints
from raypref.models.base import ModelConfig
from raypref.progress import warn
from raypref.run import start_runtime
from raypref.run_directory import package_versions
from raypref.train.checkpoint import TrainState
from raypref.train.chunk import picture_chunks
from raypref.train.experiment import Experiment
from raypref.train.runtime import MAX_LOSSES, LearnerLost, Runtime
from raypref.train.state import LearnerState


@dataclass(frozen=True)
class Policy:
    """What a contender is: weights on a model."""

    model: ModelConfig
    state: TrainState | None
    """None: as the model comes."""


class RuntimeStudio(Studio):
    """A studio that keeps one runtime at a time: that of the model asked for last. Chunks are drawn by whichever
    sampler is free, and drawn again where one is lost, as in training."""

    def __init__(
        self,
        experiment: Experiment,
        policies: dict[Contender, Policy],
        folder: Path,
        prompts: tuple[str, ...] = (),
        start: Callable[[Experiment], Runtime] = start_runtime,
    ) -> None:
        """`experiment` is what pictures are drawn and judged with; only the model is each policy's own. What is
        drawn is kept in `folder`. `prompts` are all that may be asked for: workers that drop their text encoders must
        know them from the start."""
        self.experiment, self.contenders = experiment, tuple(policies)
        self._policies, self._prompts, self._start = policies, prompts, start
        self._kept = Kept(folder)
        self._runtime: tuple[ModelConfig, Runtime] | None = None
        self._fresh: LearnerState | None = None

    def albums(self, who: Contender, scenes: Sequence[Scene]) -> list[Album]:
        """See `Studio.albums`."""
        return [self._album(who, scene) for scene in scenes]

    def _album(self, who: Contender, scene: Scene) -> Album:
        chunks = picture_chunks(self.experiment, scene.prompts, scene.sources)
        shelf = self._kept.shelf(self._made_with(self._policies[who], scene))
        losses: list[str] = []
        while lacking := [place for place in range(len(chunks)) if self._kept.lacks(shelf, place, scene.pictures)]:
            way = type(scene.drawing).__name__.lower()
            warn(f"drawing {who.label} ({way}): {len(lacking)} of {len(chunks)} chunks")
            try:
                runtime = self._with(self._policies[who])
                drawn = runtime.pictures([chunks[place] for place in lacking], scene.drawing)
                for place, judgement in zip(lacking, drawn, strict=True):
                    self._kept.put(shelf, place, judgement, scene.pictures)
            except LearnerLost as lost:  # it holds the weights; another is told them again
                losses.append(str(lost))
                if len(losses) == MAX_LOSSES:
                    raise
                warn(f"{lost}; a fresh one takes its place")
        told = self._kept.chunks(shelf, [chunk.prompts for chunk in chunks], scene.pictures)
        return Album.of(scene, self.experiment.evaluate.images_per_prompt, told)

    def _made_with(self, policy: Policy, scene: Scene) -> dict[str, Any]:
        """Everything that a policy's pictures of a scene, and their scores, depend on; workers are not part of it."""
        experiment, run = self.experiment, self.experiment.run
        judges = (experiment.reward.name, *experiment.reward.also, *experiment.evaluate.rewards,
                  *(reward.name for reward in experiment.watched))  # fmt: skip
        model, rewards = asdict(policy.model), {name: experiment.settings_of(name) for name in judges}
        return {
            "policy": policy.state.learner.deployed() if policy.state else "as the model comes",
            "model": model,
            "sampling": asdict(experiment.sampling),
            "drawing": [type(scene.drawing).__name__, asdict(scene.drawing)],  # type: ignore[call-overload]
            "rewards": rewards,
            "seed": run.seed,
            "images_per_prompt": experiment.evaluate.images_per_prompt,
            "chunk_size": run.chunk_size * experiment.method.latents_at_once(),
            "num_threads": run.num_threads,
            "files": fingerprints([model, rewards]),
            "versions": package_versions(),
            "prompts": scene.prompts,
            "sources": [hashlib.blake2b(source, digest_size=12).hexdigest() for source in scene.sources],
        }

    def _with(self, policy: Policy) -> Runtime:
        """A runtime that draws with a policy's weights."""
        if self._runtime is None or self._runtime[0] != policy.model:
            self.close()
            known = tuple(dict.fromkeys((*self.experiment.heldout_prompts, *self._prompts)))
            runtime = self._start(replace(self.experiment, model=policy.model, heldout_prompts=known))
            self._runtime = (policy.model, runtime)
            runtime.restore(None)
            self._fresh = runtime.state()
        runtime = self._runtime[1]
        state = self._fresh if policy.state is None else policy.state.learner
        assert state is not None, "kept when the runtime was started"
        runtime.restore(state)
        return runtime

    def close(self) -> None:
        """Lets go of workers and memory."""
        if self._runtime is not None:
            self._runtime[1].close()
            self._runtime = None
