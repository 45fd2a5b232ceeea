"""Write HDF5 files in the layout of ``hdf5_layout``, row by row, and join several into one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manifests.hdf5_layout import import_h5py, labels_of

ROWS_IN_CHUNK = 1024


class Writer:
    """Write a file of the layout row by row, with no row in memory; ``classes`` tells the bit of each label."""

    def __init__(self, path: Path, num_rows: int, name_bytes: int, classes: Mapping[str, int] | None) -> None:
        h5py = import_h5py()
        self._file = h5py.File(path, "w")
        self._classes = classes
        self.num_rows = 0

        def create(name: str, width: tuple[int, ...], kind: Any) -> Any:
            shape, chunks = (num_rows, *width), (ROWS_IN_CHUNK, *width)
            return self._file.create_dataset(name, shape, kind, maxshape=(None, *width), chunks=chunks)

        self._names = create("audio_name", (), f"S{name_bytes}")
        self._clips = create("mp3", (), h5py.vlen_dtype(np.uint8))
        self._targets = None if classes is None else create("target", (-(-len(classes) // 8),), np.uint8)

    def add(self, name: str, clip: bytes, label: str | None) -> None:
        """Append a clip."""
        row, self.num_rows = self.num_rows, self.num_rows + 1
        self._names[row] = os.fsencode(name)
        self._clips[row] = np.frombuffer(clip, np.uint8)
        if self._targets is not None and self._classes is not None:
            bits = np.zeros(len(self._classes), bool)
            bits[[self._classes[one] for one in labels_of(label)]] = True
            self._targets[row] = np.packbits(bits)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        for dataset in (self._names, self._clips, self._targets):
            if dataset is not None:
                dataset.resize(self.num_rows, axis=0)
        self._file.close()


def join_files(path: Path, parts: Sequence[Path]) -> None:
    """Write the rows of files that `Writer` has written, one after another, into one file."""
    h5py = import_h5py()
    with h5py.File(path, "w") as whole:
        for part in parts:
            with h5py.File(part, "r") as file:
                for name, rows in file.items():
                    _append(whole, name, rows, h5py.check_vlen_dtype(rows.dtype) is not None)


def _append(whole: Any, name: str, rows: Any, row_by_row: bool) -> None:
    if name not in whole:
        chunks = (ROWS_IN_CHUNK, *rows.shape[1:])
        whole.create_dataset(name, (0, *rows.shape[1:]), rows.dtype, maxshape=(None, *rows.shape[1:]), chunks=chunks)
    begin = len(whole[name])
    whole[name].resize(begin + len(rows), axis=0)
    if row_by_row:  # h5py would take rows of one length for a table
        for number, row in enumerate(rows, start=begin):
            whole[name][number] = row
    else:
        whole[name][begin:] = rows[:]
