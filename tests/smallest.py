"""The smallest run that a method can make on the random model."""

import json
from dataclasses import replace
from pathlib import Path

from raypref.data.preference_source import DataConfig
from raypref.methods.base import Method, StepMethod
from raypref.methods.regression import RegressionMethod
from raypref.methods.spo import SPO
from raypref.train.experiment import (
    CheckpointConfig,
    EvaluateConfig,
    Experiment,
    OptimizerConfig,
    RunConfig,
    SamplingConfig,
)
from tests.conftest import MakeExperiment
from tests.labelled import labelled_set


def smallest_experiment(make: MakeExperiment, method: Method, **sections: object) -> Experiment:
    """Two iterations of one prompt, four sampling steps of which two are trained on; or of two labelled rows."""
    if isinstance(method, RegressionMethod):
        return smallest_regression(make, method, **sections)
    assert isinstance(method, StepMethod)
    if isinstance(method, SPO):
        method = replace(method, threshold=0.0)  # colourfulness is no logit
    method = replace(method, search=replace(method.search, steps=(0, 2)))
    rows = method.rows_per_prompt()
    return make(
        method,
        **{
            "run": RunConfig(iterations=2, prompts_per_iteration=1, chunk_size=1, lag=0),
            "sampling": SamplingConfig(num_inference_steps=4, guidance_scale=1.0),
            "optimizer": OptimizerConfig(learning_rate=1e-3, batch_size=rows, micro_batch_size=rows),
            "evaluate": EvaluateConfig(every=0, rewards=()),
            "checkpoint": CheckpointConfig(every=1),
            "heldout_prompts": ("x",),
        }
        | sections,
    )


def smallest_regression(make: MakeExperiment, method: RegressionMethod, **sections: object) -> Experiment:
    """Two iterations of two rows, each a micro-batch of its own."""
    folder = Path(make().model.path)
    network = json.loads((folder / "unet" / "config.json").read_text())
    shape = (network["in_channels"], network["sample_size"], network["sample_size"])
    return make(
        method,
        **{
            "run": RunConfig(iterations=2, prompts_per_iteration=2, chunk_size=1, lag=0),
            "data": DataConfig(path=str(labelled_set(folder.parent / "labelled", shape))),
            "sampling": SamplingConfig(num_inference_steps=4, guidance_scale=1.0),
            "optimizer": OptimizerConfig(learning_rate=1e-3, batch_size=2, micro_batch_size=1),
            "evaluate": EvaluateConfig(every=0, rewards=()),
            "checkpoint": CheckpointConfig(every=1),
            "heldout_prompts": ("x",),
        }
        | sections,
    )
