"""How far apart two sets of pictures are, by features of a network: the maximum mean discrepancy.

Gretton et al. 2012 (JMLR 13), eq. 3: the unbiased estimate of MMD^2 with a Gaussian kernel. With features of CLIP of
length 1 and a bandwidth of 10 it is CMMD (Jayasumana et al. 2024, arXiv:2401.09603), but for their factor of 1000. Two
pictures of one prompt are no independent draws, so pairs within a prompt do not count; prompts are what is resampled.

The bootstrap says how sure a distance is where there is one. Where there is none the estimate is degenerate: its error
shrinks as 1/P, not as 1/sqrt(P), and the bootstrap overstates it (their section 5). Whether there is one is therefore
asked by permutation: without a difference, who drew which of the two sets of a prompt's pictures is a toss-up.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raypref.core.seeding import Key
from raypref.evaluate.bootstrap import interval, resamples
from raypref.evaluate.table import Measured

Kernel = Float[Tensor, "P Q"]

SWAPS = 4999
ROUNDING = 1e-12
"""Of a kernel's value."""


def median_distance(features: Float[Tensor, "P n F"]) -> float:
    """Between pictures of different prompts: a bandwidth that fits any features."""
    flat = features.double().flatten(0, 1)
    prompts = torch.arange(len(features)).repeat_interleave(features.shape[1])
    return float(torch.cdist(flat, flat)[prompts[:, None] != prompts].median())


def discrepancy_of_same_prompts(
    x: Float[Tensor, "P n F"], y: Float[Tensor, "P m F"], bandwidth: float, key: Key
) -> Measured:
    """MMD^2 between pictures of the same prompts in the same order, which are resampled together. 0 on average where
    both are drawn alike, and 0 where they are the same pictures."""
    kernel, drawn = _paired_kernel(x, y, bandwidth), _counts(resamples(len(x), key))
    return _figure(_between(kernel, torch.ones_like(drawn[:1])), _between(kernel, drawn), len(x))


def swap_test(x: Float[Tensor, "P n F"], y: Float[Tensor, "P n F"], bandwidth: float, key: Key) -> float:
    """The chance of an MMD^2 at least as large where nothing differs: the share of ways to swap x and y, prompt by
    prompt, that give one. To swap a prompt turns the sign of its row and of its column of the paired kernel. Exact
    (the plain order counts too) for any number of prompts; with P of them it is no less than 2^(1 - P)."""
    kernel = _paired_kernel(x, y, bandwidth)
    signs = 2.0 * torch.randint(2, (SWAPS, len(x)), generator=key("swaps").generator(), dtype=torch.int64).double() - 1
    swapped = torch.einsum("rp,pq,rq->r", signs, kernel, signs)
    as_large = int((swapped >= kernel.sum() - ROUNDING * len(x) ** 2).sum())
    return (1 + as_large) / (1 + SWAPS)


def discrepancy(x: Float[Tensor, "P n F"], y: Float[Tensor, "Q m F"], bandwidth: float, key: Key) -> Measured:
    """MMD^2 between sets that have nothing to do with each other; `n` counts the prompts of the first."""
    own = _kernel(x, x, bandwidth).fill_diagonal_(0.0)
    theirs = _kernel(y, y, bandwidth).fill_diagonal_(0.0)
    cross = _kernel(x, y, bandwidth) / (len(x) * len(y))

    def statistic(weights: Float[Tensor, "R P"], facing: Float[Tensor, "R Q"]) -> Float[Tensor, " R"]:
        both = torch.einsum("rp,pq,rq->r", weights, cross, facing)
        return _between(own, weights) + _between(theirs, facing) - 2 * both

    drawn, facing = _counts(resamples(len(x), key)), _counts(resamples(len(y), key("facing")))
    plain = statistic(torch.ones_like(drawn[:1]), torch.ones_like(facing[:1]))
    return _figure(plain, statistic(drawn, facing), len(x))


def _paired_kernel(x: Float[Tensor, "P n F"], y: Float[Tensor, "P m F"], bandwidth: float) -> Float[Tensor, "P P"]:
    """What each two different prompts add to the MMD^2 between pictures of the same prompts."""
    cross = _kernel(x, y, bandwidth)
    return (_kernel(x, x, bandwidth) + _kernel(y, y, bandwidth) - cross - cross.T).fill_diagonal_(0.0)


def _kernel(x: Float[Tensor, "P n F"], y: Float[Tensor, "Q m F"], bandwidth: float) -> Kernel:
    """The mean kernel between the pictures of each two prompts."""
    distances = torch.cdist(x.double().flatten(0, 1), y.double().flatten(0, 1))
    values = torch.exp(-distances.square() / (2 * bandwidth**2))
    return values.unflatten(0, x.shape[:2]).unflatten(2, y.shape[:2]).mean((1, 3))


def _between(kernel: Kernel, weights: Float[Tensor, "R P"]) -> Float[Tensor, " R"]:
    """The kernel's mean over pairs of different prompts, each as often as it was drawn; its diagonal is 0."""
    pairs = weights.sum(1).square() - weights.square().sum(1)
    return torch.einsum("rp,pq,rq->r", weights, kernel, weights) / pairs


def _counts(places: Int[Tensor, "R n"]) -> Float[Tensor, "R n"]:
    """How often each place was drawn."""
    ones = torch.ones(places.shape, dtype=torch.float64)
    return torch.zeros_like(ones).scatter_add_(1, places, ones)


def _figure(value: Float[Tensor, " one"], replicates: Float[Tensor, " R"], count: int) -> Measured:
    known = replicates[~replicates.isnan()]  # of few prompts a draw may hold one alone, and no pair
    return interval(float(value), float(known.std()), known, count)
