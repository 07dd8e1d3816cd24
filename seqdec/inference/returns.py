"""Which returns are possible from here, and which an expert would get: p(R | what was written), and that tilted.

    expert   p(R) exp(kappa R / range of the data's returns), for R up to a quantile of p(R)

(Lee et al. 2022, equation 3; control as inference, Levine 2018.) What is asked for is then sampled, so that no target
has to be chosen, and it stays inside of what the model has seen to be possible.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from seqdec.inference.context import Context

NUM_QUANTILES = 512
KAPPA, CAP = 10.0, 0.99


@torch.inference_mode()
def returns(context: Context, num_quantiles: int = NUM_QUANTILES) -> Tensor:
    """Return the predictive distribution of the return to go, as equally likely values in order, raw units [B, n].

    Their mean is the expected return, and the share of them above a number is the probability of earning more.

    Args:
        context: written up to the return to go of a timestep; it stays as it is.
        num_quantiles: n.

    Raises:
        UsageError: the layout does not predict `return_to_go`, or a slot before it has not been written.

    Example:
        >>> context = Context(model, num_sequences=2)
        >>> context.write(observation=observations)
        >>> returns(context).mean(1)
    """
    distribution = context.predict("return_to_go")
    shares = (torch.arange(num_quantiles, device=context.model.device) + 0.5) / num_quantiles
    values = distribution.sample(shares[:, None, None].expand(-1, context.num_sequences, 1))
    return values[..., 0].T.sort(1).values


@torch.inference_mode()
def expert_return(context: Context, *, kappa: float = KAPPA, cap: float = CAP, mode: bool = False) -> Tensor:
    """Return a return to go that an expert would get from here, raw units [B, 1], sampled or its most likely value.

    Args:
        context: written up to the return to go of a timestep; only its random numbers are used up.
        kappa: how much an expert prefers returns, over the range of the data's; 0 is the data's own choice.
        cap: the quantile of the predicted returns beyond which nothing is asked for.
        mode: take the value of highest density instead of a sample.

    Raises:
        UsageError: as `returns` does.
    """
    values, weights = tilted(context, kappa=kappa, cap=cap)
    if mode:
        density = context.predict("return_to_go").log_prob(values.T[..., None])
        slope = kappa / _range(context.model.data.returns)
        score = (density.T + slope * values).masked_fill(weights == 0, -torch.inf)
        return values.gather(1, score.argmax(1, keepdim=True))
    below = weights.cumsum(1)
    uniform = context.draw((1,)) * below[:, -1:]
    return values.gather(1, torch.searchsorted(below, uniform, right=True).clamp(max=values.shape[1] - 1))


@torch.inference_mode()
def tilted(context: Context, *, kappa: float = KAPPA, cap: float = CAP) -> tuple[Tensor, Tensor]:
    """Return what an expert would get from here: returns in order [B, n], and the probability of each [B, n]."""
    values = returns(context)
    shares = (torch.arange(values.shape[1], device=values.device) + 0.5) / values.shape[1]
    slope = kappa / _range(context.model.data.returns)
    weights = (slope * values).masked_fill(shares > cap, -torch.inf).softmax(1)
    return values, weights


def _range(data_returns: Mapping[str, float]) -> float:
    return max(data_returns["max"] - data_returns["min"], 1e-9)
