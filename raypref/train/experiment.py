"""One run as a value: every setting, checked before a model loads or an actor starts."""

import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from raypref.core.process import Process, Scheduler, ddim, ddpm, flow
from raypref.core.schedule import FlowSchedule, Schedule
from raypref.data.preference_source import DataConfig
from raypref.data.source import PromptSource
from raypref.methods.base import Method
from raypref.models.base import ModelConfig


def require(condition: bool, field_name: str, value: object, rule: str) -> None:
    """Raises ValueError("field = value: rule") unless the condition holds."""
    if not condition:
        raise ValueError(f"{field_name} = {value!r}: {rule}")


def nearest_divisor(number: int, wanted: int) -> int:
    """The divisor of `number` nearest to `wanted`."""
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: abs(d - wanted))


@dataclass(frozen=True)
class RunConfig:
    """`[run]`: how long, on which prompts, and where the results go."""

    name: str = "run"
    """The run directory is output_dir/name."""
    output_dir: str = "runs"
    seed: int = 0
    iterations: int = 20
    """One iteration: one experience, its updates."""
    prompts: PromptSource = PromptSource()
    """What is trained on: a set of prompts that raypref knows, a file, or a Hub dataset. See docs/prompts.md."""
    heldout_prompts: PromptSource = PromptSource()
    """What the policy is judged on. A prompt of it is left out of training, unless both lists are the same."""
    prompts_per_iteration: int = 8
    chunk_size: int = 4
    """Prompts in one rollout task. Part of the numbers, unlike the number of workers."""
    lag: int = 1
    """0: rollouts use the newest weights. 1: weights one update older, so that sampling and learning overlap."""
    fused_sampling: bool = False
    """Sampling keeps the graph of the forwards that training needs: 28 network evaluations instead of 33 for RDPO's
    five pairs. For one process, one update an iteration, branches with a step between them, and memory for the graphs
    of all pairs: see docs/performance.md."""
    num_threads: int = 1
    """CPU threads of each worker. Part of the numbers."""
    wandb_project: str = ""
    """Weights & Biases project that mirrors the TensorBoard events; empty: none. Needs `pip install raypref[wandb]`."""

    def __post_init__(self) -> None:
        for name in ("iterations", "prompts_per_iteration", "chunk_size", "num_threads"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "use 1 or more.")
        require(self.lag in (0, 1), "lag", self.lag, "use 0 (strictly on-policy) or 1 (sampling overlaps learning).")
        require(
            self.prompts_per_iteration % self.chunk_size == 0,
            "chunk_size",
            self.chunk_size,
            f"it must divide prompts_per_iteration = {self.prompts_per_iteration}; the nearest that does is "
            f"{nearest_divisor(self.prompts_per_iteration, self.chunk_size)}.",
        )
        require(
            re.fullmatch(r"\w[\w.+=-]*", self.name) is not None,
            "name",
            self.name,
            "use a plain folder name: letters, digits and . _ + = -",
        )


@dataclass(frozen=True)
class SamplingConfig:
    """`[sampling]`: the reverse process, named as in a diffusers pipeline call."""

    scheduler: Scheduler = "ddim"
    """ddim, ddpm: steps of a model that predicts noise or v (stable_diffusion, sdxl). flow: the stochastic step of a
    flow-matching model (sd3)."""
    num_inference_steps: int = 20
    guidance_scale: float = 5.0
    eta: float = 1.0
    """ddim and flow: 0 is deterministic (no density to train on), 1 is the noise of the forward process's posterior."""

    def __post_init__(self) -> None:
        require(self.num_inference_steps >= 1, "num_inference_steps", self.num_inference_steps, "use 1 or more.")
        require(0 <= self.eta <= 1, "eta", self.eta, "use a number from 0 to 1; training needs more than 0.")
        require(self.guidance_scale >= 1, "guidance_scale", self.guidance_scale, "use 1 (no guidance) or more.")

    def process(self, schedule: Schedule | FlowSchedule) -> Process:
        """The table of the reverse process on a model's schedule.

        Raises:
            ValueError: where the schedule has no such step.
        """
        if isinstance(schedule, FlowSchedule) != (self.scheduler == "flow"):
            raise ValueError(f"scheduler = {self.scheduler!r}: not a step of a {type(schedule).__name__}.")
        if isinstance(schedule, FlowSchedule):
            return flow(schedule, self.num_inference_steps, self.eta)
        if self.scheduler == "ddpm":
            return ddpm(schedule, self.num_inference_steps)
        return ddim(schedule, self.num_inference_steps, self.eta)


