"""How values are drawn from what a codec predicts."""

import math

import torch
from torch import Tensor


def guided(values: Tensor, guidance: Tensor) -> Tensor:
    """Return x_0 + sum of guidance_i (x_0 - x_i) of values [1 + m, ...]."""
    return values[0] + (guidance.reshape(-1, *[1] * (values.ndim - 1)) * (values[0] - values[1:])).sum(0)


def guided_log_probs(log_probs: Tensor, guidance: Tensor | None) -> Tensor:
    """Sharpen log probabilities [1 + m, ..., values], not normalised again; what is impossible stays so."""
    if guidance is None:
        return log_probs
    return torch.where(log_probs[0].isfinite(), guided(log_probs, guidance), log_probs[0])


def guided_gaussian(mean: Tensor, log_std: Tensor, guidance: Tensor) -> tuple[Tensor, Tensor]:
    """Sharpen Gaussians [1 + m, ...] in closed form.

    Precisions, and precisions times means, add up by their weights. Where that would leave less than a quarter of the
    precision, all weights are lowered alike until it does not.
    """
    precision = (-2 * log_std).exp()
    change = guided(precision, guidance) - precision[0]
    share = torch.where(change < 0, (0.75 * precision[0] / -change).clamp(max=1.0), 1.0)
    weighted = precision * mean
    sharpened = precision[0] + share * change
    shifted = weighted[0] + share * (guided(weighted, guidance) - weighted[0])
    return shifted / sharpened, -0.5 * sharpened.log()


def sample_index(log_probs: Tensor, uniform: Tensor, temperature: float, top_k: int | None) -> tuple[Tensor, Tensor]:
    """Draw an index of the last axis, and how far into its share of the probability the uniform number fell.

    With one more axis in front of the numbers, as many draws of each.
    """
    if temperature == 0 or top_k == 1:
        return log_probs.argmax(-1), torch.full_like(uniform, 0.5)
    if top_k is not None and top_k < log_probs.shape[-1]:
        smallest = log_probs.topk(top_k, -1).values[..., -1:]
        log_probs = log_probs.masked_fill(log_probs < smallest, -math.inf)
    upper = (log_probs / temperature).softmax(-1).cumsum(-1)
    upper = upper / upper[..., -1:]
    is_several = uniform.ndim == upper.ndim
    numbers = (uniform.movedim(0, -1) if is_several else uniform[..., None]).contiguous()  # [..., draws]
    index = torch.searchsorted(upper, numbers, right=True)  # the first whose share reaches beyond the number
    end = upper.gather(-1, index)
    begin = torch.where(index > 0, upper.gather(-1, (index - 1).clamp(min=0)), 0.0)
    share = ((numbers - begin) / (end - begin)).clamp(0, 1)
    if is_several:
        return index.movedim(-1, 0), share.movedim(-1, 0)
    return index[..., 0], share[..., 0]
