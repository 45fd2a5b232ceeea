"""Mean and deviation of features, in parts that add up: the frames of many clips, of processes, of machines.

What they are written as, `table`, is what ``model.input_statistics`` of a training takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mae_ast_plugin.audio.features import is_features, read_features
from mae_ast_plugin.audio.frontend import FrontEnd
from mae_ast_plugin.audio.outcomes import AudioError
from mae_ast_plugin.audio.reader import read, sample_rate_of

PIECE_SECONDS = 120  # long clips go through the front end in pieces, so that memory stays small


@dataclass(frozen=True)
class Moments:
    """``num_frames``, their ``mean`` (F,), and their squared distances from it, summed: ``squares`` (F,); float64."""

    num_frames: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def zero(cls, num_features: int) -> Moments:
        """Those of no frame at all."""
        return cls(0, np.zeros(num_features), np.zeros(num_features))

    @classmethod
    def of(cls, features: NDArray[Any]) -> Moments:
        """Those of frames (T, F), at least one."""
        # about the first frame: squares of numbers far from 0 would lose digits, and a constant bin is exactly that
        beyond = features.astype(np.float64) - features[0]
        mean = beyond.mean(axis=0)
        return cls(len(features), features[0] + mean, np.square(beyond - mean).sum(axis=0))

    def __add__(self, other: Moments) -> Moments:
        """Those of both (Chan, Golub and LeVeque, 1979)."""
        if not self.num_frames or not other.num_frames:
            return self if self.num_frames else other
        total = self.num_frames + other.num_frames
        step = other.mean - self.mean
        mean = self.mean + step * (other.num_frames / total)
        between = np.square(step) * (self.num_frames * other.num_frames / total)
        return Moments(total, mean, self.squares + other.squares + between)

    @property
    def std(self) -> NDArray[np.float64]:
        """Deviation of each bin (F,)."""
        return np.sqrt(self.squares / max(1, self.num_frames))

    def overall(self) -> tuple[float, float]:
        """The one mean and deviation of all bins together."""
        mean = float(self.mean.mean())
        return mean, float(np.sqrt((np.square(self.std) + np.square(self.mean - mean)).mean()))

    def constant_bin(self) -> int | None:
        """The first bin that never changes, by whose deviation nothing can be divided."""
        constant = np.flatnonzero(self.squares == 0)
        return int(constant[0]) if len(constant) else None

    def table(self) -> dict[str, Any]:
        """As plain data, from which `from_table` gives the same again."""
        return {"frames": self.num_frames, "mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Moments:
        """Read `table`; KeyError, TypeError or ValueError where it is something else."""
        num_frames, mean, std = int(table["frames"]), np.array(table["mean"], float), np.array(table["std"], float)
        if num_frames < 0 or mean.ndim != 1 or mean.shape != std.shape:
            raise ValueError("no lists of the same length")
        return cls(num_frames, mean, np.square(std) * num_frames)


def moments_of_clip(path: str, frontend: FrontEnd, seconds: float | None = None) -> Moments:
    """Those of a clip's features, of its first ``seconds`` where given; of no frame where the clip is too short.

    Features (``.npy``) are taken as they are. AudioError where the clip cannot be read or has another number of bins.
    """
    total = Moments.zero(frontend.num_features)
    for features in _features(path, frontend, seconds):
        total += Moments.of(features)
    return total


def _features(path: str, frontend: FrontEnd, seconds: float | None) -> Iterator[NDArray[np.float32]]:
    """Features (T, F) of a clip, piece by piece."""
    if is_features(path):
        frames = None if seconds is None else max(1, frontend.num_frames(int(seconds * frontend.sample_rate)))
        features = read_features(path, 0, frames)
        if features.shape[1] != frontend.num_features:
            raise AudioError(path, f"has {features.shape[1]} mel bins, not {frontend.num_features}: set the number")
        yield features
        return
    count = None if seconds is None else max(1, int(seconds * sample_rate_of(path)))
    waveform, _ = read(path, sample_rate=frontend.sample_rate, num_samples=count)
    size = PIECE_SECONDS * frontend.sample_rate
    for begin in range(0, len(waveform), size):
        piece = torch.from_numpy(waveform[begin : begin + size])
        if frontend.num_frames(len(piece)):
            with torch.no_grad():
                yield frontend(piece[None])[0].numpy()
