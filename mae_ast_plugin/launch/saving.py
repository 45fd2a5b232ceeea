"""Files that are whole or absent, on disks that may be full: how checkpoints are written.

A save that fails ends the run in one sentence and leaves every older checkpoint as it was.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

from mae_ast_plugin.errors import PlainError

MENDS = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room in your quota",
    errno.EFBIG: "allow larger files there (ulimit -f)",
    errno.EROFS: "make it writable",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.ENOTDIR: "choose another hydra.run.dir",
    errno.EISDIR: "move that folder away",
}
PROBE = ".writable"


def make_saves_whole() -> None:
    """Replace the engine's saves, which repeat a failed write behind its first half, and its plain copies."""
    checkpoint_utils.torch_persistent_save = save
    PathManager.copy = staticmethod(copy)  # type: ignore[method-assign]


def save(content: Any, filename: str, async_write: bool = False) -> None:
    """Write a checkpoint; PlainError where the disk does not take it. ``async_write`` makes no difference."""

    def write(file: IO[bytes]) -> None:
        torch.save(content, file)

    _replace(filename, write)


def copy(source: str, target: str, overwrite: bool = False) -> bool:
    """Copy a checkpoint (checkpoint_last, checkpoint_best); False where ``target`` exists and is to be kept."""
    if not overwrite and os.path.exists(target):
        return False

    def write(file: IO[bytes]) -> None:
        with open(source, "rb") as original:
            shutil.copyfileobj(original, file, 2**20)

    _replace(target, write)
    return True


def check_writable(folder: str) -> None:
    """Write and remove a small file in ``folder``, which is made where it is missing; PlainError where that fails."""
    probe = Path(folder) / PROBE
    with _failing_plainly(str(probe), "nothing of the run could be kept"):
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\n" * 4096)
        probe.unlink()


def unwritable(error: OSError, path: str, consequence: str) -> PlainError:
    """Put what the system says about writing ``path`` into a sentence with the mend."""
    mend = MENDS.get(error.errno or 0, "see that it can be written")
    return PlainError(
        f"{path} cannot be written ({error.strerror or error}), {consequence}; {mend} or choose another hydra.run.dir, "
        "and start the same command again"
    )


def system_error(error: BaseException | None) -> OSError | None:
    """The error of the operating system behind ``error``: torch raises another one while it tidies up."""
    while error is not None and not (isinstance(error, OSError) and error.errno):
        error = error.__cause__ or error.__context__
    return error


def _replace(path: str, write: Callable[[IO[bytes]], None]) -> None:
    partial = f"{path}.tmp"  # always the same: what a killed run leaves is written over by the next
    with _failing_plainly(path, "the checkpoints before it are whole"):
        try:
            with open(partial, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)  # half a file only takes up room
            raise


@contextmanager
def _failing_plainly(path: str, consequence: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        cause = system_error(error)
        if cause is None:
            raise
        raise unwritable(cause, path, consequence) from error
