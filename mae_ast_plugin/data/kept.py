"""Decoded clips, kept for the epochs that follow.

They lie in a sparse file without a name, which all workers of a process share and which is gone with the last of them,
however they end. The system holds of it in memory what there is room for and gives that memory up when it is needed
elsewhere, unless the folder of temporary files (``TMPDIR``) is itself memory.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_ast_plugin.errors import PlainError

logger = logging.getLogger(__name__)

KINDS = (np.dtype(np.int16), np.dtype(np.float32))
WIDEST = 4  # bytes of a sample
WORD = 8  # bytes of a number: how many bytes are taken; for each clip twice its samples, and which of the kinds
FULL = (1 << 63) - 1  # as the number of bytes taken: no more are


class KeptClips:
    """A place for each of ``sizes`` [samples] clips; filled up to ``limit`` [bytes]. PlainError where it cannot be."""

    def __init__(self, sizes: NDArray[np.int64], limit: float) -> None:
        self.limit = limit
        self.ends = WORD * (1 + len(sizes)) + WIDEST * np.cumsum(sizes)
        try:
            self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 -- open as long as the clips are
            self.file.truncate(WORD * (1 + len(sizes)))
            self._set_number(0, 0)
        except OSError as error:
            raise PlainError(
                f"task.keep_decoded_gb needs a temporary file, which cannot be made ({error.strerror}); set TMPDIR to "
                "a folder with room, or task.keep_decoded_gb=0"
            ) from error

    def get(self, entry: int) -> NDArray[Any] | None:
        """The waveform (S,) put at ``entry``; None where there is none, or none that can be read."""
        try:
            head = self._number(1 + entry)
            if not head:
                return None
            count, kind = divmod(head, len(KINDS))
            waveform = np.empty(count, KINDS[kind])
            return waveform if self._read(waveform.data.cast("B"), self._begin(entry)) else None
        except OSError:
            return None  # the clip itself is still where it was

    def put(self, entry: int, waveform: NDArray[Any]) -> None:
        """Keep a waveform (S,), int16 or float32; not if there is no room for it, which one process tells once."""
        is_longer = self._begin(entry) + WIDEST * len(waveform) > self.ends[entry]  # than was planned for
        if waveform.dtype not in KINDS or not len(waveform) or is_longer:
            return
        try:
            if self._takes(waveform.nbytes):
                self._write(np.ascontiguousarray(waveform).data.cast("B"), self._begin(entry))
                # last, so that nobody reads half a clip
                self._set_number(1 + entry, len(waveform) * len(KINDS) + KINDS.index(waveform.dtype))
        except OSError as error:
            with suppress(OSError):
                self._stop(f"{tempfile.gettempdir()}: {error.strerror}; TMPDIR names another folder")

    def _takes(self, num_bytes: int) -> bool:
        """Take as much of the limit; False where it is used up."""
        if self._number(0) == FULL:
            return False
        fcntl.lockf(self.file, fcntl.LOCK_EX)
        try:
            taken = self._number(0)
            if taken + num_bytes <= self.limit:
                self._set_number(0, taken + num_bytes)
                return True
        finally:
            fcntl.lockf(self.file, fcntl.LOCK_UN)
        self._stop(f"task.keep_decoded_gb={self.limit / 1e9:g} is used up")
        return False

    def _stop(self, reason: str) -> None:
        fcntl.lockf(self.file, fcntl.LOCK_EX)
        is_first = self._number(0) != FULL
        self._set_number(0, FULL)  # its block is there already, on a full disk too
        fcntl.lockf(self.file, fcntl.LOCK_UN)
        if is_first:
            logger.warning(f"no further decoded clips are kept, they are read in each epoch: {reason}")

    # ---- the file

    def _begin(self, entry: int) -> int:
        return int(self.ends[entry - 1]) if entry else WORD * (1 + len(self.ends))

    def _number(self, index: int) -> int:
        return int.from_bytes(os.pread(self.file.fileno(), WORD, WORD * index), "little")

    def _set_number(self, index: int, number: int) -> None:
        self._write(memoryview(number.to_bytes(WORD, "little")), WORD * index)

    def _read(self, left: memoryview, place: int) -> bool:
        while left and (num_read := os.preadv(self.file.fileno(), [left], place)):
            place, left = place + num_read, left[num_read:]
        return not left

    def _write(self, left: memoryview, place: int) -> None:
        while left:
            written = os.pwrite(self.file.fileno(), left, place)
            place, left = place + written, left[written:]

    def __getstate__(self) -> dict[str, Any]:
        # a worker that is not forked opens the file of its parent
        return {**self.__dict__, "file": f"/proc/{os.getpid()}/fd/{self.file.fileno()}"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.file = open(state["file"], "r+b", buffering=0)  # noqa: SIM115
