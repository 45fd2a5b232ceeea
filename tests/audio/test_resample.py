"""Both resamplers against direct formulas and laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mae_ast_plugin.audio.resample import resample, sinc_hann
from mae_ast_plugin.errors import PlainError


def sine(frequency: float, rate: int, num_samples: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(num_samples) / rate)).astype(np.float32)


def direct_sinc_hann(waveform: np.ndarray, source: int, target: int) -> np.ndarray:
    """Sum the windowed sinc for each output sample in float64; the signal is zero outside."""
    cutoff = 0.99 * min(source, target)
    output = np.zeros(math.ceil(len(waveform) * target / source))
    taps = np.arange(len(waveform)) / source
    for index in range(len(output)):
        phase = cutoff * (taps - index / target)
        window = np.where(np.abs(phase) < 6, np.cos(np.pi * phase / 12) ** 2, 0)
        output[index] = (waveform * np.sinc(phase) * window).sum() * cutoff / source
    return output


@pytest.mark.parametrize(("source", "target"), [(48000, 16000), (44100, 16000), (8000, 16000), (22050, 16000)])
@pytest.mark.parametrize("num_samples", [1, 7, 997])
def test_sinc_hann_equals_the_direct_formula(source: int, target: int, num_samples: int) -> None:
    waveform = np.random.default_rng(num_samples).uniform(-1, 1, num_samples).astype(np.float32)
    expected = direct_sinc_hann(waveform.astype(np.float64), source, target)
    resampled = sinc_hann(torch.from_numpy(waveform), source, target).numpy()
    assert resampled.shape == expected.shape
    assert np.abs(resampled - expected).max() < 2e-6


def test_sinc_hann_of_a_batch_equals_that_of_each_clip() -> None:
    clips = torch.randn(2, 3, 501, generator=torch.Generator().manual_seed(0))
    batch = sinc_hann(clips, 44100, 16000)
    assert batch.shape == (2, 3, math.ceil(501 * 16000 / 44100))
    for row in range(2):
        for column in range(3):
            torch.testing.assert_close(batch[row, column], sinc_hann(clips[row, column], 44100, 16000))


def test_equal_rates_change_nothing() -> None:
    waveform = sine(440, 16000, 100)
    assert resample(waveform, 16000, 16000) is waveform
    assert torch.equal(sinc_hann(torch.from_numpy(waveform), 16000, 16000), torch.from_numpy(waveform))


@pytest.mark.parametrize("source", [8000, 22050, 44100, 48000])
def test_resampling_keeps_the_frequency_and_the_level_of_a_sine(source: int) -> None:
    resampled = resample(sine(1000, source, source), source, 16000)
    assert resampled.dtype == np.float32
    assert abs(len(resampled) - 16000) <= 1
    middle = resampled[1000:-1000]
    expected = sine(1000, 16000, len(resampled))[1000:-1000]
    assert np.abs(middle - expected).max() < 1e-3


def test_resampling_removes_what_the_lower_rate_cannot_hold() -> None:
    resampled = resample(sine(11000, 48000, 48000), 48000, 16000)
    assert np.abs(resampled[500:-500]).max() < 1e-4


@pytest.mark.parametrize(("source", "target"), [(0, 16000), (16000, -1)])
def test_a_rate_that_is_not_positive_is_a_plain_error(source: int, target: int) -> None:
    with pytest.raises(PlainError, match="both rates must be positive"):
        resample(sine(440, 16000, 10), source, target)
    with pytest.raises(PlainError, match="both rates must be positive"):
        sinc_hann(torch.zeros(10), source, target)
