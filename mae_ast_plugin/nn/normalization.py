"""Normalisation of the network's input by one mean and variance for whole spectrograms.

MAE-AST uses a one-channel BatchNorm for it (facts: training takes the batch's own statistics, inference the running
ones). Padding is left out of the statistics and processes of a distributed run share them.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn


def has_processes() -> bool:
    """Whether this is one of several processes of a distributed run."""
    return distributed.is_available() and distributed.is_initialized()


def sum_over_processes(values: Tensor) -> Tensor:
    """Add ``values`` over all processes of a distributed run, in place."""
    if has_processes():
        distributed.all_reduce(values)
    return values


class InputNorm(nn.Module):
    """Subtract the mean, divide by the standard deviation, multiply by ``scale``: (B, T, F) -> (B, T, F)."""

    def __init__(self, scale: float = 0.5, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.scale, self.momentum, self.eps = scale, momentum, eps
        self.running_mean: Tensor
        self.running_var: Tensor
        self.num_batches_tracked: Tensor
        self.register_buffer("running_mean", torch.zeros(1))
        self.register_buffer("running_var", torch.ones(1))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, spectrogram: Tensor, padding: Tensor | None = None, weight: float = 1.0) -> Tensor:
        """Normalise; ``padding`` (B, T) is true on frames that do not count, ``weight`` 0 leaves the batch out."""
        with torch.autocast(spectrogram.device.type, enabled=False):
            spectrogram = spectrogram.float()
            mean, var = self.running_mean, self.running_var
            if self.training and (weight > 0 or has_processes()):
                mean, var = self._batch_statistics(spectrogram, padding, weight)
            return (spectrogram - mean) * ((var + self.eps).rsqrt() * self.scale)

    @torch.no_grad()
    def _batch_statistics(self, spectrogram: Tensor, padding: Tensor | None, weight: float) -> tuple[Tensor, Tensor]:
        valid = spectrogram.new_ones(1, 1) if padding is None else (~padding).to(spectrogram.dtype)
        valid = valid.expand(spectrogram.shape[:2])[..., None] * weight
        count = valid.sum(dtype=torch.float64) * spectrogram.shape[2]
        sums = sum_over_processes(torch.stack([(spectrogram * valid).sum(dtype=torch.float64), count]))
        mean, count = (sums[0] / sums[1]).to(spectrogram.dtype), sums[1]
        squares = sum_over_processes(((spectrogram - mean).square() * valid).sum(dtype=torch.float64))
        var = (squares / count).to(spectrogram.dtype)
        unbiased = (squares / (count - 1).clamp(min=1)).to(spectrogram.dtype)
        self.running_mean.lerp_(mean.expand(1), self.momentum)
        self.running_var.lerp_(unbiased.expand(1), self.momentum)
        self.num_batches_tracked += 1
        return mean, var
