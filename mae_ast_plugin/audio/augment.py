"""Changes of a waveform that training may draw: louder, shifted, mixed with another. The draws are the caller's."""

from __future__ import annotations

from torch import Tensor


def gain(waveform: Tensor, decibels: float) -> Tensor:
    """Make a waveform (..., S) louder by so many dB, or quieter by negative ones."""
    return waveform * 10.0 ** (decibels / 20)


def roll(waveform: Tensor, num_samples: int) -> Tensor:
    """Shift a waveform (..., S) to later; what leaves it at the end comes back at the beginning."""
    return waveform.roll(num_samples, dims=-1)


def mix(waveform: Tensor, other: Tensor, share: float) -> Tensor:
    """Add ``share`` of a waveform (..., S) and ``1 - share`` of another, each brought to mean 0."""
    mixed = share * _centred(waveform) + (1 - share) * _centred(other)
    return _centred(mixed)  # rounding leaves a little


def mix_labels(labels: Tensor, other: Tensor, share: float) -> Tensor:
    """Mix multi-hot labels (..., C) of two waveforms as `mix` mixes these."""
    return share * labels + (1 - share) * other


def _centred(waveform: Tensor) -> Tensor:
    return waveform - waveform.mean(dim=-1, keepdim=True)
