"""What a run would do, counted from its config: before a model loads or an actor starts."""

from raypref.core.types import Search
from raypref.train.experiment import Experiment


def guided_evaluations(search: Search, num_inference_steps: int) -> int:
    """Guided network evaluations of the sampler for one prompt; with guidance each is two forwards."""
    if search.shape == "chain":
        first = 1 if search.same_start else search.candidates
        return first + (num_inference_steps - 1) * search.candidates
    branches = [step for step in search.steps if step < num_inference_steps - 1]
    plain = search.steps[-1] + 1 - len(search.steps)
    return 1 + plain + len(branches) * search.candidates


def dry_run(experiment: Experiment) -> dict[str, str]:
    """Counts and demands, by name."""
    run, search, sampling = experiment.run, experiment.method.search, experiment.sampling
    cluster = experiment.cluster
    pairs = run.prompts_per_iteration * len(search.steps)
    states = 1 if search.shape == "tree" else 2
    sampled = run.prompts_per_iteration * guided_evaluations(search, sampling.num_inference_steps)
    updates = pairs // experiment.optimizer.batch_size * experiment.optimizer.num_inner_epochs
    return {
        "pairs an iteration": f"at most {pairs} (ties are dropped), {pairs * run.iterations} in the run",
        "optimizer updates an iteration": str(updates),
        "rollout tasks an iteration": str(run.prompts_per_iteration // run.chunk_size),
        "guided network evaluations an iteration": f"{sampled} to sample, {2 * states * pairs} to train "
        f"(policy and reference, {'shared by' if states == 1 else 'one for each of'} winner and loser)",
        "held-out pictures an evaluation": str(len(experiment.heldout_prompts) * experiment.evaluate.images_per_prompt),
        "workers": f"{cluster.samplers} samplers, {cluster.reward_workers} reward workers, 1 learner",
        "reserved": f"{cluster.total_cpus():g} CPUs, {cluster.total_gpus():g} GPUs",
    }
