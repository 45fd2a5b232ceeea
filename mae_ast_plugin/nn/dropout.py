"""Dropout whose masks cost little on a CPU; elsewhere torch's own.

A processor spends more on torch's Bernoulli numbers than on the tensors they are for (``benchmarks/step.py``). Here 16
bits decide about a value, so that one draw of 64 decides about four, and a mask is a byte a value instead of four.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = 1 << 16
BLOCK = 1 << 18  # words drawn at once: they stay in a processor's cache until they are compared


def is_ours(x: Tensor) -> bool:
    """Whether masks of ``x`` are drawn here: on a CPU, outside of compiled graphs."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def kept_share(rate: float) -> float:
    """Share of values that masks of ``rate`` keep, a multiple of 2^-16."""
    return 1 - round(rate * LEVELS) / LEVELS


def keep_mask(shape: Sequence[int], rate: float) -> Tensor:
    """Draw what to keep: 1 at a share ``kept_share(rate)`` of values, else 0; uint8 of ``shape``, on the CPU.

    The only thing taken from torch's generator is a seed, so that what restores the generator restores the mask.
    """
    seed = int(torch.randint(torch.iinfo(torch.int64).max, (1,)))
    generator = np.random.Generator(np.random.SFC64(seed))
    threshold = round(rate * LEVELS) - LEVELS // 2  # of signed numbers
    mask = torch.empty(math.prod(shape), dtype=torch.bool)
    for part in mask.split(4 * BLOCK):
        words = torch.from_numpy(generator.integers(-(1 << 63), 1 << 63, -(-len(part) // 4), dtype=np.int64))
        torch.ge(words.view(torch.int16)[: len(part)], threshold, out=part)
    return mask.view(torch.uint8).view(*shape)  # to multiply with bytes takes a fifth of the time of filling by a mask


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """Set a share ``rate`` of the values to zero and scale the others, in training: any shape."""
    if not training or rate == 0:
        return x
    if not is_ours(x) or not x.numel() or not kept_share(rate):
        return F.dropout(x, rate)
    return x * keep_mask(x.shape, rate) * (1 / kept_share(rate))
