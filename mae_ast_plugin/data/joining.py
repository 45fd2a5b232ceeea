"""Clips of different lengths and kinds as one tensor, made where the training process can see it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import default_collate

from mae_ast_plugin.audio.frontend import as_float


def joined(waveforms: Sequence[Tensor], width: int) -> Tensor:
    """Pad waveforms (S,) with zeros at their ends: (B, width), of 16 bits where all of them are.

    In a worker the result lies in shared memory from the beginning, so that it is not copied once more to be sent.
    """
    if len({waveform.dtype for waveform in waveforms}) > 1:
        waveforms = [as_float(waveform) for waveform in waveforms]
    batch: Tensor = default_collate([_padded(waveform, width) for waveform in waveforms])
    return batch


def _padded(waveform: Tensor, width: int) -> Tensor:
    return F.pad(waveform, (0, width - len(waveform))) if len(waveform) < width else waveform
