"""The table of docs/step-rewards.md: how often a step reward names the better step, on the tests' Gaussian toy."""

from raypref.core.search import StepReward
from tests.core.test_gaussian_toy import TOYS, TRAINED, label_accuracy

RULES: tuple[StepReward, ...] = (
    "delta_cross",
    "q",
    "final",
    "lookahead_q",
    "lookahead_gain",
    "lookahead_printed",
    "delta_parent_printed",
)

if __name__ == "__main__":
    print("| reward | ranked by | " + " | ".join(f"step {step}" for step in TRAINED) + " |")
    print("|---" * (2 + len(TRAINED)) + "|")
    for name, toy in TOYS.items():
        chains = toy.chains(2000)
        for rule in RULES:
            shares = label_accuracy(toy, chains, rule).values()
            print(f"| {name} | `{rule}` | " + " | ".join(f"{share:.3f}" for share in shares) + " |")
