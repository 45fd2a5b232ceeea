"""Batches of clips of similar length, the same for any number of processes.

A batch is made for all processes together and dealt out to them, so that two processes with batches of b see in every
update what one process with batches of 2 b sees. No clip is ever left out. Knows lengths and numbers only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

LENGTH_JITTER = 0.05


class ClipRef(NamedTuple):
    """Which clip, in which epoch, in which batch of all processes: all that its randomness may depend on."""

    row: int
    epoch: int
    batch: int


def _rows_by_length(sizes: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Order rows from long to short, lengths blurred a little so that every epoch mixes batches anew."""
    noise = np.random.default_rng([seed, epoch]).random(len(sizes))
    return np.argsort(-sizes * (1 + LENGTH_JITTER * noise), kind="stable")


def _batch_lengths(
    sizes: np.ndarray, max_samples: int | None, max_clips: int | None, num_parts: int, multiple: int
) -> Iterator[int]:
    """Yield how many of the clips, ordered by ``sizes`` (about long to short), make up each batch of all processes."""
    longest = np.maximum.accumulate(sizes[::-1])[::-1]  # the longest clip from here on bounds the batch's padding
    start = 0
    while start < len(sizes):
        limits = [
            limit for limit in (max_clips, max_samples and int(max_samples // longest[start])) if limit is not None
        ]
        part = max(1, min(limits)) if limits else len(sizes)
        if part > multiple > 1:
            part -= part % multiple
        yield min(part * num_parts, len(sizes) - start)
        start += part * num_parts


def make_batches(
    sizes: np.ndarray,
    *,
    max_samples: int | None,
    max_clips: int | None,
    num_parts: int = 1,
    multiple: int = 1,
    seed: int = 1,
    epoch: int = 1,
) -> list[list[ClipRef]]:
    """Deal clips of ``sizes`` (samples) into batches for ``num_parts`` processes: part r of batch b is entry b x parts
    + r.

    A part holds at most ``max_clips`` clips and ``max_samples`` samples, padding to its longest clip included; a part
    is empty only where the very last batch has fewer clips than there are processes.
    """
    order = _rows_by_length(sizes, seed, epoch)
    batches: list[list[ClipRef]] = []
    start = 0
    for number, length in enumerate(_batch_lengths(sizes[order], max_samples, max_clips, num_parts, multiple)):
        refs = [ClipRef(int(row), epoch, number) for row in order[start : start + length]]
        batches.extend(refs[part::num_parts] for part in range(num_parts))
        start += length
    return batches
