"""Batches of clips of similar length in few shapes, the same for any number of processes.

All clips are shuffled, put into buckets by length, and each bucket is cut into batches; what is left over of the
buckets fills the last batches together, long clips first. A batch is made for all processes together and dealt out to
them, so that two processes with batches of b see in every update what one process with batches of 2 b sees. No clip is
ever left out. Knows lengths and numbers only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from mae_ast_plugin.data.buckets import length_buckets


class ClipRef(NamedTuple):
    """Which clip, in which epoch, in which batch of all processes: all that its randomness may depend on.

    ``width`` is what its batch is to be padded to [samples], 0: to its longest clip.
    """

    row: int
    epoch: int
    batch: int
    width: int = 0


class Batches(Sequence["Batch"]):
    """All batches of an epoch: part r of batch b is entry b x ``num_parts`` + r.

    Millions of clips are held as their ``rows`` in order (N,), the ``bounds`` of each batch of all processes in them
    (batches + 1,), and the ``widths`` (batches,) that batches are padded to [samples]. An entry becomes a list of
    references only when it is read.
    """

    def __init__(
        self,
        rows: NDArray[np.int32],
        bounds: NDArray[np.int64],
        widths: NDArray[np.int64],
        num_parts: int,
        epoch: int,
    ) -> None:
        self.rows, self.bounds, self.widths = rows, bounds, widths
        self.num_parts, self.epoch = num_parts, epoch

    def __len__(self) -> int:
        return len(self.widths) * self.num_parts

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | list[Batch]:
        if isinstance(index, slice):
            return [Batch(self, each) for each in range(*index.indices(len(self)))]
        return Batch(self, range(len(self))[index])

    def shapes(self) -> dict[tuple[int, int], int]:
        """Count the entries of each shape (clips, samples); those without a clip are left out."""
        clips, parts = np.diff(self.bounds)[:, None], np.arange(self.num_parts)
        per_part = (clips - parts + self.num_parts - 1) // self.num_parts
        shapes = np.stack([per_part, np.broadcast_to(self.widths[:, None], per_part.shape)], axis=-1).reshape(-1, 2)
        found, counts = np.unique(shapes[shapes[:, 0] > 0], axis=0, return_counts=True)
        return {(int(n), int(width)): int(count) for (n, width), count in zip(found, counts, strict=True)}

    def num_samples(self) -> int:
        """Samples of all batches, padding included."""
        return int((np.diff(self.bounds) * self.widths).sum())


class Batch(Sequence[ClipRef]):
    """One entry of ``Batches``, a view; pickled, as on its way to a worker, it is a plain list of its references."""

    __slots__ = ("batches", "entry")

    def __init__(self, batches: Batches, entry: int) -> None:
        self.batches, self.entry = batches, entry

    @property
    def rows(self) -> NDArray[np.int32]:
        number, part = divmod(self.entry, self.batches.num_parts)
        begin, end = self.batches.bounds[number : number + 2]
        return self.batches.rows[begin + part : end : self.batches.num_parts]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[ClipRef]:
        number = self.entry // self.batches.num_parts
        width = int(self.batches.widths[number])
        return (ClipRef(row, self.batches.epoch, number, width) for row in self.rows.tolist())

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]

    def __reduce__(self) -> tuple[type[list[ClipRef]], tuple[list[ClipRef]]]:
        return list, (list(self),)


def make_batches(
    sizes: NDArray[np.int64],
    *,
    max_samples: int | None,
    max_clips: int | None,
    num_parts: int = 1,
    multiple: int = 1,
    seed: int = 1,
    epoch: int = 1,
) -> Batches:
    """Deal clips of ``sizes`` (samples) into batches for ``num_parts`` processes, anew for each (seed, epoch).

    A part holds at most ``max_clips`` clips and ``max_samples`` samples, padding included; its number of clips is
    rounded down to a ``multiple``, where that leaves any. A part is empty only where the very last batch has fewer
    clips than there are processes.
    """
    bucket_of, widths = length_buckets(sizes)
    num_clips = [
        num_parts * _clips_of_part(width, max_samples, max_clips, len(sizes), multiple) for width in widths.tolist()
    ]
    shuffled = np.arange(len(sizes), dtype=np.int32)
    np.random.default_rng([seed, epoch]).shuffle(shuffled)
    bucket_of_shuffled = bucket_of[shuffled]
    rows, lengths, buckets, rest = [], [], [], []
    for bucket in range(len(widths)):
        clips = shuffled[bucket_of_shuffled == bucket]  # as fast as sorting them, in less memory
        num_full = len(clips) // num_clips[bucket]
        full, left = np.split(clips, [num_full * num_clips[bucket]])
        rows.append(full)
        rest.append(left)
        lengths.append(np.full(num_full, num_clips[bucket]))
        buckets.append(np.full(num_full, bucket))
    left_over = np.concatenate(rest)
    last = list(_cut(bucket_of[left_over], num_clips))
    lengths.append(np.array([length for length, _ in last], np.int64))
    buckets.append(np.array([bucket for _, bucket in last], np.int64))
    bounds = np.concatenate([[0], *lengths]).cumsum()
    return Batches(np.concatenate([*rows, left_over]), bounds, widths[np.concatenate(buckets)], num_parts, epoch)


def _clips_of_part(width: int, max_samples: int | None, max_clips: int | None, num_clips: int, multiple: int) -> int:
    limits = [limit for limit in (max_clips, max_samples and max_samples // max(1, width)) if limit is not None]
    clips = max(1, min(limits, default=num_clips))
    return clips - clips % multiple if clips > multiple else clips


def _cut(bucket_of: NDArray[np.int16], num_clips: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cut clips, ordered by bucket, into batches: how many clips each has, and the bucket of its longest."""
    start = 0
    while start < len(bucket_of):
        bucket = int(bucket_of[start])
        yield min(num_clips[bucket], len(bucket_of) - start), bucket
        start += num_clips[bucket]
