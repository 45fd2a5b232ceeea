"""Random numbers that depend on a seed and a place only: no generator, no state, the same on every device.

A mask keyed by (seed, epoch, clip) is the same whatever batch, process or resumed run the clip appears in. The mixing
function is SplitMix64's finaliser (Steele, Lea, Flood 2014), whose wrapping arithmetic int64 tensors share on CPU and
GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)
_MASK64 = (1 << 64) - 1
_RANK_BITS = ((1 << 40) - 1) << 23


def _shift_right(x: Tensor, bits: int, out: Tensor) -> Tensor:
    torch.bitwise_right_shift(x, bits, out=out)
    return out.bitwise_and_((1 << (64 - bits)) - 1)  # int64 shifts keep the sign; this one does not


def _mix_(x: Tensor) -> Tensor:
    # in place: fresh memory costs more than the arithmetic
    shifted = torch.empty_like(x)
    for bits, factor in ((30, _FIRST), (27, _SECOND), (31, 1)):
        x.bitwise_xor_(_shift_right(x, bits, out=shifted))
        if factor != 1:
            x.mul_(factor)
    return x


def random_bits(seeds: Tensor, count: int, stream: int = 0) -> Tensor:
    """Draw 40 random bits for each seed: (B,) int64 -> (B, count) int64; another ``stream``, other numbers."""
    words = _random_words(seeds, count, stream)
    return _shift_right(words, 24, out=words)


def random_ranks(seeds: Tensor, count: int, stream: int = 0) -> Tensor:
    """Draw numbers that put ``count`` places in a random order: (B,) int64 -> (B, count) int64, at least 0.

    The order is that of ``random_bits`` and, among equals, that of the places, of which there are at most 2^23.
    """
    words = _random_words(seeds, count, stream).bitwise_right_shift_(1)
    return words.bitwise_and_(_RANK_BITS).bitwise_or_(torch.arange(count, device=seeds.device))


def _random_words(seeds: Tensor, count: int, stream: int) -> Tensor:
    first = 1 + stream * 0x100000
    place = torch.arange(first, first + count, device=seeds.device) * _GOLDEN
    return _mix_(seeds[:, None] + place)


def uniform(seeds: Tensor, count: int, stream: int = 0) -> Tensor:
    """Draw numbers in [0, 1) for each seed: (B,) int64 -> (B, count) float32."""
    return (random_bits(seeds, count, stream) >> 16).to(torch.float32) * 2.0**-24


def combine(*parts: int) -> int:
    """Mix whole numbers into one seed, on the host; the order of the parts matters. Returns an int64 value."""
    state = 0
    for part in parts:
        state = (state + (part & _MASK64) + 0x9E3779B97F4A7C15) & _MASK64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
        state ^= state >> 31
    return state - (1 << 64) if state >= 1 << 63 else state
