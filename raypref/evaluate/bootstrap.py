"""How sure a mean over prompts is: its standard error, and a bootstrap interval whose draws are addressed.

The unit is the prompt: pictures of one prompt are no independent draws, and prompts are what another evaluation would
have others of. Policies are compared prompt by prompt, from the same noise, so an interval of a difference is that of
one value a prompt: the paired bootstrap.

Resampling shows nothing that was not seen: of twelve wins in twelve it makes an interval of no width. So a share near 0
or 1, or the same for all prompts, has Wilson's interval instead (Wilson 1927), with as many draws as there are prompts.
A prompt's share of its pictures varies less than the one draw that it counts for, so this errs towards too wide.
"""

import math
from dataclasses import replace
from statistics import NormalDist

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raypref.core.seeding import Key
from raypref.evaluate.table import Measured

RESAMPLES = 2000
INTERVAL = (0.025, 0.975)
FEWEST = 5.0
"""Prompts that must be won, and prompts that must be lost, for a share's bootstrap to be trusted."""


def resamples(count: int, key: Key) -> Int[Tensor, "R n"]:
    """Places drawn with replacement, `count` in each of RESAMPLES rows; each row has a mirror image, so that values in
    ascending order have, with their signs changed, the interval with its signs changed."""
    half = torch.randint(count, (RESAMPLES // 2, count), generator=key.generator())
    return torch.cat([half, count - 1 - half])


def measured(values: Float[Tensor, " P"], key: Key) -> Measured:
    """The mean of one value a prompt; NaN ones do not count. The order of prompts does not matter, to the last bit."""
    known = values[~values.isnan()].double().sort().values
    count, mean = len(known), float(known.mean())
    if count < 2:
        return Measured(mean, math.nan, math.nan, math.nan, count)
    return interval(mean, float(known.std()) / count**0.5, known[resamples(count, key)].mean(1), count)


def share(values: Float[Tensor, " P"], key: Key) -> Measured:
    """The same of values from 0 to 1, with Wilson's interval where resampling would understate it."""
    found = measured(values, key)
    rarer = found.n * min(found.mean, 1 - found.mean)
    if found.n < 2 or (rarer >= FEWEST and found.standard_error > 0):
        return found
    low, high = wilson(found.mean, found.n)
    return replace(found, low=low, high=high)


def wilson(mean: float, count: int) -> tuple[float, float]:
    """Wilson's interval of a share of `count` draws."""
    z = NormalDist().inv_cdf(INTERVAL[1])
    centre, width = mean + z**2 / (2 * count), z * math.sqrt(mean * (1 - mean) / count + (z / (2 * count)) ** 2)
    return max(0.0, (centre - width) / (1 + z**2 / count)), min(1.0, (centre + width) / (1 + z**2 / count))


def interval(mean: float, standard_error: float, replicates: Float[Tensor, " R"], count: int) -> Measured:
    """A figure with the quantiles of its bootstrap replicates."""
    low, high = torch.quantile(replicates, torch.tensor(INTERVAL, dtype=replicates.dtype)).tolist()
    return Measured(mean, standard_error, low, high, count)


def by_prompt(values: Float[Tensor, "P n"]) -> Float[Tensor, " P"]:
    """The mean over the pictures of each prompt; missing ones do not count, NaN where all are missing."""
    return values.double().nanmean(1)


def won(ours: Float[Tensor, "P n"], theirs: Float[Tensor, "P n"]) -> Float[Tensor, "P n"]:
    """1 where our picture scores higher than theirs from the same noise, 0 where lower, 1/2 for a tie, NaN where a
    score is missing."""
    return _where_both((ours > theirs) + 0.5 * (ours == theirs), ours, theirs)


def tied(ours: Float[Tensor, "P n"], theirs: Float[Tensor, "P n"]) -> Float[Tensor, "P n"]:
    """1 for a tie, else 0; NaN where a score is missing."""
    return _where_both((ours == theirs).float(), ours, theirs)


def _where_both(
    values: Float[Tensor, "P n"], ours: Float[Tensor, "P n"], theirs: Float[Tensor, "P n"]
) -> Float[Tensor, "P n"]:
    return values.masked_fill(ours.isnan() | theirs.isnan(), torch.nan)
