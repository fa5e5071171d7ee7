"""The rules that a setting, or several together, must obey before a model loads or an actor starts."""

import importlib.util
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from raypref import models, rewards
from raypref.cluster.placement import placement, total
from raypref.core.process import DensityError, Process, Scheduler
from raypref.core.schedule import FlowSchedule, Schedule
from raypref.core.search import Guidance
from raypref.data.hub import may_be_dataset
from raypref.methods.base import StepMethod
from raypref.methods.regression import RegressionMethod
from raypref.models.base import ModelFamily
from raypref.models.existing_lora import UnusableLoRA, check_file, check_fit, local_file
from raypref.models.size import on_disk
from raypref.registry import named_classes, nearest
from raypref.rewards.base import Reward
from raypref.rewards.environment import check_environment
from raypref.train.build import reward_environments
from raypref.train.experiment import Experiment, nearest_divisor
from raypref.train.folder import Folder

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class ConfigError(ValueError):
    """A setting that cannot work. The message names the field, its value, the rule, and the nearest fix."""


def check_experiment(experiment: Experiment) -> None:
    """Everything that a run on this machine must obey."""
    check_changed(experiment)
    _check_data(experiment.data.path)


def check_changed(experiment: Experiment) -> None:
    """The same of one that has begun: it does not need the labelled pictures that its set was made of."""
    check_rules(experiment)
    _check_model_here(experiment)
    _check_lora_weights(experiment)
    _check_cluster(experiment)
    _check_output(Path(experiment.run.output_dir))
    _check_protocol(experiment.checkpoint.folder)
    _check_tracking(experiment.run.wandb_project)


def check_rules(experiment: Experiment) -> None:
    """The rules that join sections, the same on every machine."""
    _check_model(experiment)
    _check_search(experiment)
    _check_rewards(experiment)
    _check_diet(experiment)
    _check_batch(experiment)
    _check_ranks(experiment)
    _check_reward_workers(experiment)
    _check_fused(experiment)


def _check_search(experiment: Experiment) -> None:
    sampling, method = experiment.sampling, experiment.method
    if not isinstance(method, StepMethod):
        _check_sampling(experiment)
        return
    search = method.search
    try:
        search.check_steps(sampling.num_inference_steps)
    except ValueError as problem:
        raise ConfigError(f"method.search.{problem}") from None
    if sampling.scheduler != "ddpm" and sampling.eta == 0:
        raise ConfigError(
            f"sampling.eta = 0: {experiment.method.name} trains on the density of a step, and a deterministic step has "
            "none; use eta = 1.0, or anything above 0"
        )
    try:
        _check_sampling(experiment).check_density(search.recorded())
    except DensityError as problem:
        raise ConfigError(f"method.search.steps = {list(search.steps)}: {problem}") from None


def _check_sampling(experiment: Experiment) -> Process:
    try:
        return experiment.sampling.process(_any_schedule(experiment.sampling.scheduler))
    except ValueError as problem:
        raise ConfigError(f"sampling.{problem}") from None


def _any_schedule(scheduler: Scheduler) -> Schedule | FlowSchedule:
    """Which steps have noise does not depend on a checkpoint's noise levels, so any schedule can tell before one is
    loaded."""
    if scheduler == "flow":
        return FlowSchedule()
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alphas_cumprod = (1 - betas).cumprod(0)
    return Schedule(alphas_cumprod, float(alphas_cumprod[0]))


def _check_rewards(experiment: Experiment) -> None:
    known = named_classes(rewards, Reward)
    for name in experiment.evaluate.rewards:
        if name not in known:
            raise ConfigError(f"evaluate.rewards: there is no reward {name!r}{nearest(name, known)}")
    method, config = experiment.method, experiment.reward
    guidance = method.search.guidance if isinstance(method, StepMethod) else Guidance()
    if guidance.kind != "none" and not is_differentiable(config.name, config.settings):
        able = ", ".join(name for name, reward in known.items() if reward.differentiable)
        raise ConfigError(
            f"reward.name = {experiment.reward.name!r}: {experiment.method.name} follows the reward's gradient "
            f"(search.guidance.kind = {guidance.kind!r}), and this reward has none; choose from {able}, or guidance "
            "kind none"
        )


