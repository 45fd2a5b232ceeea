"""Decoded clips, kept for the epochs that follow.

They lie in a sparse file without a name, which all workers of a process share and which is gone with the last of them,
however they end. The system holds of it in memory what there is room for and gives that memory up when it is needed
elsewhere, unless the folder of temporary files (``TMPDIR``) is itself memory.
"""

from __future__ import annotations

import logging
import os
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_ast_plugin.errors import PlainError

logger = logging.getLogger(__name__)

KINDS = (np.dtype(np.int16), np.dtype(np.float32))
WIDEST = 4  # bytes of a sample
HEAD = 8  # bytes: number of samples times 2, and which of the kinds


class KeptClips:
    """A place for each of ``sizes`` [samples] clips; filled up to ``limit`` [bytes]. PlainError where it cannot be."""

    def __init__(self, sizes: NDArray[np.int64], limit: float) -> None:
        self.limit, self.is_full = limit, False
        self.ends = HEAD * len(sizes) + WIDEST * np.cumsum(sizes)
        try:
            self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 -- open as long as the clips are
            self.file.truncate(HEAD * len(sizes))
        except OSError as error:
            raise PlainError(
                f"task.keep_decoded_gb needs a temporary file, which cannot be made ({error.strerror}); set TMPDIR to "
                "a folder with room, or task.keep_decoded_gb=0"
            ) from error

    def get(self, entry: int) -> NDArray[Any] | None:
        """The waveform (S,) put at ``entry``; None where there is none."""
        head = int.from_bytes(os.pread(self.file.fileno(), HEAD, HEAD * entry), "little")
        if not head:
            return None
        count, kind = divmod(head, len(KINDS))
        waveform = np.empty(count, KINDS[kind])
        place, left = self._begin(entry), waveform.data.cast("B")
        while left:
            num_read = os.preadv(self.file.fileno(), [left], place)
            if not num_read:
                return None
            place, left = place + num_read, left[num_read:]
        return waveform

    def put(self, entry: int, waveform: NDArray[Any]) -> None:
        """Keep a waveform (S,), int16 or float32; not if there is no room for it, which is told once."""
        place, end = self._begin(entry), int(self.ends[entry])
        if self.is_full or not len(waveform) or place + WIDEST * len(waveform) > end:  # longer than was planned for
            return
        try:
            if os.fstat(self.file.fileno()).st_blocks * 512 + waveform.nbytes > self.limit:
                self._stop(f"task.keep_decoded_gb={self.limit / 1e9:g} is filled")
                return
            left = np.ascontiguousarray(waveform).data.cast("B")
            while left:
                written = os.pwrite(self.file.fileno(), left, place)
                place, left = place + written, left[written:]
            # last, so that nobody reads half a clip
            head = len(waveform) * len(KINDS) + KINDS.index(waveform.dtype)
            os.pwrite(self.file.fileno(), head.to_bytes(HEAD, "little"), HEAD * entry)
        except OSError as error:
            self._stop(f"{tempfile.gettempdir()}: {error.strerror}; TMPDIR names another folder")

    def _begin(self, entry: int) -> int:
        return int(self.ends[entry - 1]) if entry else HEAD * len(self.ends)

    def _stop(self, reason: str) -> None:
        self.is_full = True
        logger.warning(f"no further decoded clips are kept, they are read in each epoch: {reason}")

    def __getstate__(self) -> dict[str, Any]:
        # a worker that is not forked opens the file of its parent
        return {**self.__dict__, "file": f"/proc/{os.getpid()}/fd/{self.file.fileno()}"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.file = open(state["file"], "r+b", buffering=0)  # noqa: SIM115
