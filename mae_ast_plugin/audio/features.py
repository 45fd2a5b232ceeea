"""Log-mel spectrograms that were computed beforehand: ``.npy`` files of shape (F, T) or (1, F, T), not normalised.

Of a long one only the wanted frames are read. Their place in a manifest counts frames, and its rate is frames a second.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from mae_ast_plugin.audio.outcomes import AudioError, AudioInfo, Path, check_file, system_reason

ENDING = ".npy"
FRAMES_PER_SECOND = 100  # of every front end here; a file does not tell


def is_features(path: Path) -> bool:
    """Tell features from audio, by the name: manifests cannot open their clips."""
    return os.fspath(path).endswith(ENDING)


def probe_features(path: Path) -> AudioInfo:
    """Tell the number of frames, as samples of one channel; AudioError as `read_features`."""
    return AudioInfo(_open(path).shape[1], FRAMES_PER_SECOND, 1)


def num_bins_of(path: Path) -> int:
    """Tell the number of mel bins F; AudioError as `read_features`."""
    return int(_open(path).shape[0])


def read_features(path: Path, start: int = 0, num_frames: int | None = None) -> NDArray[np.float32]:
    """Read frames ``start`` to ``start + num_frames`` (T, F); like a slice, they may end beyond the file.

    Raises AudioError for a file that is missing, truncated or no such array, and for values that are not finite.
    """
    stored = _open(path)
    if start >= stored.shape[1]:
        raise AudioError(
            path,
            f"the crop starts at frame {start}, beyond the end of its {stored.shape[1]} frames: correct the manifest",
        )
    stop = None if num_frames is None else start + num_frames
    features = np.array(stored[:, start:stop].T, dtype=np.float32, order="C")
    if not np.isfinite(features).all():
        bad = start + int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise AudioError(path, f"frame {bad} is not finite (NaN or infinity): compute it again or leave it out")
    return features


def _open(path: Path) -> NDArray[np.floating]:
    """Map an array (F, T) of a file into memory, where nothing of it is read yet."""
    check_file(path)
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise AudioError(path, system_reason(error)) from error
    except (ValueError, EOFError) as error:
        reason = "is empty (0 bytes)" if os.path.getsize(path) == 0 else "is truncated or no NumPy array of numbers"
        raise AudioError(path, f"{reason}: compute it again or leave it out") from error
    if not isinstance(stored, np.ndarray) or stored.dtype.kind != "f":
        kind = stored.dtype if isinstance(stored, np.ndarray) else "several arrays"
        raise AudioError(path, f"holds {kind}, not floats: compute it again as float32")
    if stored.ndim == 3 and stored.shape[0] == 1:
        stored = stored[0]
    if stored.ndim != 2 or 0 in stored.shape:
        raise AudioError(path, f"has the shape {stored.shape}, not (1, mel bins, frames): compute it again")
    return stored
