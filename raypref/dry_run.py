"""What a run would do, counted from its config: before a model loads or an actor starts."""

from raypref.core.search import NEEDS, NEXT, Search
from raypref.methods.base import Method
from raypref.train.experiment import Experiment


def guided_evaluations(search: Search, num_inference_steps: int) -> int:
    """Guided network evaluations of the sampler for one prompt; with guidance_scale above 1 each is two forwards."""
    if search.shape == "chain":
        first = 1 if search.same_start else search.candidates
        return first + (num_inference_steps - 1) * search.candidates
    plain = search.recorded()[-1] + 1 - len(search.recorded())
    inside = [step for step in search.recorded() if step < num_inference_steps - 1]
    ahead = [step + search.inner_steps for step in search.steps if NEXT in NEEDS[search.step_reward]]
    looked = [step for step in ahead if step < num_inference_steps - 1]
    moved = [step for step in search.steps if search.guidance.kind != "none" and step < num_inference_steps - 1]
    return 1 + plain + (len(inside) + len(looked)) * search.candidates + 2 * len(moved)


def trained_evaluations(method: Method) -> int:
    """Guided network evaluations of the learner for one prompt: policy and reference at every parent, each once."""
    search, rows = method.search, method.rows_per_prompt()
    apart = method.arms == 2 and not search.shares_parent()
    parents = 2 * rows - (search.same_start and 0 in search.recorded()) if apart else rows
    return 2 * parents


def dry_run(experiment: Experiment) -> dict[str, str]:
    """Counts and demands, by name."""
    run, search, sampling = experiment.run, experiment.method.search, experiment.sampling
    cluster = experiment.cluster
    method = experiment.method
    rows = run.prompts_per_iteration * method.rows_per_prompt()
    sampled = run.prompts_per_iteration * guided_evaluations(search, sampling.num_inference_steps)
    updates = rows // experiment.optimizer.batch_size * experiment.optimizer.num_inner_epochs
    return {
        f"{'pairs' if method.arms == 2 else 'steps'} an iteration": f"at most {rows} (ties are dropped), "
        f"{rows * run.iterations} in the run",
        "optimizer updates an iteration": str(updates),
        "rollout tasks an iteration": str(run.prompts_per_iteration // run.chunk_size),
        "guided network evaluations an iteration": f"{sampled} to sample, "
        f"{run.prompts_per_iteration * trained_evaluations(method)} to train (policy and reference, once a parent)",
        "held-out pictures an evaluation": str(len(experiment.heldout_prompts) * experiment.evaluate.images_per_prompt),
        "workers": f"{cluster.samplers} samplers, {cluster.reward_workers} reward workers, 1 learner",
        "reserved": f"{cluster.total_cpus():g} CPUs, {cluster.total_gpus():g} GPUs",
    }
