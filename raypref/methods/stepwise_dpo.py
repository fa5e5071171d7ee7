"""What D3PO, SPO, TailorPO and RDPO have in common: DPO on reverse steps. They differ by search and defaults."""

import warnings
from dataclasses import dataclass

from raypref.core.losses import Psi, PsiCenter, PsiSign, stepwise_dpo
from raypref.core.process import Gaussian, Reduce
from raypref.core.supervise import best_vs_worst, step_reward
from raypref.core.types import Loss, Rollout, Transitions
from raypref.methods.base import StepMethod


@dataclass(frozen=True)
class StepwiseDPO(StepMethod):
    """The best against the worst candidate of every prompt and step, by the search's step reward:

    L = -log sigmoid( beta (rho_w - rho_l) - lambda relu(rho_l) ),   rho = log pi_theta(x_s | x_t) / pi_ref(x_s | x_t)
    """

    beta: float = 0.1
    """Strength of the pull, per nat per element ("mean") or per nat ("sum"); beta_sum = beta_mean / (C H W)."""
    threshold: float = 0.0
    """Pairs count where tanh(gap / 2), for two scores as logits the difference of their probabilities, exceeds this."""
    psi_lambda: float = 0.0
    """Weight of RDPO's penalty on the loser's log-ratio, not multiplied by beta; 0 switches it off."""
    psi_sign: PsiSign = "intended"
    """intended: a loser above the reference is penalised, as RDPO's text says. printed: eq. 9 literally."""
    psi_inside_beta: bool = False
    """Multiplies psi_lambda by beta, as DPO-Positive places it."""
    psi_center: PsiCenter = "none"
    """kl: penalises relu(rho_l - KL), what exceeds the KL that drift alone shows; none: relu(rho_l)."""
    ratio_clip_eps: float = 0.0
    """Clamps rho to [log(1 - eps), log(1 + eps)]; the penalty stays unclamped; 0 switches it off."""
    logp_reduce: Reduce = "mean"
    """How log-probabilities are reduced over the latent's dimensions; published betas assume the mean."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta > 0:
            raise ValueError(f"beta = {self.beta}: use a positive number, such as 0.1.")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold = {self.threshold}: use 0 (only ties are dropped) or a number below 1.")
        if self.psi_lambda < 0:
            raise ValueError(f"psi_lambda = {self.psi_lambda}: use 0 (off) or more; psi_sign chooses the sign.")
        if not 0 <= self.ratio_clip_eps < 1:
            raise ValueError(f"ratio_clip_eps = {self.ratio_clip_eps}: use 0 (off) or a number below 1, such as 0.1.")
        if self.psi_sign == "printed" and self.psi_lambda > 0:
            warnings.warn(
                "psi_sign = 'printed' is RDPO's eq. 9 to the letter, which rewards a rising loser; 'intended' has the "
                "sign that the paper describes",
                stacklevel=2,
            )

    def supervise(self, rollout: Rollout) -> Transitions:
        """See `best_vs_worst`."""
        return best_vs_worst(rollout, step_reward(rollout, self.search.step_reward), self.threshold)

    def loss(self, policy: Gaussian, reference: Gaussian, batch: Transitions) -> Loss:
        """See `raypref.core.losses.stepwise_dpo`."""
        return stepwise_dpo(
            policy,
            reference,
            batch,
            beta=self.beta,
            psi=Psi(self.psi_lambda, self.psi_sign, self.psi_inside_beta, self.psi_center),
            ratio_clip_eps=self.ratio_clip_eps,
            logp_reduce=self.logp_reduce,
        )
