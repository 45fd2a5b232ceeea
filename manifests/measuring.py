"""What `check` measures of a clip: a few numbers, and digests by which the same audio is known again.

A clip is read as training reads it: decoded whole, channels averaged. Only clipping is counted by channel, as far as
libsndfile reads the file: the average of a clipped channel and another hides it. Judges nothing.
"""

from __future__ import annotations

import base64
import hashlib
import os
from io import FileIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from soundfile import LibsndfileError, SoundFile

from mae_ast_plugin.audio.features import is_features, read_features
from mae_ast_plugin.audio.outcomes import AudioError
from mae_ast_plugin.audio.places import open_place
from mae_ast_plugin.audio.reader import read
from manifests.blocks import rows_of

UNMEASURED, AUDIO, FEATURES, UNREADABLE, NOT_FINITE = range(5)
CLIP = np.dtype(
    [
        ("state", "u1"),
        ("length", "<i8"),  # samples or frames decoded
        ("rate", "<i4"),  # [Hz], or frames a second as the manifest says; 0: not known
        ("peak", "<f4"),  # largest magnitude, full scale is 1
        ("level", "<f4"),  # root mean square around the mean
        ("offset", "<f4"),  # the mean
        ("clipped", "<f4"),  # share of samples in runs at full scale, in the channel with most
        ("content", "<u8", (2,)),  # digest of kind, rate and decoded samples
        ("path", "<u8"),  # digest of the path
    ]
)
"""A clip in 53 bytes: two million take 106 MB."""

# the largest value of 16 bits is 0.99997; that of 8 bits lies below, but its smallest is -1
FULL_SCALE = 0.9999
SHORTEST_RUN = 3  # samples; one or two at full scale are what normalising to the peak gives


def measure_block(block: str) -> list[Any]:
    """Measure the clips of a block: ``[table as base64, {place in the block: why it cannot be read}]``."""
    rows = list(rows_of(block))
    table, reasons = np.zeros(len(rows), CLIP), {}
    for place, (path, _, rate) in enumerate(rows):
        reason = measure(path, rate, table[place : place + 1])
        if reason:
            reasons[str(place)] = reason
    return [base64.b64encode(table.tobytes()).decode("ascii"), reasons]


def unpack_block(result: list[Any]) -> tuple[NDArray[np.void], dict[int, str]]:
    """Read what `measure_block` gives."""
    table = np.frombuffer(base64.b64decode(result[0]), CLIP)
    return table, {int(place): reason for place, reason in result[1].items()}


def measure(path: str, rate: int | None, clip: NDArray[np.void]) -> str | None:
    """Fill in one row ``clip`` (1,); returns the reason where the file cannot be read."""
    clip["path"] = _digest(os.fsencode(os.path.normpath(path)), b"path")[0]
    try:
        if is_features(path):
            values, found_rate, state = read_features(path), rate or 0, FEATURES
        else:
            (values, found_rate), state = read(path), AUDIO
    except AudioError as error:
        clip["state"] = NOT_FINITE if "finite" in error.reason else UNREADABLE
        return error.reason
    clip["state"], clip["length"], clip["rate"] = state, len(values), found_rate
    values = values + np.float32(0)  # minus zero, which other formats do not have, becomes zero
    clip["content"] = _digest(values.tobytes(), b"%d %d" % (state, found_rate))
    if state == AUDIO:
        _measure_samples(values, clip)
        clip["clipped"] = max(map(clipped_share, _channels_of(path, values)))
    return None


def _channels_of(path: str, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give the channels (C, S) of a clip that `read` has read as one ``waveform`` (S,), or that where it is all."""
    with open_place(path) as handle:
        try:
            # by descriptor where there is one, as `read` does
            with SoundFile(handle.fileno() if isinstance(handle, FileIO) else handle, closefd=False) as file:
                if file.channels > 1:
                    channels: NDArray[np.float32] = file.read(dtype="float32", always_2d=True).T
                    return channels
        except LibsndfileError:  # FFmpeg's
            pass
    return waveform[None]


def _measure_samples(waveform: NDArray[np.float32], clip: NDArray[np.void]) -> None:
    low, high = float(waveform.min()), float(waveform.max())
    mean = float(waveform.mean(dtype=np.float64))
    peak = max(-low, high)
    clip["peak"], clip["offset"] = peak, mean
    # by difference: the square of a quiet sound is lost beside that of a large offset
    clip["level"] = 0.0 if low == high else np.sqrt(np.square(waveform - mean).mean(dtype=np.float64))


def clipped_share(waveform: NDArray[np.float32]) -> float:
    """Tell the share of samples (S,) that lie in runs of SHORTEST_RUN or more at full scale."""
    loud = np.abs(waveform) >= FULL_SCALE
    if not loud.any():
        return 0.0
    steps = np.diff(np.concatenate(([False], loud, [False])).astype(np.int8))
    runs = np.flatnonzero(steps == -1) - np.flatnonzero(steps == 1)
    return float(runs[runs >= SHORTEST_RUN].sum()) / len(waveform)


def _digest(content: bytes, kind: bytes) -> NDArray[np.uint64]:
    """Two numbers of 64 bits, different for different contents."""
    digest = hashlib.blake2b(content, digest_size=16, person=kind[:16]).digest()
    return np.frombuffer(digest, "<u8")