@dataclass(frozen=True)
class RewardConfig:
    """`[reward]`: the reward that trains; further keys go to its constructor."""

    name: str = "colorfulness"
    also: tuple[str, ...] = ()
    """Further rewards: a candidate then wins only where no reward is worse and one is better (Pareto labels)."""
    settings: dict[str, Any] = field(default_factory=dict)
    also_settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings of the rewards in `also`, by name: [reward.also_settings.hpsv2]."""


@dataclass(frozen=True)
class OptimizerConfig:
    """`[optimizer]`: AdamW on the adapter."""

    learning_rate: float = 3e-5
    batch_size: int = 20
    """Pairs in one optimizer update."""
    micro_batch_size: int = 20
    """Pairs in one forward and backward pass; gradients are summed. Memory for speed."""
    num_inner_epochs: int = 1
    """Passes over each iteration's pairs."""
    max_grad_norm: float = 1.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    adam_weight_decay: float = 1e-4
    lr_scheduler: Literal["constant", "linear", "cosine"] = "constant"
    """constant; or from `learning_rate` after the warm-up down to 0 after the last, on a line or half a cosine."""
    lr_warmup_iterations: int = 0
    """Iterations before the learning rate is whole; it rises to there on a line, and no iteration has 0."""
    ema_decay: float = 0.0
    """Above 0, evaluation draws with, and the export holds, a moving average of the weights: the share that it keeps at
    an optimizer update, once warmed up (`raypref.core.moving_average`); diffusers' `--use_ema` has 0.9999."""

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "use a positive number, such as 3e-5.")
        for name in ("adam_beta1", "adam_beta2", "ema_decay"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "use 0 or more, and less than 1.")
        require(self.adam_epsilon > 0, "adam_epsilon", self.adam_epsilon, "use a positive number, such as 1e-8.")
        require(self.adam_weight_decay >= 0, "adam_weight_decay", self.adam_weight_decay, "use 0 or more.")
        require(self.lr_warmup_iterations >= 0, "lr_warmup_iterations", self.lr_warmup_iterations, "use 0 or more.")
        require(self.max_grad_norm > 0, "max_grad_norm", self.max_grad_norm, "use a positive number, such as 1.0.")
        for name in ("batch_size", "micro_batch_size", "num_inner_epochs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "use 1 or more.")
        require(
            self.batch_size % self.micro_batch_size == 0,
            "micro_batch_size",
            self.micro_batch_size,
            f"it must divide batch_size = {self.batch_size}; the nearest that does is "
            f"{nearest_divisor(self.batch_size, self.micro_batch_size)}.",
        )

    def learning_rate_at(self, iteration: int, iterations: int) -> float:
        """The learning rate of all updates of an iteration, of a run of `iterations`."""
        warmup = self.lr_warmup_iterations
        if iteration < warmup:
            return self.learning_rate * (iteration + 1) / (warmup + 1)
        progress = (iteration - warmup) / (iterations - warmup)
        factor = {
            "constant": 1.0,
            "linear": 1 - progress,
            "cosine": (1 + math.cos(math.pi * progress)) / 2,
        }[self.lr_scheduler]
        return self.learning_rate * factor


@dataclass(frozen=True)
class ReferenceConfig:
    """`[reference]`: the policy that log-ratios compare with, for any method."""

    update: Literal["frozen", "hard", "ema"] = "frozen"
    """frozen: the model that training starts from. hard: a copy of the policy, taken anew. ema: its moving average."""
    every: int = 16
    """hard and ema: optimizer updates between two changes of the reference."""
    rate: float = 0.1
    """ema: how far the reference moves towards the policy at a change."""
    pretrained_pull: float = 0.0
    """hard and ema: how far it is then drawn back towards the pretrained model; 0 switches it off."""

    def __post_init__(self) -> None:
        require(self.every >= 1, "every", self.every, "use 1 or more.")
        require(0 < self.rate <= 1, "rate", self.rate, "use a number above 0, up to 1.")
        require(0 <= self.pretrained_pull < 1, "pretrained_pull", self.pretrained_pull, "use 0 (off) to below 1.")
        moving = self.update != "frozen"
        require(moving or not self.pretrained_pull, "pretrained_pull", self.pretrained_pull,
                "a frozen reference is the pretrained model; use update = 'ema' or leave it out.")  # fmt: skip


GuardAction = Literal["count", "stop", "roll_back"]


@dataclass(frozen=True)
class GuardConfig:
    """`[guard]`: what to do where training goes wrong. count: note it and go on. stop: end the run with an error; what
    was computed stays, and can be resumed. roll_back: go on from the state before the iteration."""

    nonfinite: GuardAction = "stop"
    """A NaN or infinite loss or gradient. Such an update is never applied."""
    gradient_spike: GuardAction = "count"
    """A gradient norm above `spike_factor` times its running level."""
    spike_factor: float = 20.0
    saturated: GuardAction = "count"
    """Held-out pictures of which a share above `saturated_share` of all values is black or white to the last digit."""
    saturated_share: float = 0.5
    diversity: GuardAction = "count"
    """Held-out pictures whose diversity fell below `diversity_share` of the base model's."""
    diversity_share: float = 0.5
    missing_share: float = 0.1
    """The run stops where a larger share of an iteration's pairs lacks a score: the reward fails. 1 lets it go on."""
    tied_share: float = 0.9
    """The run stops where a larger share of an iteration's pairs is an exact tie: the reward is constant."""
    reward_timeout: float = 300.0
    """Seconds after which a call of a reward, for up to 16 pictures, counts as failed."""

    def __post_init__(self) -> None:
        require(self.spike_factor > 1, "spike_factor", self.spike_factor, "use a number above 1, such as 20.")
        for name in ("saturated_share", "diversity_share"):
            require(0 < getattr(self, name) <= 1, name, getattr(self, name), "use a share above 0, up to 1.")
        for name in ("missing_share", "tied_share"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "use a share from 0 to 1 (never stop).")
        require(self.reward_timeout > 0, "reward_timeout", self.reward_timeout, "use a positive number of seconds.")


@dataclass(frozen=True)
class EvaluateConfig:
    """`[evaluate]`: held-out prompts with fixed seeds, before, during and after training."""

    every: int = 10
    """Iterations between evaluations; 0 leaves only the first and the last."""
    images_per_prompt: int = 2
    """At least 2: diversity compares pictures of one prompt."""
    rewards: tuple[str, ...] = ("prompt_match",)
    """Rewards that are never trained on, scored beside the training reward."""
    reward_settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Their settings, by name: [evaluate.reward_settings.hpsv2]."""

    def __post_init__(self) -> None:
        require(self.every >= 0, "every", self.every, "use 0 (only first and last) or more.")
        require(self.images_per_prompt >= 2, "images_per_prompt", self.images_per_prompt,
                "use 2 or more: diversity compares pictures of one prompt.")  # fmt: skip


@dataclass(frozen=True)
class CheckpointConfig:
    """`[checkpoint]`."""

    every: int = 1
    """Iterations between checkpoints. There is always one of the base model, and one of the last finished iteration
    where a run ends, is stopped, or fails; only a kill without warning loses what came after the last checkpoint."""
    keep: int = 2
    """How many are kept."""
    folder: str = ""
    """Where: a path or an fsspec URL such as s3://bucket/checkpoints, below which run.name is appended. Empty: the run
    directory."""

    def __post_init__(self) -> None:
        require(self.every >= 1, "every", self.every, "use 1 or more.")
        require(self.keep >= 1, "keep", self.keep, "use 1 or more.")


LABEL = r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?"
LABEL_SELECTOR = re.compile(rf"!?({LABEL}|in\({LABEL}(, ?{LABEL})*\))")


@dataclass(frozen=True)
class ClusterConfig:
    """`[cluster]`: where the roles run. Nothing here changes a run's numbers."""

    runtime: Literal["ray", "local"] = "ray"
    """ray: actors. local: one process without Ray, for debugging; the same numbers."""
    address: str = "local"
    """local: start a cluster here (in a Ray job: join the job's). auto: join the one that runs here. Or its address."""
    samplers: int = 1
    """Samplers that a run starts with, and keeps."""
    max_samplers: int = 0
    """More are asked for, up to so many, and join a run when there is place for them; 0: no more than `samplers`."""
    idle_timeout: float = 300.0
    """Seconds without work after which a sampler beyond `samplers` is sent away, so that its node can go; it is asked
    for again when chunks wait. Longer than an update takes, or samplers go and come in every iteration."""
    reward_workers: int = 1
    """0: samplers decode and score what they draw themselves. One process fewer to start, which pays where rewards are
    cheap and cores few; slow rewards then keep samplers waiting."""
    learner_ranks: int = 1
    """Workers that share the learner's micro-batches. They hold the same policy, and add up the same gradients in the
    same order, whatever their number."""
    chunks_in_flight: int = 2
    """Chunks that one sampler interleaves: while one waits for its scores, another denoises."""
    sampler_gpus: float = 0.0
    reward_gpus: float = 0.0
    learner_gpus: float = 0.0
    worker_cpus: float = 0.5
    """CPUs that Ray reserves for each worker."""
    worker_memory: float = 0.0
    """GB of memory that Ray reserves for each worker; 0: none."""
    sampler_labels: dict[str, str] = field(default_factory=dict)
    """Labels of the nodes that samplers may be on, such as {"ray.io/market-type" = "spot"}: Ray's label selectors,
    which also know "!spot" and "in(spot, on-demand)". Empty: any node."""
    reward_labels: dict[str, str] = field(default_factory=dict)
    """The same for reward workers."""
    learner_labels: dict[str, str] = field(default_factory=dict)
    """The same for the learner, which is never on a node with ray.io/market-type = spot, unless this names that label
    too. A node without the label will do."""
    timeout: float = 1800.0
    """Seconds that a worker may take to start, for a chunk (its rewards included), or for an update. One that takes
    longer is taken for hung, and replaced; a reward worker, after a quarter of it and guard.reward_timeout. So long
    a run also waits for a place for those that it cannot do without."""
    sync_tolerance: float = 1e-4
    """By how much a sampler's prediction may differ from the learner's with the same weights: see
    `raypref.train.canary`. Raise it where they compute on different kinds of devices, or in half precision."""

    def __post_init__(self) -> None:
        for name in ("samplers", "learner_ranks", "chunks_in_flight"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "use 1 or more.")
        require(self.reward_workers >= 0, "reward_workers", self.reward_workers,
                "use 0 (samplers score themselves) or more.")  # fmt: skip
        for name in () if self.reward_workers else ("reward_gpus", "reward_labels"):
            require(not getattr(self, name), name, getattr(self, name),
                    "samplers score where they are; leave it out, or use reward_workers = 1.")  # fmt: skip
        require(self.max_samplers >= 0, "max_samplers", self.max_samplers,
                "use 0 (no more than `samplers`) or the most that may join.")  # fmt: skip
        for name in ("sampler_gpus", "reward_gpus", "learner_gpus", "worker_cpus", "worker_memory"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "use 0 or more.")
        for name in ("sampler_gpus", "reward_gpus", "learner_gpus"):
            gpus = getattr(self, name)
            require(gpus <= 1 or gpus == int(gpus), name, gpus, "use a share of one GPU, or a whole number.")
        whole = self.learner_gpus == int(self.learner_gpus)
        require(self.learner_ranks == 1 or whole, "learner_gpus", self.learner_gpus, "each of learner_ranks = "
                f"{self.learner_ranks} needs a GPU of its own; use 1.0, or 0.0 (none is reserved).")  # fmt: skip
        for name in ("sampler_labels", "reward_labels", "learner_labels"):
            for label, selector in getattr(self, name).items():
                require(re.fullmatch(rf"({LABEL}/)?{LABEL}", label) is not None, f"{name}.{label}", selector,
                        'use a label such as "ray.io/market-type".')  # fmt: skip
                require(LABEL_SELECTOR.fullmatch(selector) is not None, f"{name}.{label}", selector,
                        'use a value such as "spot", or "!spot", "in(a, b)", "!in(a, b)".')  # fmt: skip
        for name in ("timeout", "idle_timeout"):
            require(getattr(self, name) > 0, name, getattr(self, name), "use a positive number of seconds.")
        require(self.sync_tolerance > 0, "sync_tolerance", self.sync_tolerance, "use a positive number, such as 1e-4.")


@dataclass(frozen=True)
class Experiment:
    """Everything that decides a run. The prompts themselves are read, so that workers need no file."""

    method: Method
    run: RunConfig = RunConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    sampling: SamplingConfig = SamplingConfig()
    reward: RewardConfig = RewardConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    reference: ReferenceConfig = ReferenceConfig()
    guard: GuardConfig = GuardConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    cluster: ClusterConfig = ClusterConfig()
    prompts: tuple[str, ...] = ()
    heldout_prompts: tuple[str, ...] = ()
    left_out: int = 0
    """How many of the source's prompts are not trained on because they are held out; told where the config is read."""
    watched: tuple[RewardConfig, ...] = ()
    """Rewards that are scored beside evaluate.rewards, with their settings: those that other runs were trained on."""

    def judged_on(self) -> str:
        """What the prompts of evaluations are: a policy that is judged on what it trains on is told so everywhere."""
        trained = len(set(self.heldout_prompts) & set(self.prompts))
        if not trained:
            return "held-out prompts"
        if trained == len(set(self.heldout_prompts)):
            return "training prompts"
        return f"prompts, {trained} of them trained on"

    def settings_of(self, reward: str) -> dict[str, Any]:
        """The settings of a reward, by its name, whatever it is here for: training, or judging."""
        if reward == self.reward.name:
            return self.reward.settings
        if reward in self.reward.also:
            return self.reward.also_settings.get(reward, {})
        of_others = {watched.name: watched.settings for watched in self.watched}
        return of_others.get(reward, self.evaluate.reward_settings.get(reward, {}))

    def scoring_timeout(self) -> float:
        """Seconds that a reward worker may be silent: one whose rewards all hang still answers."""
        rewards = 1 + len(self.reward.also) + len(self.evaluate.rewards) + len(self.watched)
        return self.cluster.timeout / 4 + rewards * self.guard.reward_timeout

    def policy_version(self, iteration: int) -> int:
        """The version of the weights that iteration's rollouts use; version v is the policy after v iterations."""
        return max(0, iteration - self.run.lag)
