"""The moving average of a policy's weights: smoother than the policy, and what users are then given of it."""

from jaxtyping import Float
from torch import Tensor


def follow(average: Float[Tensor, " n"], policy: Float[Tensor, " n"], update: int, decay: float) -> Float[Tensor, " n"]:
    """The average after optimizer update number `update` (1, 2, ...), which led to `policy`:

        average <- d average + (1 - d) policy,    d = 0 at the first update, then min(decay, update / (update + 9))

    The warm-up is that of diffusers' EMAModel: without it a short run's average would be the model that it began with.
    """
    kept = 0.0 if update == 1 else min(decay, update / (update + 9))
    return average.lerp(policy, 1 - kept)
