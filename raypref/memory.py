"""What memory each role of a run would need, before anything is loaded: an estimate, with its error."""

from contextlib import suppress

from raypref.checks import ConfigError
from raypref.methods.base import StepMethod
from raypref.methods.regression import RegressionMethod
from raypref.models.base import ModelConfig
from raypref.models.live_memory import decoder_bytes, network_bytes, network_parameters
from raypref.models.size import on_disk, published, text_encoder_parameters
from raypref.train.build import model_family
from raypref.train.experiment import Experiment
from raypref.train.ranks import SLICE
from raypref.train.scorer import DECODED_AT_ONCE, guided_at_once

FLOAT32 = 4
MOVING_REFERENCE = 2 * FLOAT32
"""Bytes of a trained parameter beside that, where the reference follows the policy: the reference and the start."""
ADAMW = 3 * FLOAT32
"""Bytes of a trained parameter: itself and two moments. Its gradient belongs to the work."""

UNKNOWN = "unknown: the model is not here, and its family has no published size"
GIGABYTE = 10**9
ERROR = "counted without kernels' workspaces and the allocator's reserve: expect up to a third more in all"


def memory(experiment: Experiment) -> dict[str, str]:
    """By role: weights and working memory; of a model that is not here in folders, or not whole, those of its family's
    best-known checkpoint. Of a reward's own network nothing is known."""
    try:
        here = on_disk(experiment.model)
        if here is not None:
            with suppress(FileNotFoundError):
                return _memory(experiment, here)
        known = published(experiment.model)
        if known is None:
            return {"memory": UNKNOWN}
        name, alike = known
        told = f"{name} with its own VAE, by their configs: model.path is not on this disk, whole"
        return _memory(experiment, alike) | {"memory, of what": told}
    except ValueError as problem:
        raise ConfigError(f"model.{problem}") from problem


def _memory(experiment: Experiment, config: ModelConfig) -> dict[str, str]:
    family = model_family(experiment)
    frozen, trained = network_parameters(family, config)  # with full fine-tuning, the frozen are the reference's
    held, text = (config.torch_dtype().itemsize * count for count in (frozen, text_encoder_parameters(config)))
    sampling, learning = _sampling(experiment, config), _learning(experiment, config)
    ranks, learner = experiment.cluster.learner_ranks, "the learner"
    if ranks > 1:
        learning, learner = _exchanging(learning, FLOAT32 * trained, ranks), "a learner's rank"
    if config.free_text_encoders:  # they leave once they have encoded, before anything is at work
        sampling, learning = max(sampling, text), max(learning, text)
    else:
        held += text
    moving = experiment.reference.update != "frozen"
    a_weight = ADAMW + moving * MOVING_REFERENCE + (experiment.optimizer.ema_decay > 0) * FLOAT32
    held_by_learner = held + a_weight * trained
    decoding = max(
        decoder_bytes(family, config, DECODED_AT_ONCE),
        decoder_bytes(family, config, guided_at_once(config), gradient=True) if _guided(experiment) else (0, 0),
    )
    scorer = "a reward worker" if experiment.cluster.reward_workers else "a sampler's rewards, on top"
    return {
        "memory of a sampler": _gigabytes(held + FLOAT32 * trained, sampling),
        f"memory of {learner}": _gigabytes(held_by_learner, learning),
        f"memory of {scorer}": f"{_gigabytes(*decoding)}, and its rewards",
        "memory, how sure": ERROR,
    }


def _sampling(experiment: Experiment, config: ModelConfig) -> int:
    """At its peak: all candidates of a chunk in one forward, or the followed ones in a backward, to guide them."""
    family, rows = model_family(experiment), experiment.run.chunk_size * _halves(experiment)
    forward = network_bytes(family, config, rows * experiment.method.latents_at_once(), training=False)
    return max(forward, network_bytes(family, config, rows, training=True)) if _guided(experiment) else forward


def _learning(experiment: Experiment, config: ModelConfig) -> int:
    """At its peak: the parents of a micro-batch, one a pair or two, in a forward and its backward. With fused sampling
    every parent's graph is there."""
    method, run = experiment.method, experiment.run
    pairs = experiment.optimizer.micro_batch_size
    if run.fused_sampling:
        pairs = run.prompts_per_iteration * method.rows_per_prompt()
    halves = 1 if isinstance(method, RegressionMethod) else _halves(experiment)
    rows = pairs * method.states_per_row() * halves
    return network_bytes(model_family(experiment), config, rows, training=True)


def _exchanging(learning: int, gradient: int, ranks: int) -> int:
    """At its peak: the sum so far beside a backward; or beside the gradient, its flat copy, and the ranks' slices."""
    return max(learning + gradient, 3 * gradient + ranks * min(gradient, FLOAT32 * SLICE))


def _guided(experiment: Experiment) -> bool:
    method = experiment.method
    return isinstance(method, StepMethod) and method.search.guidance.kind != "none"


def _halves(experiment: Experiment) -> int:
    """Guidance asks the network twice, in one batch."""
    return 1 if experiment.sampling.guidance_scale == 1 else 2


def _gigabytes(weights: int, work: int) -> str:
    return f"{weights / GIGABYTE:.2f} GB of weights and optimizer, {work / GIGABYTE:.2f} GB at work"