def is_differentiable(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether a reward, and all that it is made of, has a gradient."""
    kind = named_classes(rewards, Reward)[name]
    return kind.differentiable and all(is_differentiable(*part) for part in kind.parts(settings))


def _check_model(experiment: Experiment) -> None:
    config, families = experiment.model, named_classes(models, ModelFamily)
    if config.family not in families:
        raise ConfigError(f"model.family = {config.family!r}: unknown{nearest(config.family, families)}")
    family, scheduler = families[config.family], experiment.sampling.scheduler
    if scheduler not in family.schedulers:
        raise ConfigError(
            f"sampling.scheduler = {scheduler!r}: model.family = {config.family!r} samples with "
            f"{' or '.join(family.schedulers)}"
        )


def _check_model_here(experiment: Experiment) -> None:
    config = experiment.model
    if not Path(config.source()).exists() and not HUB_ID.fullmatch(config.path):
        raise ConfigError(
            f'model.path = {config.path!r}: neither "tiny", nor an existing folder or .safetensors file, nor a hub id '
            'such as "stable-diffusion-v1-5/stable-diffusion-v1-5"'
        )
    for name in ("vae", "tiny_vae", "single_file_config"):
        place = getattr(config, name)
        if place and not Path(place).is_dir() and not HUB_ID.fullmatch(place):
            raise ConfigError(f"model.{name} = {place!r}: neither an existing folder nor a hub id")
    try:
        named_classes(models, ModelFamily)[config.family].check(config)
    except ValueError as problem:
        raise ConfigError(f"model.path = {config.path!r}: {problem}") from None


def _check_lora_weights(experiment: Experiment) -> None:
    """As far as files of this disk can tell."""
    config = experiment.model
    if not config.lora_weights:
        return
    family = named_classes(models, ModelFamily)[config.family]
    try:
        file, here = local_file(config.lora_weights), on_disk(config)
        if file is not None:
            check_file(file, family.kohya_prefixes)
        if file is not None and here is not None:
            check_fit(file, family, here)
    except UnusableLoRA as problem:
        raise ConfigError(f"model.lora_weights = {config.lora_weights!r}: {problem}") from None
    except FileNotFoundError:  # of the model, whose download is not whole: who loads it will tell
        pass


def _check_data(path: str) -> None:
    if path and not Path(path).exists() and not may_be_dataset(path):
        raise ConfigError(f"data.path = {path!r}: there is no such file or folder, and it is no Hub dataset's id")


def _check_cluster(experiment: Experiment) -> None:
    config, cluster = experiment.model, experiment.cluster
    in_process = cluster.runtime == "local"
    if in_process:
        _check_environments(reward_environments(experiment))
    if in_process and config.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"model.device = {config.device!r}: this machine has no CUDA device; use auto or cpu")

    starts_here = not in_process and cluster.address == "local" and "RAY_ADDRESS" not in os.environ
    gpus = total(placement(cluster), "GPU")
    if starts_here and gpus > torch.cuda.device_count():
        raise ConfigError(
            f"cluster: the run asks for {gpus:g} GPUs (sampler_gpus, reward_gpus, learner_gpus), this "
            f'machine has {torch.cuda.device_count()}; lower them, or join a cluster with cluster.address = "auto"'
        )


def _check_environments(needed: Mapping[str, str]) -> None:
    for name, environment in needed.items():
        try:
            check_environment(name, environment)
        except ValueError as problem:
            raise ConfigError(f"cluster.runtime = 'local': {problem}") from None


def _check_batch(experiment: Experiment) -> None:
    method, size = experiment.method, experiment.optimizer.batch_size
    rows = experiment.run.prompts_per_iteration * method.rows_per_prompt()
    if rows % size:
        what = method.row_name()
        raise ConfigError(
            f"optimizer.batch_size = {size}: it must divide the {rows} {what} of an iteration "
            f"(prompts_per_iteration x {method.rows_per_prompt()}); the nearest that does is "
            f"{nearest_divisor(rows, size)}"
        )


def _check_ranks(experiment: Experiment) -> None:
    cluster, optimizer = experiment.cluster, experiment.optimizer
    ranks, parts = cluster.learner_ranks, optimizer.batch_size // optimizer.micro_batch_size
    if ranks > 1 and cluster.runtime == "local":
        raise ConfigError(
            f"cluster.learner_ranks = {ranks}: with cluster.runtime = 'local' one process is the whole learner; use 1, "
            "or cluster.runtime = 'ray'"
        )
    if ranks > parts:
        size = nearest_divisor(optimizer.batch_size, optimizer.batch_size // ranks)
        raise ConfigError(
            f"cluster.learner_ranks = {ranks}: ranks share the micro-batches of a batch, and there are {parts} "
            f"(optimizer.batch_size / micro_batch_size = {optimizer.batch_size} / {optimizer.micro_batch_size}); use "
            f"{parts} or fewer ranks, or micro_batch_size = {size}, which changes the numbers' last digits"
        )


def _check_reward_workers(experiment: Experiment) -> None:
    cluster, needed = experiment.cluster, reward_environments(experiment)
    if needed and cluster.runtime == "ray" and not cluster.reward_workers:
        raise ConfigError(
            f"cluster.reward_workers = 0: {' and '.join(needed)} needs an environment of its own, which only reward "
            "workers get; use 1 or more"
        )


def _check_fused(experiment: Experiment) -> None:
    if not experiment.run.fused_sampling:
        return
    method = experiment.method
    if not isinstance(method, StepMethod):
        raise ConfigError(
            f"run.fused_sampling = true: {method.name} trains on pictures with noise, not on steps that samplers take, "
            "so there is no forward to share; leave fused_sampling out"
        )
    search = method.search
    if search.shape == "tree" and (search.inner_steps > 1 or any(step + 1 in search.steps for step in search.steps)):
        raise ConfigError(
            f"method.search.steps = {list(search.steps)}: run.fused_sampling = true keeps the graph of every candidate "
            "that may be trained from, and where branches follow upon one another these are more than it saves; leave "
            "a step between them (and inner_steps = 1), or leave fused_sampling out"
        )
    rows = experiment.run.prompts_per_iteration * method.rows_per_prompt()
    optimizer = experiment.optimizer
    needs = {
        "model.dtype": (experiment.model.dtype, "float32"),
        "model.cpu_offload": (experiment.model.cpu_offload, False),
        "cluster.runtime": (experiment.cluster.runtime, "local"),
        "run.lag": (experiment.run.lag, 0),
        "reference.update": (experiment.reference.update, "frozen"),
        "optimizer.num_inner_epochs": (optimizer.num_inner_epochs, 1),
        "optimizer.batch_size": (optimizer.batch_size, rows),
        "optimizer.micro_batch_size": (optimizer.micro_batch_size, rows),
    }
    wrong = [f"{name} = {needed!r} (not {found!r})" for name, (found, needed) in needs.items() if found != needed]
    if wrong:
        raise ConfigError(
            "run.fused_sampling = true: sampling and training share their forwards only in one process that makes one "
            f"update of each iteration's pairs; set {', '.join(wrong)}, or leave fused_sampling out"
        )


def _check_diet(experiment: Experiment) -> None:
    method, path = experiment.method, experiment.data.path
    if isinstance(method, RegressionMethod) and not path:
        raise ConfigError(f"data.path is missing: {method.name} trains on labelled pictures; name a set of them")
    if path and not isinstance(method, RegressionMethod):
        raise ConfigError(
            f"data.path = {path!r}: {method.name} trains on what it draws itself for run.prompts, and reads no "
            "pictures; leave [data] out, or use a method such as diffusion_dpo"
        )


def _check_output(folder: Path) -> None:
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise ConfigError(f"run.output_dir = {str(folder)!r}: {existing} is a file; name a folder")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError:
        raise ConfigError(
            f"run.output_dir = {str(folder)!r}: {existing} is not writable; choose another folder"
        ) from None


def _check_protocol(folder: str) -> None:
    try:
        Folder.at(folder)
    except ImportError as problem:
        package = problem.__cause__.name if isinstance(problem.__cause__, ImportError) else None
        raise ConfigError(
            f"checkpoint.folder = {folder!r}: {problem}; run `pip install {package or 'fsspec[full]'}`, or name a "
            "folder of this machine"
        ) from None
    except Exception as problem:  # each filesystem has its own words for a wrong URL
        raise ConfigError(
            f"checkpoint.folder = {folder!r}: {problem}; use a path, or a URL such as s3://bucket/checkpoints"
        ) from None


def check_prompts(experiment: Experiment) -> None:
    """For a run that is to begin: one that has begun goes on, whatever is asked of its prompts. Single prompts that a
    reward cannot score are counted as they come, but it must be able to score one.

    Raises:
        ConfigError: where a reward can score none of those that it is to judge.
    """
    known, trained = named_classes(rewards, Reward), (experiment.reward.name, *experiment.reward.also)
    judged = [("reward.name", name, "prompts", experiment.prompts) for name in trained]
    for name in (*trained, *experiment.evaluate.rewards):
        field = "reward.name" if name in trained else "evaluate.rewards"
        judged.append((field, name, "heldout_prompts", experiment.heldout_prompts))
    for field, name, key, prompts in judged:
        refusals = [known[name].refusal(prompt) for prompt in prompts]
        if refusals and all(refusals):
            raise ConfigError(f"{field} = {name!r}: it can score none of run.{key}; {refusals[0]}")


def check_outlives_job(experiment: Experiment) -> None:
    """A job's working folder is deleted after it.

    Raises:
        ConfigError: where what the run writes would lie there.
    """
    places = {"run.output_dir": experiment.run.output_dir, "checkpoint.folder": experiment.checkpoint.folder}
    if experiment.data.path:
        places["data.cache_dir"] = experiment.data.cache_dir
    for field, place in places.items():
        if place and "://" not in place and not Path(place).is_absolute():
            raise ConfigError(
                f"{field} = {place!r}: below a job's working folder, which is deleted after the job; name an absolute "
                "path on a disk that outlives the cluster, such as /mnt/raypref/runs"
            )


def check_checkpoint_folder(experiment: Experiment) -> None:
    """Writes, reads and deletes a small file where `checkpoint.folder` says. The one check that may use the network.

    Raises:
        ConfigError: where that does not work.
    """
    chosen, name = experiment.checkpoint.folder, ".probe"
    if not chosen:
        return
    _check_protocol(chosen)
    folder = Folder.at(chosen) / experiment.run.name
    try:
        folder.write(name, b"raypref")
        folder.read(name)
        folder.delete(name)
    except OSError as problem:
        raise ConfigError(
            f"checkpoint.folder = {chosen!r}: {folder} cannot be written to ({problem.strerror}); name another folder, "
            "or see to credentials and permissions"
        ) from None


def _check_tracking(project: str) -> None:
    if project and importlib.util.find_spec("wandb") is None:
        raise ConfigError(
            f"run.wandb_project = {project!r}: wandb is not installed; run `pip install raypref[wandb]`, "
            "or leave the key out"
        )
