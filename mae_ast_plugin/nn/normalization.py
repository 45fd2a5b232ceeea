"""Normalisation of the network's input: by statistics of the batches seen, by fixed ones, or by each clip's own.

Batch statistics are one mean and variance for whole spectrograms (MAE-AST) or one for each mel bin: training takes the
batch's own, inference the running ones. Padding is left out of them and processes of a distributed run share them.
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
    """Subtract the mean, divide by the standard deviation, multiply by ``scale``: (B, T, F) -> (B, T, F).

    ``num_bins`` is 1 for one mean and variance, or F for one of each mel bin; ``affine`` learns a factor and an offset
    for each of them.
    """

    def __init__(
        self, scale: float = 0.5, momentum: float = 0.1, eps: float = 1e-5, num_bins: int = 1, affine: bool = False
    ) -> None:
        super().__init__()
        self.scale, self.momentum, self.eps, self.num_bins = scale, momentum, eps, num_bins
        self.running_mean: Tensor
        self.running_var: Tensor
        self.num_batches_tracked: Tensor
        self.register_buffer("running_mean", torch.zeros(num_bins))
        self.register_buffer("running_var", torch.ones(num_bins))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.weight = nn.Parameter(torch.ones(num_bins)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_bins)) if affine else None

    def forward(self, spectrogram: Tensor, padding: Tensor | None = None, weight: float = 1.0) -> Tensor:
        """Normalise; ``padding`` (B, T) is true on frames that do not count, ``weight`` 0 leaves the batch out."""
        with torch.autocast(spectrogram.device.type, enabled=False):
            spectrogram = spectrogram.float()
            mean, var = self.running_mean, self.running_var
            if self.training and (weight > 0 or has_processes()):
                mean, var = self._batch_statistics(spectrogram, padding, weight)
            normalized = (spectrogram - mean) * ((var + self.eps).rsqrt() * self.scale)
            if self.weight is not None and self.bias is not None:
                normalized = normalized * self.weight + self.bias
            return normalized

    def _sum(self, values: Tensor) -> Tensor:
        """Sum (B, T, F) over what shares a statistic, in float64: (num_bins,)."""
        return (
            values.sum(dim=(0, 1), dtype=torch.float64) if self.num_bins > 1 else values.sum(dtype=torch.float64)[None]
        )

    @torch.no_grad()
    def _batch_statistics(self, spectrogram: Tensor, padding: Tensor | None, weight: float) -> tuple[Tensor, Tensor]:
        valid = spectrogram.new_ones(1, 1) if padding is None else (~padding).to(spectrogram.dtype)
        valid = valid.expand(spectrogram.shape[:2])[..., None] * weight
        count = valid.sum(dtype=torch.float64) * (spectrogram.shape[2] // self.num_bins)
        sums = sum_over_processes(torch.cat([self._sum(spectrogram * valid), count[None]]))
        mean, count = (sums[:-1] / sums[-1]).to(spectrogram.dtype), sums[-1]
        squares = sum_over_processes(self._sum((spectrogram - mean).square() * valid))
        var = (squares / count).to(spectrogram.dtype)
        unbiased = (squares / (count - 1).clamp(min=1)).to(spectrogram.dtype)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased, self.momentum)
        self.num_batches_tracked += 1
        return mean, var


class FixedNorm(nn.Module):
    """Subtract a mean and divide by a deviation that were measured beforehand: (B, T, F) -> (B, T, F).

    Both are one number or one for each mel bin, and are saved with the model.
    """

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", mean.float().reshape(-1))
        self.register_buffer("deviation", deviation.float().reshape(-1))

    def forward(self, spectrogram: Tensor, padding: Tensor | None = None, weight: float = 1.0) -> Tensor:
        """Normalise; what is padding and how much the batch weighs makes no difference."""
        with torch.autocast(spectrogram.device.type, enabled=False):
            return (spectrogram.float() - self.mean) / self.deviation


class ClipNorm(nn.Module):
    """Bring each clip to mean 0 and (unbiased) deviation 1 by its own frames: (B, T, F) -> (B, T, F).

    The clips beside it make no difference. A clip of one single value, as digital silence is, becomes zeros. A clip
    that the network sees in windows is normalised as a whole, before it is cut.
    """

    SMALLEST_DEVIATION = 1e-5

    def statistics(self, spectrogram: Tensor, padding: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each clip, (B, 1, 1) each; ``padding`` (B, T) is true on frames that do not count."""
        if padding is None:
            valid = spectrogram.new_ones(1, 1, 1).expand(*spectrogram.shape[:2], 1)
        else:
            valid = (~padding)[..., None].to(spectrogram.dtype)
        count = (valid.sum(dim=(1, 2), keepdim=True, dtype=torch.float64) * spectrogram.shape[2]).clamp(min=1)
        mean = ((spectrogram * valid).sum(dim=(1, 2), keepdim=True, dtype=torch.float64) / count).to(spectrogram.dtype)
        squares = ((spectrogram - mean) * valid).square().sum(dim=(1, 2), keepdim=True, dtype=torch.float64)
        deviation = (squares / (count - 1).clamp(min=1)).sqrt().to(spectrogram.dtype)
        return mean, deviation.clamp(min=self.SMALLEST_DEVIATION)

    def forward(self, spectrogram: Tensor, padding: Tensor | None = None, weight: float = 1.0) -> Tensor:
        """Normalise; how much the batch weighs makes no difference."""
        with torch.autocast(spectrogram.device.type, enabled=False):
            spectrogram = spectrogram.float()
            mean, deviation = self.statistics(spectrogram, padding)
            return (spectrogram - mean) / deviation
