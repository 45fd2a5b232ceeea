"""Log-mel of pre-emphasised sound: centred frames, Kaldi's filters up to 1 kHz below the Nyquist frequency.

At 32 kHz: windows of 800 samples in a spectrum of 1024, 320 a hop, 0 to 15000 Hz; the natural logarithm is brought to
about the range of -1.4 (silence) to 1. In training the filters' outer edges may vary from batch to batch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from mae_ast_plugin.audio.centred import CentredMel
from mae_ast_plugin.audio.mel import kaldi_mel_filters

WINDOW_MS, HOP_MS = 25, 10
PREEMPHASIS = 0.97
LEAST_POWER = 1e-5
OFFSET, SCALE = 4.5, 5.0
# In training the lowest frequency lies up to so much above 0 Hz, and the highest in a range of such a width [Hz].
LOW_SPREAD_HZ, HIGH_SPREAD_HZ = 10, 2000
# What LAME leaves of 32 kHz mono at its default bit rate: -3 dB at 11.0 kHz, -49 dB at 11.25 kHz.
MP3_LOW_PASS_HZ = 11100.0


def scaled_log(energies: Tensor, own: Tensor | None = None) -> Tensor:
    """Bring energies (B, T, F) to logarithms, and those to about the range of -1.4 (silence) to 1."""
    return (torch.log(energies + LEAST_POWER) + OFFSET) / SCALE


class EmphasisedMel(CentredMel):
    """The convention for ``num_features`` mel bins and waveforms of ``sample_rate``.

    ``low_pass_hz`` leaves out what lies above, as if the sound had been coded so that it is silent there.
    """

    def __init__(self, num_features: int, sample_rate: int, low_pass_hz: float | None = None) -> None:
        window_size = sample_rate * WINDOW_MS // 1000
        fft_size = 1 << (window_size - 1).bit_length()
        super().__init__(
            sample_rate=sample_rate,
            fft_size=fft_size,
            hop=sample_rate * HOP_MS // 1000,
            window=torch.hann_window(window_size, periodic=False, dtype=torch.float64),
            filters=torch.zeros(fft_size // 2 + 1, num_features),
            compression=scaled_log,
            preemphasis=PREEMPHASIS,
        )
        self.highest_hz, self.low_pass_hz = (sample_rate - HIGH_SPREAD_HZ) / 2, low_pass_hz
        self.filters.copy_(self.filters_between(0.0, self.highest_hz))

    def filters_between(self, low_hz: float, high_hz: float) -> Tensor:
        """Build the filters (fft_size // 2 + 1, F) for other outer edges, on the host."""
        filters = kaldi_mel_filters(self.num_features, self.fft_size, self.sample_rate, low_hz, high_hz)
        if self.low_pass_hz is not None:
            filters[torch.arange(len(filters)) * (self.sample_rate / self.fft_size) > self.low_pass_hz] = 0.0
        return filters

    def vary(self, waveforms: Tensor, lengths: Sequence[int] | None, seed: int) -> Tensor:
        """Compute features with outer edges of the filters that ``seed`` draws, the same for the whole batch."""
        draw = random.Random(seed)
        low_hz = draw.randrange(LOW_SPREAD_HZ)
        high_hz = self.highest_hz + HIGH_SPREAD_HZ / 2 - draw.randrange(HIGH_SPREAD_HZ)
        filters = self.filters_between(low_hz, high_hz)
        if waveforms.device.type == "cuda":  # a copy from ordinary memory would wait until the GPU is idle
            filters = filters.pin_memory()
        return self(waveforms, lengths, filters.to(waveforms.device, non_blocking=True))
