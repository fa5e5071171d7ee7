"""Where questions get their pictures: the policies of runs, drawn on the runtime that draws for training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from raypref.evaluate.question import Album, Contender, Scene, Studio
from raypref.models.base import ModelConfig
from raypref.progress import warn
from raypref.run import start_runtime
from raypref.train.checkpoint import TrainState
from raypref.train.chunk import picture_chunks
from raypref.train.experiment import Experiment
from raypref.train.runtime import MAX_LOSSES, LearnerLost, Runtime
from raypref.train.scorer import Judgement
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
        prompts: tuple[str, ...] = (),
        start: Callable[[Experiment], Runtime] = start_runtime,
    ) -> None:
        """`experiment` is what pictures are drawn and judged with; only the model is each policy's own. `prompts` are
        all that may be asked for: workers that drop their text encoders must know them from the start."""
        self.experiment, self.contenders = experiment, tuple(policies)
        self._policies, self._prompts, self._start = policies, prompts, start
        self._drawn: dict[tuple[Contender, Scene], Album] = {}
        self._runtime: tuple[ModelConfig, Runtime] | None = None
        self._fresh: LearnerState | None = None

    def albums(self, who: Contender, scenes: Sequence[Scene]) -> list[Album]:
        """See `Studio.albums`."""
        policy, each = self._policies[who], self.experiment.evaluate.images_per_prompt
        for scene in scenes:
            if (who, scene) not in self._drawn:
                way = type(scene.drawing).__name__.lower()
                warn(f"drawing {who.label} ({way}): {len(scene.prompts)} prompts x {each} pictures")
                self._drawn[who, scene] = Album.of(self._draw(policy, scene), each)
        return [self._drawn[who, scene] for scene in scenes]

    def _draw(self, policy: Policy, scene: Scene) -> list[Judgement]:
        losses: list[str] = []
        while True:
            try:
                runtime, version = self._with(policy)
                chunks = picture_chunks(self.experiment, scene.prompts, scene.sources)
                return runtime.picture(chunks, version, scene.drawing)
            except LearnerLost as lost:  # it holds the weights; another is told them again
                losses.append(str(lost))
                if len(losses) == MAX_LOSSES:
                    raise
                warn(f"{lost}; a fresh one takes its place")

    def _with(self, policy: Policy) -> tuple[Runtime, int]:
        """A runtime that draws with a policy's weights, and their version."""
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
        return runtime, max(state.history)

    def close(self) -> None:
        """Lets go of workers and memory."""
        if self._runtime is not None:
            self._runtime[1].close()
            self._runtime = None
