"""Change the sample rate of a waveform: soxr for reading files, a windowed sinc for published systems that used it.

`resample` is the one for new work (numpy, high quality). `sinc_hann` repeats the resampler that the published MAE-AST
features were made with, value for value, in torch and for a whole batch. Neither knows of files.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mae_ast_plugin.errors import PlainError

ZERO_CROSSINGS = 6
ROLL_OFF = 0.99


def resample(waveform: NDArray[np.float32], source_rate: int, target_rate: int) -> NDArray[np.float32]:
    """Resample with soxr at quality HQ; equal rates give the waveform back as it is.

    Shapes: ``waveform`` (S,); returns (about S * target_rate / source_rate,).
    Raises PlainError when a rate is not positive.
    """
    _check_rates(source_rate, target_rate)
    if source_rate == target_rate:
        return waveform
    return np.asarray(soxr.resample(waveform, source_rate, target_rate, quality="HQ"), dtype=np.float32)


def sinc_hann(waveform: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """Resample with a Hann-windowed sinc of 6 zero crossings and roll-off 0.99, as the original MAE-AST does.

    Shapes: ``waveform`` (..., S) of a floating type; returns (..., ceil(S * target_rate / source_rate)).
    Raises PlainError when a rate is not positive.
    """
    _check_rates(source_rate, target_rate)
    if source_rate == target_rate:
        return waveform
    divisor = math.gcd(source_rate, target_rate)
    source, target = source_rate // divisor, target_rate // divisor
    kernels, width = _sinc_kernels(source, target)

    num_samples = waveform.shape[-1]
    clips = waveform.reshape(-1, 1, num_samples)
    padded = functional.pad(clips, (width, width + source))
    # One output channel per phase: (B, 1, S) -> (B, target, steps) -> (B, steps * target)
    phases = functional.conv1d(padded, kernels.to(waveform), stride=source)
    resampled = phases.transpose(1, 2).reshape(len(clips), -1)
    num_resampled = -(-num_samples * target // source)
    return resampled[:, :num_resampled].reshape(*waveform.shape[:-1], num_resampled)


@lru_cache(maxsize=16)
def _sinc_kernels(source: int, target: int) -> tuple[Tensor, int]:
    """Build one filter per output phase for rates without a common divisor.

    Returns the kernels (target, 1, 2 * width + source), float32 computed in float64, and their half width in samples.
    """
    cutoff = min(source, target) * ROLL_OFF
    width = math.ceil(ZERO_CROSSINGS * source / cutoff)
    taps = torch.arange(-width, width + source, dtype=torch.float64) / source
    delays = torch.arange(target, dtype=torch.float64) / target
    times = (taps[None, :] - delays[:, None]) * cutoff
    times = times.clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = torch.cos(times * (math.pi / ZERO_CROSSINGS / 2)) ** 2
    kernels = torch.sinc(times) * window * (cutoff / source)
    return kernels[:, None, :].float(), width


def _check_rates(source_rate: int, target_rate: int) -> None:
    if source_rate < 1 or target_rate < 1:
        raise PlainError(
            f"cannot resample from {source_rate} Hz to {target_rate} Hz: both rates must be positive whole numbers"
        )
