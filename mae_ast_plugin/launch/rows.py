"""A record of a manifest's rows, by which a later start of the run knows whether, and where, it has changed.

Four bytes a row beside the checkpoints; the checkpoints hold its digest. What the order of training depends on is in
it: names, lengths and rates, in their order. The root is not, so that data may be moved, and neither are labels.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from mae_ast_plugin.launch.saving import unwritable

BLOCK_BYTES = 2**20  # lines of a block are separate objects for a moment
_LABEL = re.compile(rb"^([^\t\n]*\t[^\t\n]*)\t[^\n]*", re.MULTILINE)


def row_checksums(manifest: Path) -> NDArray[np.uint32]:
    """CRC-32 of name, length and rate of every row of a TSV and its ``.rates``: (N,)."""
    with open(manifest, "rb") as file:
        file.readline()  # the root
        sums = np.fromiter(chain.from_iterable(map(zlib.crc32, _lines(block)) for block in _blocks(file)), np.uint32)
    side = manifest.with_suffix(".rates")
    if side.is_file():
        with open(side, "rb") as file:
            rates = (rate.rstrip() for rate in file)
            sums = np.fromiter(map(zlib.crc32, rates, sums.data), np.uint32)
    return sums


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    """Whole lines, some megabytes at a time."""
    while lines := file.readlines(BLOCK_BYTES):
        yield b"".join(lines)


def _lines(block: bytes) -> list[bytes]:
    block = block.replace(b"\r\n", b"\n")
    if block.count(b"\t") > block.count(b"\n"):  # some have labels, or the last line has no end
        block = _LABEL.sub(rb"\1", block)
    lines = block.split(b"\n")
    while lines and not lines[-1]:
        lines.pop()
    return lines


def digest(checksums: NDArray[np.uint32]) -> str:
    """A short name for all of them, in their order."""
    return hashlib.blake2b(checksums.astype("<u4").tobytes(), digest_size=16).hexdigest()


def record_path(folder: str | Path, split: str) -> Path:
    """Where the record of ``split`` lies among the checkpoints in ``folder``."""
    return Path(folder) / f"{split}.rows.npy"


def record_rows(manifest: Path, folder: str | Path) -> str:
    """Write the record of ``manifest``, whole or not at all; returns its digest."""
    checksums = row_checksums(manifest)
    target = record_path(folder, manifest.stem)
    partial = target.with_suffix(".tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            np.save(file, checksums)
        partial.replace(target)
    except OSError as error:
        raise unwritable(error, str(target), "so a later start could not tell whether the data is the same") from error
    return digest(checksums)


def first_difference(folder: str | Path, split: str, stored: str, now: NDArray[np.uint32]) -> int | None:
    """The first row, from 0, in which ``now`` differs from what was recorded when the digest was ``stored``.

    None where that record is gone.
    """
    try:
        before = np.load(record_path(folder, split), allow_pickle=False)
    except (OSError, ValueError):
        return None
    if digest(before) != stored:
        return None
    shared = min(len(before), len(now))
    differing = np.flatnonzero(before[:shared] != now[:shared])
    return int(differing[0]) if len(differing) else shared
