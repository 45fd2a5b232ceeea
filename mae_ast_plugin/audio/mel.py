"""Kaldi's mel filters: triangles whose slopes are linear in mel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

KALDI_LOW_HZ = 20.0


def mel_scale(hertz: Tensor) -> Tensor:
    """Map hertz to Kaldi's mel scale, 1127 ln(1 + f / 700)."""
    return 1127.0 * torch.log1p(hertz / 700.0)


def kaldi_mel_filters(
    num_mel_bins: int, fft_size: int, sample_rate: int, low_hz: float = KALDI_LOW_HZ, high_hz: float | None = None
) -> Tensor:
    """Build triangular filters that lie evenly in mel between two frequencies (None: the Nyquist frequency).

    Returns (fft_size // 2 + 1, num_mel_bins); the Nyquist bin has weight zero, as in Kaldi.
    """
    ends = torch.tensor([low_hz, sample_rate / 2 if high_hz is None else high_hz], dtype=torch.float64)
    lowest, highest = mel_scale(ends).tolist()
    edges = torch.linspace(lowest, highest, num_mel_bins + 2, dtype=torch.float64)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = mel_scale(torch.arange(fft_size // 2, dtype=torch.float64) * sample_rate / fft_size)[:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    filters = torch.minimum(rising, falling).clamp(min=0)
    return F.pad(filters, (0, 0, 0, 1)).float()
