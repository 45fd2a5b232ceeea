"""The names that clips get in a shard: WebDataset's keys, which have no dot and occur once.

A clip that already lies in a shard, a zip or an HDF5 file has the name that it has in there. Opens headers only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from mae_ast_plugin.audio.listing import EXTENSIONS
from manifests.hdf5_layout import read_names
from manifests.shards import read_shard

KNOWN = frozenset(EXTENSIONS.split(","))
SPAN = re.compile(r"(.+\.tar):(\d{1,18}):\d{1,18}", re.DOTALL | re.IGNORECASE)
ROW = re.compile(r"(.+\.(?:h5|hdf5|hdf)):(\d{1,18})", re.DOTALL | re.IGNORECASE)
MEMBER = re.compile(r".+?\.zip:(.+)", re.DOTALL | re.IGNORECASE)


def inner_name(path: str) -> str:
    """Give the name that a clip has where it lies: of its file, or in its container as far as that can be read."""
    if ":" in path:
        if span := SPAN.fullmatch(path):
            return _tar_names(span[1]).get(int(span[2]), path)
        if row := ROW.fullmatch(path):
            return _hdf5_names(row[1]).get(int(row[2]), path)
        if member := MEMBER.fullmatch(path):
            return member[1]
    return path


def ending_of(name: str) -> str:
    """Give the ending of an audio file's name in small letters; "" where it is none."""
    ending = os.path.basename(name).rpartition(".")[2].lower()
    return ending if ending in KNOWN else ""


def unique_keys(names: Iterable[str]) -> Iterator[str]:
    """Give each clip its key: the base name without ending, dots as underscores; one that is taken gets a number."""
    taken: dict[str, int] = {}
    for name in names:
        base = os.path.basename(name)
        ending = ending_of(base)
        key = wanted = (base[: -len(ending) - 1] if ending else base).replace(".", "_") or "clip"
        while key in taken:
            taken[wanted] += 1
            key = f"{wanted}_{taken[wanted]}"
        taken[key] = 1
        yield key


@lru_cache(maxsize=4)
def _tar_names(path: str) -> dict[int, str]:
    try:
        return {int(clip.place.partition(":")[0]): clip.name for clip in read_shard(path, "").clips}
    except OSError:  # whoever reads the clip will say so
        return {}


@lru_cache(maxsize=4)
def _hdf5_names(path: str) -> dict[int, str]:
    return dict(enumerate(read_names(path)))
