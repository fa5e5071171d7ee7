"""The work that ours and a baseline do in turn: the same prompts, noise, weights and losses on the tiny model."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.clock import Clock
from raypref.config import load_experiment
from raypref.core.weights import Weights
from raypref.methods.base import Method
from raypref.train.build import build_learner, build_sampler, build_scorer
from raypref.train.chunk import Chunk, rollout_chunks
from raypref.train.experiment import Experiment
from raypref.train.learner import Learner
from raypref.train.rollout import ScoreRequest, Scores, Walk
from raypref.train.runtime import LocalScoring
from raypref.train.sampler import SampledRollout, Sampler
from raypref.train.scorer import Scorer

QUICKSTART = Path(__file__).parent.parent / "experiments" / "quickstart.toml"
FROZEN = 1e-30
"""A learning rate that costs what any costs and moves nothing: losses stay comparable between rounds."""
STIR = 0.02


@dataclass(frozen=True)
class Outcome:
    """What an iteration computed: the same from ours and from a baseline, or one of them is wrong."""

    losses: Tensor
    """Of every pair, sorted."""
    seconds: Clock


def plan(method: Method, prompts: int, micro_batch_size: int, reward: str, *overrides: str) -> Experiment:
    """One iteration of a method at 20 steps and guidance 5, as the papers run it; no evaluation."""
    settings = [f"run.prompts_per_iteration={prompts}", f"run.chunk_size={prompts}", "run.lag=0", "evaluate.every=0",
                "evaluate.rewards=[]", "sampling.num_inference_steps=20", "sampling.guidance_scale=5.0",
                "optimizer.lr_scheduler=constant", f"reward.name={reward}", *overrides]  # fmt: skip
    base = load_experiment(QUICKSTART, settings)
    rows = prompts * method.rows_per_prompt()
    optimizer = replace(
        base.optimizer, learning_rate=FROZEN, batch_size=micro_batch_size, micro_batch_size=micro_batch_size
    )
    assert rows % micro_batch_size == 0, f"{rows} rows are no multiple of {micro_batch_size}"
    return replace(base, method=method, optimizer=optimizer)
