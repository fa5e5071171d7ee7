"""The table of docs/step-rewards.md: how often a step reward names the better step, on the tests' Gaussian toy."""

from raypref.core.search import StepReward
from tests.core.test_gaussian_toy import TOY, TRAINED, label_accuracy

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
    chains = TOY.chains(2000)
    print("| ranked by | " + " | ".join(f"step {step}" for step in TRAINED) + " |")
    print("|---" * (1 + len(TRAINED)) + "|")
    for rule in RULES:
        print(f"| `{rule}` | " + " | ".join(f"{share:.3f}" for share in label_accuracy(chains, rule).values()) + " |")
