"""HDF5 files as MaskSpec and PaSST have them: ``audio_name``, ``mp3`` with a whole file in each row, ``target``.

``target`` holds a bit for each class, the first class in the highest bit of the first byte (``np.packbits``). OpenMIC
has floats instead: the likelihood of each class, then for each class whether it was judged at all.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mae_ast_plugin.errors import PlainError

if TYPE_CHECKING:
    import h5py

ROWS_AT_ONCE = 4096
LIKELY = 0.5  # OpenMIC's own threshold for "the instrument is there"


def import_h5py() -> Any:
    """Import h5py, which is optional; PlainError says how to install it."""
    try:
        import h5py
    except ImportError as error:
        raise PlainError("HDF5 files need h5py: install it with pip install 'mae-ast-plugin[hdf5]'") from error
    return h5py


def open_file(path: str) -> h5py.File:
    """Open a file that has the layout; PlainError says what it lacks."""
    h5py = import_h5py()
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if not os.path.isfile(path):
            raise PlainError(f"{path} does not exist: correct the path") from error
        raise PlainError(f"{path} is no HDF5 file, or a truncated one: copy it again or leave it out") from error
    clips = file.get("mp3")
    if not isinstance(clips, h5py.Dataset) or clips.ndim != 1:
        found = ", ".join(sorted(file.keys())) or "it is empty"
        file.close()
        raise PlainError(
            f"{path} has no dataset mp3 with a clip in each row ({found}): give files in MaskSpec's layout"
        )
    return file


def read_names(path: str) -> list[str]:
    """Read the names of all clips; an empty list where the file has none."""
    with open_file(path) as file:
        names = file.get("audio_name")
        return [] if names is None else [os.fsdecode(name) for name in names[:]]


def read_classes(path: str) -> list[str]:
    """Read the column ``mid`` of ``class_labels_indices.csv`` (index, mid, display_name), in the order of the index."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError) as error:
        raise PlainError(f"--classes {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not rows or not {"index", "mid"} <= rows[0].keys():
        raise PlainError(
            f"--classes {path} must have the columns index and mid in line 1, and a class in each line below"
        )
    for number, row in enumerate(rows):
        if row["index"] != str(number) or not row["mid"]:
            raise PlainError(
                f"--classes {path} line {number + 2}: expected index {number} and a name, found {row['index']!r} and "
                f"{row['mid']!r}: put the classes in order"
            )
    return [row["mid"] for row in rows]


def read_labels(file: h5py.File, path: str, classes: Sequence[str] | None) -> Iterator[str | None]:
    """Give the label of every row, several joined by commas; None where it has none.

    Without ``classes`` labels are the numbers of the classes, from 0. PlainError where they do not fit the file.
    """
    targets = file.get("target")
    if targets is None:
        yield from [None] * len(file["mp3"])
        return
    _check_targets(path, targets, len(file["mp3"]), classes)
    for begin in range(0, len(targets), ROWS_AT_ONCE):
        for number, present in enumerate(_unpack(targets[begin : begin + ROWS_AT_ONCE]), start=begin):
            yield _join(path, number, np.flatnonzero(present), classes)


def _check_targets(path: str, targets: Any, num_rows: int, classes: Sequence[str] | None) -> None:
    if targets.ndim != 2 or len(targets) != num_rows or targets.dtype.kind not in "uf":
        raise PlainError(
            f"{path}: target has the shape {targets.shape} and type {targets.dtype} for {num_rows} clips: expected a "
            "row of packed bits (uint8), or of OpenMIC's floats, for each"
        )
    width = targets.shape[1]
    if classes is None:
        return
    fits = width == 2 * len(classes) if targets.dtype.kind == "f" else width == -(-len(classes) // 8)
    if not fits:
        raise PlainError(f"{path}: target has {width} columns, which does not fit {len(classes)} classes of --classes")


def _unpack(targets: NDArray[Any]) -> NDArray[np.bool_]:
    """Give (rows, classes) of what is present."""
    if targets.dtype.kind == "f":
        likely, judged = np.split(targets, 2, axis=1)
        present: NDArray[np.bool_] = (likely >= LIKELY) & (judged > 0)
        return present
    return np.unpackbits(targets.astype(np.uint8), axis=1).astype(bool)


def _join(path: str, row: int, present: NDArray[np.int64], classes: Sequence[str] | None) -> str | None:
    if not len(present):
        return None
    if classes is None:
        return ",".join(map(str, present))
    if present[-1] >= len(classes):
        raise PlainError(f"{path} row {row} has the class {present[-1]}, and --classes has only {len(classes)} classes")
    return ",".join(classes[index] for index in present)


def labels_of(label: str | None) -> list[str]:
    """Divide the third column of a manifest into labels."""
    return [one.strip() for one in (label or "").split(",") if one.strip()]
