"""Open files that many clips lie in: few at a time, shared by threads, and never one that was changed meanwhile.

A part of such a file is read at its own place (``pread``), so no reader moves another's position. Knows no format.
"""

from __future__ import annotations

import io
import os
import stat
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

C = TypeVar("C")

MAX_OPEN = 64  # a process may usually have 1024 files open, and a training starts several
Version = tuple[int, int, int, int]


class ContainerError(Exception):
    """A container, or a part of it, that cannot be read; ``reason`` says why without naming the clip."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class OpenFile:
    """A file that is read at any place by any thread, and closed when nobody holds it any more."""

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        self._descriptor = descriptor
        self.num_bytes = os.fstat(descriptor).st_size

    def read(self, num_bytes: int, offset: int) -> bytes:
        """Read bytes at an offset, fewer where the file ends."""
        return os.pread(self._descriptor, num_bytes, offset)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill a buffer from an offset on; returns the number of bytes, less than wanted where the file ends."""
        return os.preadv(self._descriptor, [buffer], offset)


class Window(io.RawIOBase):
    """A part of an open file as a binary file of its own, with a position of its own."""

    def __init__(self, file: OpenFile, offset: int, num_bytes: int) -> None:
        super().__init__()
        self._file, self._offset, self._num_bytes = file, offset, num_bytes
        self._position = 0
        # libsndfile cannot be told of an error by its reader, only of an end: whoever reads through it looks here after
        self.failure: OSError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._num_bytes}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        wanted = memoryview(buffer).cast("B")[: max(0, self._num_bytes - self._position)]
        try:
            found = self._file.read_into(wanted, self._offset + self._position) if len(wanted) else 0
        except OSError as error:
            self.failure, found = error, 0
        self._position += found
        return found


class Pool:
    """Containers that stay open from clip to clip, the ones used last; ``bound`` is how many.

    One that is put out stays usable for whoever still reads it, and is opened again when it is wanted again.
    """

    def __init__(self, bound: int = MAX_OPEN) -> None:
        self.bound = bound
        self._versions: dict[str, Version] = {}
        self._open: OrderedDict[tuple[Callable[[str], Any], str], Any]
        self.start_anew()

    def __len__(self) -> int:
        return len(self._open)

    def start_anew(self) -> None:
        """Close all: a forked process must not share what its parent has open, nor wait for its parent's threads."""
        self._lock = threading.Lock()
        self._open = OrderedDict()

    def get(self, opener: Callable[[str], C], path: str) -> C:
        """Give ``opener(path)``, the one from last time where it is still open.

        OSError or ContainerError where it cannot be opened, and ContainerError where the file was replaced, written to
        or removed since this process first used it: places in it would mean other bytes then.
        """
        key = (opener, path)
        with self._lock:
            self._check_version(path)
            if key not in self._open:
                self._open[key] = opener(path)
            self._open.move_to_end(key)
            if len(self._open) > self.bound:
                self._open.popitem(last=False)
            opened: C = self._open[key]
            return opened

    def _check_version(self, path: str) -> None:
        try:
            status = os.stat(path)
        except FileNotFoundError as error:
            if path not in self._versions:
                raise
            raise ContainerError("has disappeared while in use: put it back and start again") from error
        except ValueError as error:  # a NUL byte, or a letter that no name of a file can hold
            raise ContainerError(f"lies in no name of a file ({error}): correct it") from error
        if stat.S_ISDIR(status.st_mode):
            raise ContainerError("lies in a folder, expected a file that holds many clips: correct the manifest")
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for for ever
            raise ContainerError("lies in what is not a regular file: leave it out")
        version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if self._versions.setdefault(path, version) != version:
            raise ContainerError("was changed while in use: start again, with a manifest that belongs to it")


CONTAINERS = Pool()
os.register_at_fork(after_in_child=CONTAINERS.start_anew)
