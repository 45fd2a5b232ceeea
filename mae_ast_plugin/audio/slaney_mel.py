"""Slaney's mel scale: linear below 1000 Hz, logarithmic above, triangles of equal area; and a log-mel made with it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mae_ast_plugin.audio.centred import CentredMel

WINDOW_MS, HOP_MS = 25, 10
LOW_HZ = 50.0
EPSILON = torch.finfo(torch.float32).eps  # added to energies before the logarithm: silence is -15.94

LINEAR_HZ = 200.0 / 3  # width of a mel below the corner
CORNER_HZ = 1000.0
CORNER_MEL = CORNER_HZ / LINEAR_HZ
LOG_STEP = math.log(6.4) / 27  # of a mel above it


def slaney_mel(hertz: float) -> float:
    """Map hertz to Slaney's mel scale."""
    if hertz < CORNER_HZ:
        return hertz / LINEAR_HZ
    return CORNER_MEL + math.log(hertz / CORNER_HZ) / LOG_STEP


def slaney_hertz(mel: Tensor) -> Tensor:
    """Map Slaney's mel scale to hertz."""
    above = CORNER_HZ * torch.exp(LOG_STEP * (mel - CORNER_MEL).clamp(min=0))
    return torch.where(mel < CORNER_MEL, mel * LINEAR_HZ, above)


def slaney_filters(num_mel_bins: int, fft_size: int, sample_rate: int, low_hz: float, high_hz: float) -> Tensor:
    """Build triangles between points equally far apart in mel, linear in hertz, of area 1: (fft_size // 2 + 1, F).

    In float64: what is rounded is the result only.
    """
    points = torch.linspace(slaney_mel(low_hz), slaney_mel(high_hz), num_mel_bins + 2, dtype=torch.float64)
    edges = slaney_hertz(points)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = (torch.arange(fft_size // 2 + 1, dtype=torch.float64) * sample_rate / fft_size)[:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return torch.minimum(rising, falling).clamp(min=0) * (2 / (right - left))


def natural_log(energies: Tensor, own: Tensor | None = None) -> Tensor:
    """Compress energies (B, T, F) by ln(x + epsilon); which frames are a clip's own makes no difference."""
    return (energies + EPSILON).log()


def slaney_log_mel(num_features: int = 80, sample_rate: int = 16000) -> CentredMel:
    """Make the log-mel of 25 ms periodic Hann windows every 10 ms, from 50 Hz to the Nyquist frequency."""
    window_size = sample_rate * WINDOW_MS // 1000
    return CentredMel(
        sample_rate=sample_rate,
        fft_size=window_size,
        hop=sample_rate * HOP_MS // 1000,
        window=torch.hann_window(window_size, dtype=torch.float64),
        filters=slaney_filters(num_features, window_size, sample_rate, LOW_HZ, sample_rate / 2),
        compression=natural_log,
    )
