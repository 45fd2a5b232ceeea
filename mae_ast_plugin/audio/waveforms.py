"""Waveforms as people hand them over, checked and brought to the model's sample rate.

Knows nothing of files or models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mae_ast_plugin.audio.resample import resample, sinc_hann
from mae_ast_plugin.errors import PlainError

Clip = Tensor | np.ndarray
# 16 instead of 16000 is the usual slip; no audio is sampled slower or faster than this [Hz]
SLOWEST, FASTEST = 1000, 1_000_000


def as_waveforms(
    waveforms: Clip | Sequence[Clip],
    sample_rate: int | Sequence[int],
    wanted_rate: int,
    *,
    lengths: Sequence[int] | Tensor | None = None,
    resampler: str = "soxr",
) -> list[Tensor]:
    """Check waveforms and bring them to ``wanted_rate`` [Hz]: a list of 1-D float32 tensors, where they lay.

    ``waveforms`` is a list of 1-D clips, one 1-D clip, or a padded batch (B, S) with the samples of each row in
    ``lengths``; ``sample_rate`` is one number or one per clip. PlainError names the clip and what is wrong with it.
    """
    clips = list(_rows(waveforms, lengths))
    if not clips:
        raise PlainError("there are no waveforms to embed; give at least one")
    rates = _rates(sample_rate, len(clips))
    return [
        _resampled(_checked(clip, number), rate, wanted_rate, resampler)
        for number, (clip, rate) in enumerate(zip(clips, rates, strict=True))
    ]


def _rows(waveforms: Any, lengths: Sequence[int] | Tensor | None) -> Iterator[Tensor]:
    dims = getattr(waveforms, "ndim", None)
    if lengths is not None and dims != 2:
        raise PlainError("lengths go with a padded batch (clips, samples); leave them out for a list of waveforms")
    if dims is None:
        yield from (torch.as_tensor(waveform) for waveform in waveforms)
    elif dims == 1:
        yield torch.as_tensor(waveforms)
    elif dims == 2 and lengths is not None:
        yield from _unpadded(torch.as_tensor(waveforms), [int(length) for length in lengths])
    else:
        raise PlainError(
            f"the waveforms have shape {tuple(waveforms.shape)}; give a list of 1-D waveforms, or a padded batch "
            "(clips, samples) with lengths= (average the channels of a stereo clip first)"
        )


def _unpadded(batch: Tensor, lengths: list[int]) -> Iterator[Tensor]:
    num_clips, longest = batch.shape
    if len(lengths) != num_clips:
        raise PlainError(f"there are {len(lengths)} lengths for {num_clips} clips; give one for each")
    for number, length in enumerate(lengths):
        if not 0 <= length <= longest:
            raise PlainError(
                f"lengths[{number}] is {length}; it counts samples and must be between 1 and {longest}, "
                "the width of the batch"
            )
        yield batch[number, :length]


def _rates(sample_rate: Any, num_clips: int) -> list[int]:
    given = [sample_rate] * num_clips if np.ndim(sample_rate) == 0 else list(sample_rate)
    if len(given) != num_clips:
        raise PlainError(f"there are {len(given)} sample rates for {num_clips} waveforms; give one, or one for each")
    for rate in given:
        try:
            fits = not isinstance(rate, str) and int(rate) == rate and SLOWEST <= rate <= FASTEST
        except (TypeError, ValueError, OverflowError):
            fits = False
        if not fits:
            raise PlainError(
                f"sample_rate is {rate!r}; it must be a whole number of Hz between {SLOWEST} and {FASTEST}, like 16000"
            )
    return [int(rate) for rate in given]


def _checked(waveform: Tensor, number: int) -> Tensor:
    if waveform.dim() != 1:
        raise PlainError(
            f"waveform {number} has shape {tuple(waveform.shape)}; it must be one channel of samples "
            "(average the channels of a stereo clip first)"
        )
    if waveform.numel() == 0:
        raise PlainError(f"waveform {number} has no samples; leave it out")
    if not waveform.is_floating_point():
        raise PlainError(
            f"waveform {number} holds {str(waveform.dtype).removeprefix('torch.')} samples; give floats between -1 "
            "and 1 (16-bit PCM: divide by 32768)"
        )
    if not torch.isfinite(waveform).all():
        first = int((~torch.isfinite(waveform)).nonzero()[0])
        raise PlainError(f"waveform {number} holds NaN or infinity, first at sample {first}; mend it or leave it out")
    return waveform.float()


def _resampled(waveform: Tensor, rate: int, wanted_rate: int, resampler: str) -> Tensor:
    if rate == wanted_rate:
        return waveform
    if resampler == "sinc_hann":
        return sinc_hann(waveform, rate, wanted_rate)
    if waveform.requires_grad:
        raise PlainError(
            f"no gradient passes through the resampling from {rate} to {wanted_rate} Hz; give waveforms at "
            f"{wanted_rate} Hz"
        )
    return torch.from_numpy(resample(waveform.cpu().numpy(), rate, wanted_rate)).to(waveform.device)
