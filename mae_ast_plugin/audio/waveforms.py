"""Waveforms as people hand them over, checked and brought to the model's sample rate.

Knows nothing of files or models.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mae_ast_plugin.audio.resample import resample, sinc_hann
from mae_ast_plugin.errors import PlainError

Clip = Tensor | np.ndarray
# 16 instead of 16000 is the usual slip; no audio is sampled slower or faster than this [Hz]
SLOWEST, FASTEST = 1000, 1_000_000
# energies of louder samples overflow float32; audio stays around 1
LOUDEST = 1e12


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
        if not isinstance(waveforms, Iterable) or isinstance(waveforms, str | bytes | Mapping):
            raise PlainError(f"the waveforms are a {type(waveforms).__name__}; give a list of 1-D tensors or arrays")
        yield from (_tensor(waveform, f"waveform {number}") for number, waveform in enumerate(waveforms))
    elif dims == 1:
        yield _tensor(waveforms, "the waveform")
    elif dims == 2 and lengths is not None:
        yield from _unpadded(_tensor(waveforms, "the batch"), _whole_numbers(lengths))
    else:
        raise PlainError(
            f"the waveforms have shape {tuple(waveforms.shape)}; give a list of 1-D waveforms, or a padded batch "
            "(clips, samples) with lengths= (average the channels of a stereo clip first)"
        )


def _tensor(waveform: Any, what: str) -> Tensor:
    if isinstance(waveform, Tensor):
        return waveform
    try:
        array = np.asarray(waveform)
        if array.dtype == np.longdouble:
            array = array.astype(np.float64)
        # readers also give arrays that are reversed, of another byte order or not to be written to; torch takes none
        return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    except (TypeError, ValueError) as error:
        kind = type(waveform).__name__
        raise PlainError(f"{what} is a {kind} and holds no samples; give a 1-D tensor or array of floats") from error


def _whole_numbers(lengths: Any) -> list[int]:
    try:
        return [operator.index(length) for length in (lengths.tolist() if hasattr(lengths, "tolist") else lengths)]
    except TypeError as error:
        raise PlainError("lengths must give each clip's samples as a whole number, not its share of S") from error


def _unpadded(batch: Tensor, lengths: list[int]) -> Iterator[Tensor]:
    num_clips, longest = batch.shape
    if len(lengths) != num_clips:
        raise PlainError(f"there are {len(lengths)} lengths for {num_clips} clips; give one for each")
    for number, length in enumerate(lengths):
        if not 1 <= length <= longest:
            raise PlainError(
                f"lengths[{number}] is {length}; it counts samples and must be between 1 and {longest}, "
                "the width of the batch"
            )
        yield batch[number, :length]


def _rates(sample_rate: Any, num_clips: int) -> list[int]:
    dims = getattr(sample_rate, "ndim", int(isinstance(sample_rate, list | tuple | range)))
    given = list(sample_rate) if dims else [sample_rate] * num_clips
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
    low, high = (float(extreme) for extreme in waveform.detach().aminmax())
    if not math.isfinite(low) or not math.isfinite(high):
        first = int((~torch.isfinite(waveform)).nonzero()[0])
        raise PlainError(f"waveform {number} holds NaN or infinity, first at sample {first}; mend it or leave it out")
    if max(-low, high) > LOUDEST:
        raise PlainError(f"waveform {number} reaches {max(-low, high):.0e}; give floats between -1 and 1")
    return waveform.float()


def _resampled(waveform: Tensor, rate: int, wanted_rate: int, resampler: str) -> Tensor:
    if rate == wanted_rate:
        return waveform
    if resampler == "sinc_hann":
        return sinc_hann(waveform, rate, wanted_rate)
    if waveform.requires_grad and torch.is_grad_enabled():
        raise PlainError(
            f"no gradient passes through the resampling from {rate} to {wanted_rate} Hz; give waveforms at "
            f"{wanted_rate} Hz"
        )
    return torch.from_numpy(resample(waveform.detach().cpu().numpy(), rate, wanted_rate)).to(waveform.device)
