"""What a run would do, counted from its config: before a model loads or an actor starts."""

from raypref.cluster.placement import placement, total
from raypref.core.counted import counted
from raypref.core.search_cost import guided_evaluations
from raypref.methods.base import Method, StepMethod
from raypref.methods.regression import Own, RegressionMethod
from raypref.train.experiment import Experiment, SamplingConfig


def own_evaluations(own: Own, sampling: SamplingConfig) -> int:
    """Network evaluations of the sampler, at most, for what a method on labelled pictures has drawn for one of them."""
    halves = 2 if own == "finished" and sampling.guidance_scale > 1 else 1
    return 0 if own == "none" else halves * sampling.num_inference_steps


def trained_parents(method: Method) -> int:
    """States of one prompt at which the learner needs policy and reference: each once, however many rows share it."""
    rows = method.rows_per_prompt()
    if not isinstance(method, StepMethod):
        return rows * method.states_per_row()
    search = method.search
    if method.arms == 1 or search.shares_parent():
        return rows
    if search.shape == "tree":  # winner and loser part after the first of the inner steps
        return 2 * rows - len(search.steps)
    return 2 * rows - 1 if search.same_start and 0 in search.steps else 2 * rows


def sampled_evaluations(experiment: Experiment) -> int:
    """Evaluations, guided ones for methods on rollouts, that the samplers make for one iteration."""
    method, sampling = experiment.method, experiment.sampling
    if isinstance(method, RegressionMethod):
        a_prompt = own_evaluations(method.own, sampling)
    else:
        assert isinstance(method, StepMethod), "there are two kinds"
        a_prompt = guided_evaluations(method.search, sampling.num_inference_steps)
    return experiment.run.prompts_per_iteration * a_prompt


def trained_evaluations(experiment: Experiment) -> int:
    """The same of the learner, in one pass over an iteration's rows."""
    method = experiment.method
    networks = 2 if method.needs_reference() and not experiment.run.fused_sampling else 1
    passes = networks + _looks_ahead(experiment)
    return experiment.run.prompts_per_iteration * trained_parents(method) * passes


def _looks_ahead(experiment: Experiment) -> bool:
    """Whether the policy is asked for every micro-batch of an update before the first is trained on."""
    optimizer = experiment.optimizer
    return experiment.method.coupled and optimizer.batch_size > optimizer.micro_batch_size


def prompts(experiment: Experiment) -> str:
    """How many prompts are trained on, and how many are not."""
    if not experiment.heldout_prompts or not (experiment.prompts or experiment.data.path):
        return "not all of them are here to be counted: they are on the Hub, which cannot be asked"
    left_out = f" ({experiment.left_out} left out, which are held out too)" if experiment.left_out else ""
    trained = f"{len(experiment.prompts)} to train on{left_out}"
    if experiment.data.path:
        trained = f"those of {experiment.data.path} to train on"
    held_out = experiment.judged_on() == "held-out prompts"
    told = "" if held_out or not experiment.heldout_prompts else f": {experiment.judged_on()}"
    return f"{trained}, {len(experiment.heldout_prompts)} to be judged on{told}"


def dry_run(experiment: Experiment) -> dict[str, str]:
    """Counts and demands, by name."""
    run, method = experiment.run, experiment.method
    rows = run.prompts_per_iteration * method.rows_per_prompt()
    updates = rows // experiment.optimizer.batch_size * experiment.optimizer.num_inner_epochs
    approximate = {"step scores": f"approximate: predictions are decoded by {experiment.model.tiny_vae}"}
    return (approximate if experiment.model.tiny_vae else {}) | {
        "prompts": prompts(experiment),
        f"{method.row_name()} an iteration": f"{_kept(method, rows)}, {rows * run.iterations} in the run",
        "optimizer updates an iteration": str(updates),
        **_work(experiment),
        "pictures an evaluation": _judged(experiment),
        **_places(experiment),
    }


def _judged(experiment: Experiment) -> str:
    a_prompt, prompts = experiment.evaluate.images_per_prompt, len(experiment.heldout_prompts)
    return str(prompts * a_prompt) if prompts else f"{a_prompt} a prompt"


def _kept(method: Method, rows: int) -> str:
    return str(rows) if isinstance(method, RegressionMethod) else f"at most {rows} (ties are dropped)"


def _work(experiment: Experiment) -> dict[str, str]:
    """What is asked of the network for an iteration."""
    run, method = experiment.run, experiment.method
    kind = "network" if isinstance(method, RegressionMethod) else "guided network"
    sampled, trained = sampled_evaluations(experiment), trained_evaluations(experiment)
    networks = 2 if method.needs_reference() and not run.fused_sampling else 1
    who = "reference and policy" if networks == 2 else "reference" if method.needs_reference() else "policy"
    often = "the policy twice, for the whole batch's mean" if _looks_ahead(experiment) else "once a parent"
    return {
        "rollout tasks an iteration": str(run.prompts_per_iteration // run.chunk_size if sampled else 0),
        f"{kind} evaluations an iteration": f"{sampled} to sample, {trained} to train ({who}, {often})",
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
        ", ".join(counted(total(bundles, name, most=full), name) for name in ("CPU", "GPU")) for full in (False, True)
    )
    return lines | {"reserved": least if least == most else f"{least} to start, {most} when all have joined"}
