"""Repairs of the engine that hold for a whole process, the engine's own child processes included."""

from __future__ import annotations

import os
import shutil

from fairseq import checkpoint_utils
from fairseq.file_io import PathManager
from fairseq.logging import progress_bar


def make_copies_atomic() -> None:
    """Replace the engine's plain copies (checkpoint_last, checkpoint_best) by copies that are whole or absent."""

    def copy(source: str, target: str, overwrite: bool = False) -> bool:
        if not overwrite and os.path.exists(target):
            return False
        partial = f"{target}.tmp"  # always the same: what a killed run leaves is written over by the next
        shutil.copyfile(source, partial)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
        return True

    PathManager.copy = staticmethod(copy)  # type: ignore[method-assign]


def forget_earlier_runs() -> None:
    """Several runs of one process (a sweep) must not share their best score nor the files of TensorBoard."""
    from fairseq_cli import train

    for writer in progress_bar._tensorboard_writers.values():
        writer.close()
    progress_bar._tensorboard_writers.clear()
    for function, name in ((checkpoint_utils.save_checkpoint, "best"), (train.should_stop_early, "best")):
        if hasattr(function, name):
            delattr(function, name)
