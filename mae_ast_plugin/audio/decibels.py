"""Log-mel in decibels: centred Hann frames, triangles on the HTK mel scale, a floor under each clip's own maximum.

At 16 kHz 512 samples a window and 160 a hop: what torchaudio calls MelSpectrogram and AmplitudeToDB. The floor is
taken under the maximum of the clip, not of the batch it happens to be in.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from mae_ast_plugin.audio.centred import CentredMel

WINDOW_MS, HOP_MS = 32, 10
LEAST_POWER = 1e-10
RANGE_DB = 120.0


def htk_mel(hertz: Tensor) -> Tensor:
    """Map hertz to the HTK mel scale, 2595 log10(1 + f / 700)."""
    return 2595.0 * torch.log10(1.0 + hertz / 700.0)


def htk_hertz(mel: Tensor) -> Tensor:
    """Undo :func:`htk_mel`."""
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)


def htk_mel_filters(num_mel_bins: int, fft_size: int, sample_rate: int) -> Tensor:
    """Build triangles of height 1 whose slopes are linear in hertz, from 0 Hz to the Nyquist frequency.

    Returns (fft_size // 2 + 1, num_mel_bins).
    """
    nyquist = torch.tensor(sample_rate / 2, dtype=torch.float64)
    edges = htk_hertz(torch.linspace(0.0, float(htk_mel(nyquist)), num_mel_bins + 2, dtype=torch.float64))
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = torch.arange(fft_size // 2 + 1, dtype=torch.float64)[:, None] * sample_rate / fft_size
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return torch.minimum(rising, falling).clamp(min=0).float()


def decibels(energies: Tensor, own: Tensor | None = None, range_db: float = RANGE_DB) -> Tensor:
    """Bring energies (B, T, F) to decibels, each clip's lowest no more than ``range_db`` below its highest.

    ``own`` (B, T) is true at frames that are the clip's own; the others have no say in its maximum.
    """
    level = 10.0 * energies.clamp(min=LEAST_POWER).log10()
    heard = level if own is None else level.masked_fill(~own[..., None], float("-inf"))
    return torch.maximum(level, heard.amax(dim=(1, 2), keepdim=True) - range_db)


def decibel_mel(num_features: int, sample_rate: int) -> CentredMel:
    """Make the front end of ``num_features`` mel bins for waveforms of ``sample_rate``."""
    fft_size = sample_rate * WINDOW_MS // 1000
    return CentredMel(
        sample_rate=sample_rate,
        fft_size=fft_size,
        hop=sample_rate * HOP_MS // 1000,
        window=torch.hann_window(fft_size, periodic=True, dtype=torch.float64),
        filters=htk_mel_filters(num_features, fft_size, sample_rate),
        compression=partial(decibels, range_db=RANGE_DB),
    )
