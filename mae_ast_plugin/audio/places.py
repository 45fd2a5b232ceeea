"""Where a clip lies: a file of its own, or a part of a file that holds many. The name of the clip tells.

    a/b.flac                   a file
    shard.tar:OFFSET:LENGTH    a member of a tar, by the place of its bytes; ``.zip`` too where they are stored
    clips.zip:a/b.flac         a member of a zip file, by its name
    clips.hdf:ROW              a row of an HDF5 file (.h5, .hdf5, .hdf)

Whatever else a name may hold is simply a file name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from mae_ast_plugin.audio.archives import Handle, open_member, open_row, open_span
from mae_ast_plugin.audio.outcomes import AudioError, Path, check_file, system_reason
from mae_ast_plugin.audio.pool import ContainerError, Window

SPAN = re.compile(r"(.+\.(?:tar|zip)):([0-9]{1,18}):([0-9]{1,18})", re.DOTALL | re.IGNORECASE)
ROW = re.compile(r"(.+\.(?:h5|hdf5|hdf)):([0-9]{1,18})", re.DOTALL | re.IGNORECASE)
MEMBER = re.compile(r"(.+?\.zip):(.+)", re.DOTALL | re.IGNORECASE)
HEAD_BYTES = 512


def container_of(path: Path) -> str | None:
    """Name the file that a clip is a part of; None where it is a file of its own."""
    name = os.fspath(path)
    found = ":" in name and (SPAN.fullmatch(name) or ROW.fullmatch(name) or MEMBER.fullmatch(name))
    return found[1] if found else None


def size_of(path: Path) -> int:
    """Count the bytes of a clip where that costs no more than a look, otherwise 0."""
    name = os.fspath(path)
    if span := SPAN.fullmatch(name):
        return int(span[3])
    try:
        return os.path.getsize(name)
    except (OSError, ValueError):
        return 0


def open_place(path: Path) -> Handle:
    """Open a clip's bytes, and only them, to be read and searched; AudioError where there are none.

    A file of its own is opened unbuffered and has a descriptor (``io.FileIO``), a part of another has none.
    """
    name = os.fspath(path)
    try:
        return _open_file(name) if ":" not in name else _open_part(name)
    except OSError as error:
        raise AudioError(path, system_reason(error)) from error
    except ContainerError as error:
        raise AudioError(path, error.reason) from error


def _open_part(name: str) -> Handle:
    if found := SPAN.fullmatch(name):
        return open_span(found[1], int(found[2]), int(found[3]))
    if found := ROW.fullmatch(name):
        return open_row(found[1], int(found[2]))
    if found := MEMBER.fullmatch(name):
        return open_member(found[1], found[2])
    return _open_file(name)


def _open_file(name: str) -> Handle:
    check_file(name)
    return open(name, "rb", buffering=0)


def peek(handle: Handle, num_bytes: int = HEAD_BYTES, offset: int = 0) -> bytes:
    """Read bytes at an offset and leave the position where it was: a decoder may be using it."""
    position = handle.tell()
    handle.seek(offset)
    found = handle.read(num_bytes) or b""
    handle.seek(position)
    return found


@contextmanager
def opened_place(path: Path) -> Iterator[Handle]:
    """Open a clip's bytes while they are read; AudioError as `open_place`, and where the system fails to read."""
    try:
        with open_place(path) as handle:
            yield handle
    except OSError as error:
        raise AudioError(path, f"cannot be read: {error.strerror or error}") from error


def check_reading(path: Path, handle: Handle) -> None:
    """Raise AudioError where the system failed to read, which a decoder took for the end."""
    if isinstance(handle, Window) and handle.failure is not None:
        raise AudioError(path, f"cannot be read: {handle.failure.strerror or handle.failure}") from handle.failure
