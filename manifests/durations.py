"""Durations of clips: how many there are of each, in hundredths of a second, so that parts add up exactly.

Summaries are text and a picture. Knows no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (1, 5, 25, 75, 95, 99)
STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)  # edges of bars within a factor of ten: even enough on a logarithmic scale
BAR_WIDTH = 40


class Durations:
    """``hundredths`` (K,) ascending, all different, and the number of clips of each, ``counts`` (K,)."""

    def __init__(self, hundredths: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        self.hundredths, where = np.unique(hundredths, return_inverse=True)
        self.counts = np.bincount(where, counts, minlength=len(self.hundredths)).astype(np.int64)

    @classmethod
    def of(cls, seconds: NDArray[np.float64]) -> Durations:
        """Count durations (N,)."""
        return cls(np.rint(seconds * 100).astype(np.int64), np.ones(len(seconds), np.int64))

    @classmethod
    def none(cls) -> Durations:
        """Those of no clip."""
        return cls.of(np.zeros(0))

    @classmethod
    def from_table(cls, table: Mapping[str, int]) -> Durations:
        """Read what `table` gives; ValueError where it is something else."""
        hundredths = [round(float(seconds) * 100) for seconds in table]
        return cls(np.array(hundredths, np.int64), np.array([int(count) for count in table.values()], np.int64))

    def table(self) -> dict[str, int]:
        """Number of clips by duration in seconds, for JSON."""
        pairs = zip(self.hundredths.tolist(), self.counts.tolist(), strict=True)
        return {f"{hundredths / 100:.2f}": count for hundredths, count in pairs}

    def __add__(self, other: Durations) -> Durations:
        return Durations(
            np.concatenate([self.hundredths, other.hundredths]), np.concatenate([self.counts, other.counts])
        )

    def __len__(self) -> int:
        return int(self.counts.sum())

    @property
    def total_seconds(self) -> float:
        return float(self.hundredths @ self.counts) / 100

    def percentile(self, percent: float) -> float:
        """Give the duration [s] that ``percent`` of the clips do not exceed."""
        place = np.searchsorted(np.cumsum(self.counts), percent / 100 * len(self) - 1e-9)
        return float(self.hundredths[min(int(place), len(self.hundredths) - 1)]) / 100

    def bars(self) -> list[tuple[float, float, int]]:
        """Bars of a histogram: from [s], to (exclusive), number of clips."""
        if not len(self):
            return []
        edges = [edge for edge in _edges() if edge <= self.hundredths[-1] / 100]
        begin = max(0, int(np.searchsorted(edges, self.hundredths[0] / 100, side="right")) - 1)
        edges = [*edges[begin:], next(edge for edge in _edges() if edge > self.hundredths[-1] / 100)]
        counts, _ = np.histogram(self.hundredths / 100, edges, weights=self.counts)
        return [(low, high, int(count)) for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)]


def summary(durations: Durations) -> list[str]:
    """Say what the durations are in lines of text, a histogram included."""
    if not len(durations):
        return ["no duration is known"]
    middle = [(f"{percent} %", durations.percentile(percent)) for percent in PERCENTILES]
    middle.insert(3, ("median", durations.percentile(50)))
    mean = durations.total_seconds / len(durations)
    ends = [("shortest", durations.percentile(0)), *middle, ("longest", durations.percentile(100)), ("mean", mean)]
    return [
        f"{len(durations)} clips, {durations.total_seconds / 3600:.3f} hours",
        "seconds: " + ", ".join(f"{name} {value:.2f}" for name, value in ends),
        *_text_histogram(durations.bars()),
    ]


def _text_histogram(bars: Iterable[tuple[float, float, int]]) -> Iterator[str]:
    bars = list(bars)
    most = max(count for _, _, count in bars)
    for low, high, count in bars:
        yield f"{low:>9g} to {high:>7g} s  {count:>9}  {'#' * -(-count * BAR_WIDTH // most)}".rstrip()


def _edges() -> Iterator[float]:
    """Edges of bars without end: 0, 0.01, 0.015, 0.02, ... seconds."""
    yield 0.0
    for power in range(-2, 9):
        for step in STEPS:
            yield float(f"{step * 10.0**power:.3g}")
