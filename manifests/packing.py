"""The files of one packing in its folder: what is complete, what is of another packing, and parts that become one file.

``NAME-000000.tar`` ... are the shards. ``.NAME.packed`` records which are complete and stays, so that the same command
does nothing twice; ``.NAME.plan`` is there while the work is unfinished. One HDF5 file is made of parts, so that it is
encoded in all processes and goes on after a stop like shards are.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mae_ast_plugin.errors import PlainError
from manifests.hdf5_writing import join_files
from manifests.jobs import Journal
from manifests.shard_files import COUNTS, settle

Result = dict[str, Any]


class Packing:
    """A packing called ``name`` in the folder ``out``."""

    def __init__(self, out: Path, name: str, one_file: bool) -> None:
        self.out, self.name, self.one_file = out, name, one_file
        self.folder = out / f".{name}.parts" if one_file else out
        self.plan = out / f".{name}.plan"
        self._record = out / f".{name}.packed"
        self._whole = out / f"{name}.hdf"

    def shard_sizes(self, num_clips: int, per_shard: int, ending: str) -> dict[str, int]:
        """Give each shard its file name and the number of its clips, and make the folders."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return {
            f"{self.name}-{begin // per_shard:06d}.{ending}": min(per_shard, num_clips - begin)
            for begin in range(0, num_clips, per_shard)
        }

    @contextmanager
    def journal(self, of: Any) -> Iterator[Journal]:
        """Open the record of complete shards; PlainError where there are files of another packing."""
        if (found := self._files()) and not self._is_of(of):
            self.clean()
            raise PlainError(
                f"{found[0]} is of another packing (other clips or options): remove its files, or give another --name"
            )
        with Journal(self._record, of, stays=True) as journal:
            self._forget_incomplete(journal)
            yield journal

    def join(self, results: Sequence[tuple[str, Result]], journal: Journal) -> tuple[str, Result]:
        """Join the parts into one file, where that is not done yet; gives its name and what is in it."""
        name = self._whole.name
        if name not in journal.done:
            temporary = self._whole.with_name(f".{name}.tmp")
            join_files(temporary, [self.folder / shard for shard, _ in results])
            settle(temporary, self._whole)
            journal.add([(name, {"num_bytes": self._whole.stat().st_size})])
        clips = [clip for _, result in results for clip in result["clips"]]
        joined: Result = {key: sum(result[key] for _, result in results) for key in COUNTS}
        joined["clips"] = [[row, *clip[1:]] for row, clip in enumerate(clips)]
        joined["unreadable"] = [pair for _, result in results for pair in result["unreadable"]]
        return name, joined

    def clean(self) -> None:
        """Remove what only unfinished work needs."""
        self.plan.unlink(missing_ok=True)
        if self.one_file:
            shutil.rmtree(self.folder)

    def _files(self) -> list[Path]:
        pattern = re.compile(re.escape(self.name) + r"(-\d{6,}\.(tar|hdf)|\.hdf)")
        return sorted(self.out / name for name in os.listdir(self.out) if pattern.fullmatch(name))

    def _is_of(self, of: Any) -> bool:
        if not self._record.exists():
            return False
        with open(self._record, encoding="utf-8") as handle:
            return handle.readline() == json.dumps(of, sort_keys=True) + "\n"

    def _forget_incomplete(self, journal: Journal) -> None:
        """Leave to be done again what is not there in full, and where clips could not be read."""
        whole = journal.done.pop(self._whole.name, None)
        if whole and _size_of(self._whole) == whole["num_bytes"]:
            journal.done[self._whole.name] = whole
            return
        for shard, result in list(journal.done.items()):
            if _size_of(self.folder / shard) != result["num_bytes"] or result["unreadable"]:
                del journal.done[shard]


def _size_of(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
