"""The runs behind docs/claims.md: an arm is a method with its published loss; `reading.json` says what differs."""

from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from raypref.checks import check_rules
from raypref.config import load_experiment
from raypref.dry_run import sampled_evaluations, trained_evaluations
from raypref.train.experiment import Experiment

SEEDS = (0, 1, 2, 3, 4)
FOLDER = Path(__file__).parent
RUNS = Path("runs/claims")

# Twenty rows an iteration for all: five steps of four prompts, ten of two, or of four trajectories of one.
TREE = ("method.search.steps=[0,2,4,6,7]",)  # step 8 of 10 has seventy times the weight of the others in the KL
TWO_PROMPTS = ("run.prompts_per_iteration=2", "run.chunk_size=2")
CHAIN = ("method.search.steps=[0,1,2,3,4,5,6,7,8,9]", *TWO_PROMPTS)


@dataclass(frozen=True)
class Arm:
    """A method and what differs from its defaults."""

    name: str
    overrides: tuple[str, ...]
    iterations: int = 10
    offline: bool = False
    """Whether it learns from pairs that the pretrained model has drawn."""

    def experiment(self, seed: int) -> Experiment:
        """Its run under a seed."""
        overrides = [f"run.seed={seed}", f"run.iterations={self.iterations}", *self.overrides]
        if self.offline:
            overrides.append(f"data.path={pairs_of(seed).resolve()}")
        return load_experiment(FOLDER / "claims.toml", overrides, check_rules)


def pairs_of(seed: int) -> Path:
    """Where the pairs lie that methods on labelled pictures learn from."""
    return RUNS / f"pairs-{seed}"


def a_iteration(experiment: Experiment) -> int:
    """Network evaluations, drawing and training."""
    return sampled_evaluations(experiment) + trained_evaluations(experiment)


def _arm(name: str, method: str, *overrides: str, iterations: int = 10) -> Arm:
    return Arm(name, (f"method.name={method}", *overrides), iterations)


def with_psi(method: str, *overrides: str) -> list[Arm]:
    """The penalty of either sign on a method that has none of its own."""
    return [
        _arm(f"{method} + psi {sign}", method, *overrides, "method.psi_lambda=100.0", f"method.psi_sign={sign}")
        for sign in ("intended", "printed")
    ]


# SPO's scheme with the reward that all others train on; its own preference model has another scale and another aim.
SPO = (
    *("method.search.steps=[2,3,4,5,6,7,8,9]", "method.threshold=0.0", *TWO_PROMPTS),
    *("optimizer.batch_size=8", "optimizer.micro_batch_size=8"),
)
LONG = 30
"""Three times the samples, for the claim of stability; the first third serves the other claims."""

ARMS = [
    _arm("ddpo", "ddpo", CHAIN[0], "run.prompts_per_iteration=1", "run.chunk_size=1"),
    _arm("d3po", "d3po", *CHAIN, iterations=LONG),
    _arm("d3po_delta", "d3po_delta", *CHAIN),
    _arm("spo", "spo", *SPO, iterations=LONG),
    _arm("tailorpo", "tailorpo", *TREE),
    _arm("tailorpo_g", "tailorpo_g", *TREE),
    _arm("rdpo_star", "rdpo_star", *TREE),
    _arm("rdpo", "rdpo", *TREE, iterations=LONG),
    _arm("rdpo, DDPM", "rdpo", *TREE, "sampling.scheduler=ddpm"),
    *with_psi("d3po", *CHAIN),
    *with_psi("spo", *SPO),
    *with_psi("tailorpo", *TREE),
    *[_arm(f"rdpo, lambda = {value:g}", "rdpo", *TREE, f"method.psi_lambda={value}")
      for value in (0.01, 0.1, 1.0, 10.0, 10_000.0)],
]  # fmt: skip

PAIRS, BUDGET = 60, 2400
"""Pairs of a set, and network evaluations: the set's 60 x 2 x 10, and as many to train on it."""


def _equal(method: str, *overrides: str, offline: bool = False) -> Arm:
    """A method until it has spent the budget, a set that somebody else has paid for not counted."""
    name = f"{method}, equal evaluations"
    overrides = (f"method.name={method}", *overrides)
    iterations = ceil(BUDGET / a_iteration(Arm(name, overrides, offline=offline).experiment(0)))
    return Arm(name, (*overrides, f"evaluate.every={ceil(iterations / 4)}"), iterations, offline)


TWENTY = ("run.prompts_per_iteration=20", "run.chunk_size=20")
ONLINE = {
    "ddpo": (CHAIN[0], "run.prompts_per_iteration=1", "run.chunk_size=1"),
    "d3po": CHAIN,
    "d3po_delta": CHAIN,
    "spo": SPO,
    "tailorpo": TREE,
    "tailorpo_g": TREE,
    "rdpo_star": TREE,
    "rdpo": TREE,
}
OFFLINE = ("diffusion_dpo", "dspo", "dspo_e", "dspo_ref", "dspo_sdxl", "dro", "kto", "mapo", "sft", "spin")
# All methods with their published losses, at the learning rate of claims.toml: nothing is tuned for any of them.
EQUAL = [
    *[_equal(method, *overrides) for method, overrides in ONLINE.items()],
    *[_equal(method, *TWENTY, offline=True) for method in OFFLINE],
]
DSPO = next(arm for arm in EQUAL if arm.name.startswith("dspo,"))
SFT_AS_DSPO = replace(DSPO, name="sft, as long as dspo", overrides=("method.name=sft", *DSPO.overrides[1:]))
"""The identical schedule."""
EQUAL.append(SFT_AS_DSPO)
BEST_OF_N = _arm(
    *("best of N", "rdpo", "sampling.guidance_scale=3.0", "run.heldout_prompts=../prompts/animals_heldout.txt"),
    *("run.prompts_per_iteration=8", "run.chunk_size=8"),
)
"""Nothing is trained for this table, so it can afford guidance, and twice the pictures."""
