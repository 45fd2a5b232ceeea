"""One shard after another: what belongs into each (the plan), and its file, which appears whole or not at all.

Runs in the processes of ``pack``; a process reads from the plan only the lines of its shard.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from mae_ast_plugin.audio.manifest import write_atomically
from mae_ast_plugin.audio.reader import AudioError
from manifests.hdf5_writing import Writer
from manifests.keys import ending_of, inner_name, unique_keys
from manifests.packed_clips import Packed, Settings, pack_clip
from manifests.shards import read_shard

PERMISSIONS = 0o644
COUNTS = ("copied", "encoded", "converted", "clipped")


class Plan(NamedTuple):
    """A file with one line for each clip: name, key, ending, label.

    ``shards`` tells for each where its lines begin [bytes] and how many they are, ``key_bytes`` how long keys are.
    """

    path: Path
    root: str
    digest: str
    shards: dict[str, tuple[int, int]]
    key_bytes: int

    @classmethod
    def write(cls, path: Path, root: str, sizes: Mapping[str, int], sources: Sequence[tuple[str, str | None]]) -> Plan:
        """Write the plan of ``sources`` (name, label) in the order of the shards, whose ``sizes`` sum up to theirs."""
        inner = [inner_name(os.path.join(root, name)) for name, _ in sources]
        keys = list(unique_keys(inner))
        lines = (
            json.dumps([name, key, ending_of(known), label]).encode("ascii") + b"\n"
            for (name, label), known, key in zip(sources, inner, keys, strict=True)
        )
        digest, shards = hashlib.sha256(os.fsencode(root)), dict[str, tuple[int, int]]()

        def placed() -> Iterator[bytes]:
            place = 0
            for shard, size in sizes.items():
                shards[shard] = (place, size)
                digest.update(f"{shard} {size}\n".encode())
                for line in islice(lines, size):
                    digest.update(line)
                    place += len(line)
                    yield line

        write_atomically(path, placed())
        return cls(path, root, digest.hexdigest(), shards, max(len(os.fsencode(key)) for key in keys))

    def clips_of(self, shard: str) -> Iterator[tuple[str, str, str, str | None]]:
        """Give name, key, ending and label of a shard's clips."""
        place, size = self.shards[shard]
        with open(self.path, "rb") as handle:
            handle.seek(place)
            for line in islice(handle, size):
                name, key, ending, label = json.loads(line)
                yield name, key, ending, label


class Shard:
    """What has been put into a shard, in the words of the journal."""

    def __init__(self, plan: Plan, name: str, settings: Settings) -> None:
        self._plan, self._name, self._settings = plan, name, settings
        self.counts: Counter[str] = Counter()
        self.unreadable: list[tuple[str, str]] = []
        self.clips: list[tuple[int, int, str | None]] = []  # length, rate, label

    def read_clips(self) -> Iterator[tuple[str, str, str | None, Packed]]:
        """Give name, key, label and bytes of all clips that can be read; the others are listed."""
        for name, key, ending, label in self._plan.clips_of(self._name):
            try:
                packed = pack_clip(os.path.join(self._plan.root, name), ending, self._settings)
            except AudioError as error:
                self.unreadable.append((name, error.reason))
                continue
            self.counts[packed.how] += 1
            self.counts["clipped"] += packed.clipped
            self.clips.append((packed.num_samples, packed.sample_rate, label))
            yield name, key, label, packed

    def result(self, path: Path, places: Sequence[str]) -> dict[str, Any]:
        """Give what the journal keeps of the complete shard; ``places`` are those of its clips in it."""
        clips = [[place, *clip] for place, clip in zip(places, self.clips, strict=True)]
        counts = {key: self.counts[key] for key in COUNTS}
        return {"num_bytes": path.stat().st_size, "clips": clips, "unreadable": self.unreadable, **counts}


def write_shard(
    plan: Plan, out: str, settings: Settings, classes: Mapping[str, int] | None, name: str
) -> dict[str, Any]:
    """Write a shard whole or not at all, and give what the journal keeps of it."""
    path, temporary = Path(out, name), Path(out, f".{name}.tmp")
    shard = Shard(plan, name, settings)
    try:
        if settings.mp3:
            _write_hdf5(temporary, shard, classes, plan.shards[name][1], plan.key_bytes)
            places = [str(row) for row in range(len(shard.clips))]
        else:
            _write_tar(temporary, shard)
            places = [clip.place for clip in read_shard(str(temporary), "").clips]
        settle(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return shard.result(path, places)


def settle(temporary: Path, path: Path) -> None:
    """Give a file that is complete its name, so that it is complete there also if the machine stops."""
    with open(temporary, "rb") as handle:
        os.fsync(handle.fileno())
    os.replace(temporary, path)


def _write_tar(path: Path, shard: Shard) -> None:
    with tarfile.open(path, "w", encoding="utf-8", errors="surrogateescape") as archive:
        for name, key, label, packed in shard.read_clips():
            about: dict[str, Any] = {"name": name, "num_samples": packed.num_samples, "sample_rate": packed.sample_rate}
            if label is not None:
                about["label"] = label
            _add_member(archive, f"{key}.{packed.ending}", packed.data)
            _add_member(archive, f"{key}.json", json.dumps(about, sort_keys=True).encode("ascii"))


def _add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # no time and no owner: the same clips give the same bytes
    member.size, member.mode = len(data), PERMISSIONS
    archive.addfile(member, io.BytesIO(data))


def _write_hdf5(path: Path, shard: Shard, classes: Mapping[str, int] | None, num_rows: int, key_bytes: int) -> None:
    with Writer(path, num_rows, key_bytes + len(".mp3"), classes) as writer:
        for _, key, label, packed in shard.read_clips():
            writer.add(f"{key}.mp3", packed.data, label)
