"""What comes of a file that is read as audio: its length and samples, or one typed error that says what is wrong.

The sentences stand here because both decoders say the same ones. Knows neither of the decoders.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mae_ast_plugin.errors import PlainError

Path = str | os.PathLike[str]
Waveform = NDArray[np.float32]


class AudioError(PlainError):
    """A file that cannot be read as audio: ``path`` is the file, ``reason`` what is wrong with it and what to do."""

    def __init__(self, path: Path, reason: str) -> None:
        # Both as arguments of the exception itself: this is what a pickle keeps when it crosses a process.
        super().__init__(os.fspath(path), reason)
        self.path: str = os.fspath(path)
        self.reason = reason

    def __str__(self) -> str:
        shown = self.path.encode("utf-8", "backslashreplace").decode("utf-8")
        return f"{shown}: {self.reason}"


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """Length of a file in samples per channel at its own rate, that rate in Hz, and its number of channels."""

    num_samples: int
    sample_rate: int
    num_channels: int


NUMPY_MAGIC = b"\x93NUMPY"
EMPTY_REASON = "holds no samples: leave it out"


def system_reason(error: OSError) -> str:
    """Say why the operating system does not open a file."""
    if isinstance(error, FileNotFoundError):
        return "does not exist: correct the path or the root folder it is joined to"
    if isinstance(error, IsADirectoryError):
        return "is a folder, expected an audio file"
    return f"cannot be opened: {error.strerror or error}"


def check_file(path: Path) -> None:
    """Raise AudioError where no file is, or one that cannot be read to its end: a pipe would be waited for for ever."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise AudioError(path, system_reason(error)) from error
    except ValueError as error:  # a NUL byte, or a letter that no name of a file can hold
        raise AudioError(path, f"is no name of a file ({error}): correct it") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise AudioError(path, "is not a regular file: leave it out")


def unknown_reason(head: bytes, error: Exception) -> str:
    """Say why neither decoder knows what begins with ``head``."""
    if not head:
        return "is empty (0 bytes): copy it again or leave it out"
    if head.startswith(NUMPY_MAGIC):
        return "holds a NumPy array, not audio: only training takes features (.npy), in a manifest of their own"
    return text_reason(head) or f"is no audio that libsndfile or FFmpeg can open ({_first_words(error)})"


def text_reason(head: bytes) -> str | None:
    """Say that what begins with ``head`` is text; None where it is not."""
    try:
        text = head[:-3].decode("utf-8") if len(head) >= 512 else head.decode("utf-8")
    except UnicodeDecodeError:
        return None
    printable = all(letter.isprintable() or letter in "\t\r\n" for letter in text)
    return "holds text, not audio (an error page of a download?): fetch it again or leave it out" if printable else None


def damage_reason(error: Exception) -> str:
    """Say that a decoder gave up inside a file."""
    return f"is truncated or damaged ({_first_words(error)}): copy it again or leave it out"


def _first_words(error: Exception) -> str:
    words = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return str(words).strip().rstrip(".")


def truncated_reason(found: str, promised: str) -> str:
    """Say that a file ends before the length that its header states."""
    return f"is truncated, {found} are there and its header states {promised}: copy it again or leave it out"


def beyond_reason(start: int, num_samples: int) -> str:
    """Say that a crop begins where there is no audio any more."""
    return f"the crop starts at sample {start}, beyond the end of its {num_samples} samples: correct the manifest"
