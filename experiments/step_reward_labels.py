"""How often a step reward names the better step of two with different parents: the table of docs/step-rewards.md.

On Gaussian data the denoiser is exact and the advantage of every step is known.
"""

import math
from collections.abc import Callable

import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

from raypref.core.process import Gaussian, Process, ddim
from raypref.core.schedule import Schedule
from raypref.core.search import StepReward
from raypref.core.supervise import best_vs_worst, step_reward
from raypref.core.types import LOSE, WIN, Rollout

RULES: tuple[StepReward, ...] = (
    "delta_cross",
    "q",
    "final",
    "lookahead_q",
    "lookahead_gain",
    "lookahead_printed",
    "delta_parent_printed",
)
SHAPE = (1, 2, 4)
CENTER = torch.linspace(-1.0, 1.5, 8, dtype=torch.float64).reshape(SHAPE)
SPREAD = torch.tensor([0.3, 0.5, 0.8, 1.0, 1.2, 0.6, 0.4, 1.5], dtype=torch.float64).reshape(SHAPE)
LIKED = torch.tensor([1.0, -0.7, 0.5, 0.0, 0.3, -1.0, 0.9, 0.4], dtype=torch.float64).reshape(SHAPE)
TRAINED = (0, 4, 8, 12, 16)


def linear(x_0: Tensor) -> Tensor:
    """A reward with Q = V: what is predicted scores as what is to come, on average."""
    return (x_0 * LIKED).sum((-3, -2, -1))


def saturating(x_0: Tensor) -> Tensor:
    """A reward for which the prediction, a mean, scores otherwise than the pictures that it is the mean of."""
    return (torch.tanh(3 * (x_0 - CENTER) / SPREAD) * LIKED).sum((-3, -2, -1))


class GaussianData:
    """Data N(CENTER, SPREAD^2), its exact denoiser under DDIM with full noise, and a reward."""

    def __init__(self, reward: Callable[[Tensor], Tensor]) -> None:
        self.reward = reward
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2  # Stable Diffusion's
        alphas_cumprod = torch.cumprod(1 - betas, 0)
        self.schedule = Schedule(alphas_cumprod, float(alphas_cumprod[0]))
        self.process: Process = ddim(self.schedule, 20, 1.0)

    def out(self, step: int, x: Tensor) -> Tensor:
        """E[noise | x_t]."""
        alpha_bar = float(self.schedule.alphas_cumprod[int(self.process.t[step])])
        variance = alpha_bar * SPREAD**2 + 1 - alpha_bar
        return math.sqrt(1 - alpha_bar) * (x - math.sqrt(alpha_bar) * CENTER) / variance

    def reverse(self, step: int, x: Tensor) -> Gaussian:
        return self.process.reverse(torch.full((x.shape[-4],), step), x, self.out(step, x))

    def quality(self, step: int, x: Tensor) -> Tensor:
        """Q: the reward of the predicted clean latent; after the last step, of the latent."""
        if step < len(self.process):
            x = self.process.x_0(torch.full((x.shape[-4],), step), x, self.out(step, x))
        return self.reward(x)

    def value(self, step: int, x: Tensor) -> Tensor:
        """V: the expected reward of the finished latent, by quadrature. Steps are affine in the state, dimension by
        dimension, so what is to come is normal: its mean is the end of the trajectory without noise."""
        variance = torch.zeros(SHAPE, dtype=torch.float64)
        for later in range(step, len(self.process)):
            ends = torch.stack([torch.zeros(SHAPE), torch.ones(SHAPE)]).double()
            low, high = self.reverse(later, ends).mean
            variance = variance * (high - low) ** 2 + self.process.sigma[later] ** 2
            x = self.reverse(later, x).mean
        nodes, weights = hermegauss(40)
        rewards = torch.stack([self.reward(x + float(node) * variance.sqrt()) for node in nodes], -1)
        return (rewards * torch.from_numpy(weights)).sum(-1) / math.sqrt(2 * math.pi)

    def advantage(self, steps: Tensor, x_t: Tensor, x_s: Tensor) -> Tensor:
        """V(x_s) - V(x_t) of every row."""
        found = torch.empty(x_s.shape[:-3], dtype=torch.float64)
        for step in steps.unique().tolist():
            rows = steps == step
            parent = self.value(step, x_t[:, rows]).expand(len(x_s), -1)
            found[:, rows] = self.value(step + 1, x_s[:, rows]) - parent
        return found

    def chains(self, prompts: int, group: int = 2) -> Rollout:
        """Trajectories of each prompt from one x_T, with everything scored."""
        generator = torch.Generator().manual_seed(0)

        def noise(count: int) -> Tensor:
            return torch.randn(count, prompts, *SHAPE, generator=generator, dtype=torch.float64)

        states = [noise(1).expand(group, -1, -1, -1, -1)]
        for step in range(len(self.process)):
            states.append(self.reverse(step, states[-1]).sample(noise(group)))
        quality = [self.quality(step, x) for step, x in enumerate(states)]

        def recorded(values: list[Tensor], offset: int) -> Tensor:
            return torch.stack([values[step + offset] for step in TRAINED], 2).transpose(0, 1)

        return Rollout(
            prompts=("a",) * prompts,
            steps=torch.tensor(TRAINED),
            x_t=torch.stack([states[step] for step in TRAINED], 2).transpose(0, 1),
            x_s=torch.stack([states[step + 1] for step in TRAINED], 2).transpose(0, 1),
            value=recorded(quality, 1)[..., None],
            parent_value=recorded(quality, 0)[..., None],
            next_value=recorded(quality, 2)[..., None],
            final=quality[-1].T[..., None],
            mean=None,
            policy_version=0,
            policy_checksum="",
        )


TOYS = {"linear": GaussianData(linear), "saturating": GaussianData(saturating)}


def label_accuracy(toy: GaussianData, chains: Rollout, kind: StepReward) -> dict[int, float]:
    """Trained step -> share of the pairs whose winner has the larger true advantage, each arm from its own parent."""
    pairs = best_vs_worst(chains, step_reward(chains, kind))
    true = toy.advantage(pairs.steps, pairs.x_t, pairs.x_s)
    right = (true[WIN] > true[LOSE]).double()
    return {step: float(right[pairs.steps == step].mean()) for step in TRAINED}


if __name__ == "__main__":
    print("| reward | ranked by | " + " | ".join(f"step {step}" for step in TRAINED) + " |")
    print("|---" * (2 + len(TRAINED)) + "|")
    for name, toy in TOYS.items():
        chains = toy.chains(2000)
        for rule in RULES:
            shares = label_accuracy(toy, chains, rule).values()
            print(f"| {name} | `{rule}` | " + " | ".join(f"{share:.3f}" for share in shares) + " |")
