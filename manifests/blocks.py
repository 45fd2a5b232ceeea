"""The rows of several manifests as one corpus, and as blocks of work that are named by a line of text.

A block names its manifest and lines, so that a journal is small for millions of rows, a process that dies can be told
near which lines, and every machine cuts the same blocks. Knows nothing of what is done with the clips.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mae_ast_plugin.audio.manifest import Manifest
from mae_ast_plugin.errors import PlainError
from manifests.jobs import Share
from manifests.output import version_of
from manifests.tsv import is_manifest

BLOCK_ROWS = 32


class CorpusRow(NamedTuple):
    """A row: its split's name, its line in the manifest, its name there, its path."""

    split: str
    line: int
    name: str
    path: str


class Corpus:
    """Manifests one after another, N rows in all; ``corpus[i]`` is row i of all of them.

    ``splits``, ``lengths`` and ``rates`` (N,) are the number of each row's manifest, its length in samples, and its
    rate [Hz], 0 where that is not known; ``starts`` (manifests + 1,) where each manifest begins.
    """

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        self.manifests = list(manifests)
        sizes = [len(manifest) for manifest in manifests]
        self.starts = np.cumsum([0, *sizes])
        self.splits: NDArray[np.int32] = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        self.lengths = np.concatenate([manifest.lengths for manifest in manifests])
        self.rates = np.concatenate([_rates(manifest) for manifest in manifests])
        stems = [Path(manifest.path).stem for manifest in manifests]
        self.names = stems if len(set(stems)) == len(stems) else [manifest.path for manifest in manifests]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> CorpusRow:
        split = int(self.splits[index])
        manifest, row = self.manifests[split], index - int(self.starts[split])
        path = manifest[row].path
        return CorpusRow(self.names[split], row + 2, path.removeprefix(manifest.root.rstrip("/") + "/"), path)

    def blocks(self, share: Share) -> dict[str, int]:
        """Name the blocks of a machine's share, in order, each with its first row in the corpus.

        Machines take turns: their manifests are the same, or their results would not be joined.
        """
        names = {}
        for manifest, start in zip(self.manifests, self.starts.tolist(), strict=False):
            for begin in range(0, len(manifest), BLOCK_ROWS):
                last = min(begin + BLOCK_ROWS, len(manifest)) + 1
                names[f"{manifest.path} lines {begin + 2}-{last}"] = start + begin
        return dict(islice(names.items(), share.number - 1, None, share.total))

    def contents(self) -> list[str]:
        """A fingerprint of each manifest, the same wherever it lies."""
        return [_fingerprint(manifest.path) for manifest in self.manifests]


def open_corpus(inputs: Sequence[str]) -> Corpus:
    """Load manifests, and all manifests of folders; PlainError where there are none or one comes twice."""
    paths = [path for given in inputs for path in _manifests_of(Path(given))]
    twice = [path for path in paths if paths.count(path) > 1]
    if twice:
        raise PlainError(f"{twice[0]} is given twice: give each manifest once")
    open_manifest.cache_clear()  # they may have been changed since
    return Corpus([open_manifest(path) for path in paths])


@cache
def open_manifest(path: str) -> Manifest:
    """Load a manifest once a process; processes that are forked afterwards find it there and share its memory."""
    return Manifest.load(path)


def rows_of(block: str) -> Iterator[tuple[str, int, int | None]]:
    """Give path, length and rate, if known, of each row of a block."""
    path, _, lines = block.rpartition(" lines ")
    first, _, last = lines.partition("-")
    manifest = open_manifest(path)
    for row in range(int(first) - 2, int(last) - 1):
        rate = None if manifest.sample_rates is None else int(manifest.sample_rates[row])
        yield manifest[row].path, int(manifest.lengths[row]), rate


def version_of_block(block: str) -> str:
    """Tell in which state the files of a block's clips are, by their sizes and times."""
    versions = hashlib.blake2b(digest_size=8)
    for path, _, _ in rows_of(block):
        versions.update(f"{version_of(path)}\n".encode())
    return versions.hexdigest()


def in_order(names: Iterable[str], results: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Give results, which come in any order, in that of ``names``: sums then do not depend on who was first."""
    early: dict[str, Any] = {}
    arriving = iter(results)
    for name in names:
        while name not in early:
            early.update([next(arriving)])
        yield name, early.pop(name)


def _manifests_of(path: Path) -> list[str]:
    if not path.is_dir():
        return [str(path.absolute())]
    found = sorted(entry for entry in path.absolute().glob("*.tsv") if is_manifest(entry.name))
    if not found:
        raise PlainError(f"{path} holds no manifest (.tsv): make one with `python -m manifests scan`")
    return [str(entry) for entry in found]


def _rates(manifest: Manifest) -> NDArray[np.int32]:
    return np.zeros(len(manifest), np.int32) if manifest.sample_rates is None else manifest.sample_rates


def _fingerprint(path: str) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
