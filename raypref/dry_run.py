"""What a run would do, counted from its config: before a model loads or an actor starts."""

from raypref.cluster.placement import placement, total
from raypref.core.search_cost import guided_evaluations
from raypref.methods.base import Method
from raypref.train.experiment import Experiment


def trained_parents(method: Method) -> int:
    """States of one prompt at which the learner needs policy and reference: each once, however many rows share it."""
    search, rows = method.search, method.rows_per_prompt()
    if method.arms == 1 or search.shares_parent():
        return rows
    if search.shape == "tree":  # winner and loser part after the first of the inner steps
        return 2 * rows - len(search.steps)
    return 2 * rows - 1 if search.same_start and 0 in search.steps else 2 * rows


def prompts(experiment: Experiment) -> str:
    """How many prompts are trained on, and how many are not."""
    left_out = f" ({experiment.left_out} left out, which are held out too)" if experiment.left_out else ""
    return f"{len(experiment.prompts)} to train on{left_out}, {len(experiment.heldout_prompts)} to be judged on"


def dry_run(experiment: Experiment) -> dict[str, str]:
    """Counts and demands, by name."""
    run, search, sampling = experiment.run, experiment.method.search, experiment.sampling
    method = experiment.method
    rows = run.prompts_per_iteration * method.rows_per_prompt()
    sampled = run.prompts_per_iteration * guided_evaluations(search, sampling.num_inference_steps)
    updates = rows // experiment.optimizer.batch_size * experiment.optimizer.num_inner_epochs
    approximate = {"step scores": f"approximate: predictions are decoded by {experiment.model.tiny_vae}"}
    return (approximate if experiment.model.tiny_vae else {}) | {
        "prompts": prompts(experiment),
        f"{'pairs' if method.arms == 2 else 'steps'} an iteration": f"at most {rows} (ties are dropped), "
        f"{rows * run.iterations} in the run",
        "optimizer updates an iteration": str(updates),
        "rollout tasks an iteration": str(run.prompts_per_iteration // run.chunk_size),
        "guided network evaluations an iteration": f"{sampled} to sample, "
        f"{run.prompts_per_iteration * trained_parents(method) * (1 if run.fused_sampling else 2)} to train (reference"
        f"{'' if run.fused_sampling else ' and policy'}, once a parent)",
        "held-out pictures an evaluation": str(len(experiment.heldout_prompts) * experiment.evaluate.images_per_prompt),
        **_places(experiment),
    }


def _places(experiment: Experiment) -> dict[str, str]:
    """What the run asks of a cluster, a line a role."""
    if experiment.cluster.runtime == "local":
        return {"workers": "none: one process plays all roles in turn"}
    bundles = placement(experiment.cluster)
    learner = "the learner" if experiment.cluster.learner_ranks == 1 else "a learner's rank"
    lines = {
        f"place of {learner if bundle.role == 'learner' else f'a {bundle.role}'}": f"{bundle}; "
        + (f"{bundle.least} of them" if bundle.most == bundle.least else f"{bundle.least} to {bundle.most} of them")
        for bundle in bundles
    }
    least, most = (
        ", ".join(f"{total(bundles, name, most=full):g} {name}s" for name in ("CPU", "GPU")) for full in (False, True)
    )
    return lines | {"reserved": least if least == most else f"{least} to start, {most} when all have joined"}
