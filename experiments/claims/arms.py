"""The runs behind docs/claims.md: an arm is a method with its published loss; `reading.json` says what differs."""

from dataclasses import dataclass
from pathlib import Path

from raypref.config import load_experiment
from raypref.train.experiment import Experiment

SEEDS = (0, 1, 2, 3, 4)
FOLDER = Path(__file__).parent

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

    def experiment(self, seed: int) -> Experiment:
        """Its run under a seed."""
        return load_experiment(
            FOLDER / "claims.toml",
            [f"run.seed={seed}", f"run.iterations={self.iterations}", *self.overrides],
        )


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

BEST_OF_N = _arm(
    *("best of N", "rdpo", "sampling.guidance_scale=3.0", "run.heldout_prompts=../prompts/animals_heldout.txt"),
    *("run.prompts_per_iteration=8", "run.chunk_size=8"),
)
"""Nothing is trained for this table, so it can afford guidance, and twice the pictures."""
