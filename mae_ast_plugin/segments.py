"""How clips of any length are cut and grouped so that memory stays bounded. Arithmetic only: no tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Segment:
    """A part of a clip: ``num_steps`` of its time steps from ``first_step`` on."""

    clip: int
    first_step: int
    num_steps: int


def segments_of(clip: int, num_steps: int, most_steps: int) -> Iterator[Segment]:
    """Cut a clip into as few segments of at most ``most_steps`` as it takes, equal to one step: none is a remnant."""
    count = -(-num_steps // most_steps)
    edges = [num_steps * number // count for number in range(count + 1)]
    for first, end in pairwise(edges):
        yield Segment(clip, first, end - first)


def windows_of(clip: int, num_steps: int, window: int) -> Iterator[Segment]:
    """Cut a clip into segments of exactly ``window`` steps and what remains."""
    for first in range(0, num_steps, window):
        yield Segment(clip, first, min(window, num_steps - first))


def batches_of(segments: Sequence[Segment], most_steps: int, enough_steps: int | None = None) -> list[list[Segment]]:
    """Group segments of similar length, longest first, into batches of at most ``most_steps``, padding included.

    A batch of ``enough_steps`` takes in no segment that would be padded by more than a tenth.
    """
    batches: list[list[Segment]] = []
    for segment in sorted(segments, key=lambda s: -s.num_steps):  # stable: equals keep their order
        if batches:
            longest, count = batches[-1][0].num_steps, len(batches[-1])
            too_short = segment.num_steps < 0.9 * longest
            is_enough = enough_steps is not None and count * longest >= enough_steps
        if not batches or (count + 1) * longest > most_steps or (is_enough and too_short):
            batches.append([])
        batches[-1].append(segment)
    return batches
