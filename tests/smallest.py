"""The smallest run that a method can make on the random model."""

from dataclasses import replace

from raypref.methods.base import Method
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


def smallest_experiment(make: MakeExperiment, method: Method, **sections: object) -> Experiment:
    """Two iterations of one prompt, four sampling steps of which two are trained on."""
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
