"""What is wrong with measured clips: each finding is a kind, the rows it holds for, and a sentence about each of them.

Rows are those of the corpus. Sentences are made when they are asked for, so that millions of findings need no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from manifests.blocks import Corpus
from manifests.measuring import AUDIO, FEATURES, NOT_FINITE, UNREADABLE

KINDS = {
    "unreadable": "the clip cannot be decoded",
    "not_finite": "it holds NaN or infinity",
    "wrong_length": "its length is not the one in the manifest",
    "wrong_rate": "its sample rate is not the one in the manifest's .rates",
    "silent": "every sample is the same, or the level is below --silence-db",
    "clipped": "more samples than --max-clipped lie in runs at full scale",
    "offset": "the mean of the samples is beyond --max-offset",
    "duplicate": "another clip of its split is the same file or has the same samples",
    "overlap": "a clip of another split is the same file or has the same samples",
}


class Limits(NamedTuple):
    """From where on a clip is bad: level [dB of full scale], share of clipped samples, mean [of full scale]."""

    silence_db: float = -80.0
    max_clipped: float = 0.001
    max_offset: float = 0.05


class Finding(NamedTuple):
    """One kind: the rows (K,), in order, and the sentence about a row."""

    kind: str
    rows: NDArray[np.int64]
    detail: Callable[[int], str]


def find(corpus: Corpus, clips: NDArray[np.void], reasons: Mapping[int, str], limits: Limits) -> list[Finding]:
    """Judge measured ``clips`` (N,), those of the corpus; ``reasons`` of the unreadable by row. All kinds, in order."""
    return [
        *_of_files(corpus, clips, reasons),
        *_of_samples(clips, limits),
        *_of_repetition(corpus, clips),
    ]


def _of_files(corpus: Corpus, clips: NDArray[np.void], reasons: Mapping[int, str]) -> list[Finding]:
    decoded = (clips["state"] == AUDIO) | (clips["state"] == FEATURES)
    other_rate = (clips["state"] == AUDIO) & (corpus.rates > 0) & (clips["rate"] != corpus.rates)
    return [
        Finding("unreadable", np.flatnonzero(clips["state"] == UNREADABLE), reasons.__getitem__),
        Finding("not_finite", np.flatnonzero(clips["state"] == NOT_FINITE), reasons.__getitem__),
        Finding(
            "wrong_length",
            np.flatnonzero(decoded & (clips["length"] != corpus.lengths)),
            lambda row: f"the manifest says {corpus.lengths[row]}, {clips['length'][row]} can be decoded",
        ),
        Finding(
            "wrong_rate",
            np.flatnonzero(other_rate),
            lambda row: f".rates says {corpus.rates[row]} Hz, the clip has {clips['rate'][row]} Hz",
        ),
    ]


def _of_samples(clips: NDArray[np.void], limits: Limits) -> list[Finding]:
    audio = clips["state"] == AUDIO
    quiet = audio & (clips["level"] < 10 ** (limits.silence_db / 20))
    return [
        Finding("silent", np.flatnonzero(quiet | _constant(clips)), lambda row: _silence(clips[row])),
        Finding(
            "clipped",
            np.flatnonzero(audio & (clips["clipped"] > limits.max_clipped)),
            lambda row: f"{clips['clipped'][row]:.2%} of the samples lie in runs at full scale",
        ),
        Finding(
            "offset",
            np.flatnonzero(audio & (np.abs(clips["offset"]) > limits.max_offset)),
            lambda row: f"the mean is {clips['offset'][row]:.3f} of full scale",
        ),
    ]


def _constant(clips: NDArray[np.void]) -> NDArray[np.bool_]:
    """Tell which clips have one value only: digital silence, with or without an offset."""
    return (clips["state"] == AUDIO) & (clips["level"] == 0)


def _silence(clip: np.void) -> str:
    if clip["level"] == 0:
        return f"every sample is {clip['offset']:.4g}"
    return f"the level is {20 * np.log10(clip['level']):.1f} dB of full scale"


def _of_repetition(corpus: Corpus, clips: NDArray[np.void]) -> list[Finding]:
    """Find clips that are another one again. Of those alike, the one in the smallest split counts as the original:
    what training loses is less of a loss than what validation or test lose.
    """
    rank = _places_by_size(np.bincount(corpus.splits))[corpus.splits]
    measured = np.flatnonzero(clips["state"] != 0)
    same_file = _originals(clips["path"][:, None], rank, measured)
    readable = (clips["state"] == AUDIO) | (clips["state"] == FEATURES)
    # constant clips of a length are all alike, and found as silent
    with_content = np.flatnonzero(readable & ~_constant(clips))
    same_samples = _originals(clips["content"], rank, with_content)
    original = np.where(same_file >= 0, same_file, same_samples)
    rows = np.flatnonzero(original >= 0)
    across = corpus.splits[rows] != corpus.splits[original[rows]]

    def detail(row: int) -> str:
        other = corpus[int(original[row])]
        how = "is the same file as" if same_file[row] >= 0 else "has the same samples as"
        return f"{how} {other.split} line {other.line}, {other.name}"

    return [Finding("duplicate", rows[~across], detail), Finding("overlap", rows[across], detail)]


def _places_by_size(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each split when they are ordered by size, the smallest first."""
    places = np.empty(len(sizes), np.int64)
    places[np.argsort(sizes, kind="stable")] = np.arange(len(sizes))
    return places


def _originals(keys: NDArray[np.uint64], rank: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of the N clips the first, by rank and row, of those in ``rows`` with the same key (N, K); -1 if none."""
    originals = np.full(len(keys), -1, np.int64)
    if len(rows):
        order = rows[np.lexsort((rows, rank[rows], *keys[rows].T))]
        begins = np.concatenate(([True], (keys[order[1:]] != keys[order[:-1]]).any(axis=1)))
        first = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
        originals[order[~begins]] = first[~begins]
    return originals
