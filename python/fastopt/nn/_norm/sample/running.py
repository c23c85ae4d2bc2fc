"""Running statistics of InstanceNorm."""

from __future__ import annotations

import torch
from torch import Tensor


def update(
    running_mean: Tensor, running_var: Tensor, input: Tensor, statistics: Tensor, momentum: float, eps: float
) -> None:
    """Updates running statistics as torch does: by the mean over the samples of each channel's mean, and of its
    unbiased variance. ``statistics`` are those of the input."""
    samples, channels = input.shape[:2]
    count = input.numel() // max(samples * channels, 1)
    with torch.no_grad():
        mean, inverse_std = statistics.detach().double().reshape(2, samples, channels)
        variance = (inverse_std.pow(-2) - eps).clamp(min=0)
        new = (mean.mean(0), variance.mean(0) * (count / (count - 1)))
        for own, now in zip((running_mean, running_var), new, strict=True):
            own.detach().copy_(momentum * now + (1 - momentum) * own.detach())
