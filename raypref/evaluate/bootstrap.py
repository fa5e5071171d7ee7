"""How sure a mean over prompts is: its standard error, and a bootstrap interval whose draws are addressed.

The unit is the prompt: pictures of one prompt are no independent draws, and prompts are what another evaluation would
have others of. Policies are compared prompt by prompt, from the same noise, so an interval of a difference is that of
one value a prompt: the paired bootstrap.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raypref.core.seeding import Key
from raypref.evaluate.table import Measured

RESAMPLES = 2000
INTERVAL = (0.025, 0.975)


def resamples(count: int, key: Key) -> Int[Tensor, "R n"]:
    """Places drawn with replacement, `count` in each of RESAMPLES rows; each row has a mirror image, so that values in
    ascending order have, with their signs changed, the interval with its signs changed."""
    half = torch.randint(count, (RESAMPLES // 2, count), generator=key.generator())
    return torch.cat([half, count - 1 - half])


def measured(values: Float[Tensor, " P"], key: Key) -> Measured:
    """The mean of one value a prompt; NaN ones do not count. The order of prompts does not matter, to the last bit."""
    known = values[~values.isnan()].double().sort().values
    count = len(known)
    if not count:
        return Measured(math.nan, math.nan, math.nan, math.nan, 0)
    error = float(known.std()) / count**0.5 if count > 1 else math.nan
    return interval(float(known.mean()), error, known[resamples(count, key)].mean(1), count)


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
