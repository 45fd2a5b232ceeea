"""Manifests that exist, as rows to be joined, divided or packed, and written again. Opens no clip."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mae_ast_plugin.audio.manifest import Manifest, write_manifest
from manifests.jobs import progress
from manifests.output import UNREADABLE, UNREADABLE_OF_ONE, Clip

UNKNOWN_RATE = 0
FINDINGS = "findings.tsv"  # what `check` writes


class Rows(NamedTuple):
    """The rows of a manifest below its root (absolute); their rates are UNKNOWN_RATE where it has no side file."""

    root: str
    clips: list[Clip]

    @property
    def has_rates(self) -> bool:
        return all(clip.sample_rate != UNKNOWN_RATE for clip in self.clips)


def is_manifest(file_name: str) -> bool:
    """Tell the manifests in a folder from what the commands write beside them."""
    hidden = file_name.startswith(".")
    return file_name.endswith(".tsv") and not (hidden or is_unreadable(file_name) or file_name == FINDINGS)


def is_unreadable(file_name: str) -> bool:
    """Tell whether a command lists in such a file what could not be read."""
    return file_name == UNREADABLE or file_name.endswith((f"-{UNREADABLE}", UNREADABLE_OF_ONE))


def read_rows(path: str | os.PathLike[str]) -> Rows:
    """Read a manifest; ManifestError as `Manifest.load`."""
    manifest = Manifest.load(path)
    rates = [UNKNOWN_RATE] * len(manifest) if manifest.sample_rates is None else manifest.sample_rates.tolist()
    prefix = os.path.join(manifest.root, "")
    clips = [
        Clip(row.path.removeprefix(prefix), row.length, rate, row.label)
        for row, rate in zip(progress(manifest, f"reading {Path(path).name}", "row"), rates, strict=True)
    ]
    return Rows(manifest.root, clips)


def read_split(path: str | os.PathLike[str]) -> Rows:
    """Read a manifest that may have no rows, as the commands write for a split that nothing fell into."""
    lines = Path(path).read_bytes().strip().split(b"\n", 2) if os.path.getsize(path) < 2**16 else []
    if len(lines) == 1 and lines[0] and b"\t" not in lines[0]:
        return Rows(os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(path)), os.fsdecode(lines[0]))), [])
    return read_rows(path)


def write_rows(path: Path, rows: Rows) -> None:
    """Write a manifest, its labels where any row has one, its rates where all are known; say how much it holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clips = rows.clips
    labelled = any(clip.label is not None for clip in clips)
    write_manifest(
        path,
        rows.root,
        ((clip.name, clip.num_samples) for clip in progress(clips, f"writing {path.name}", "row")),
        labels=(clip.label for clip in clips) if labelled else None,
        rates=(clip.sample_rate for clip in clips) if rows.has_rates else None,
    )
    print(f"{path}: {describe(clips)}")


def describe(clips: Sequence[Clip]) -> str:
    """Say how many clips there are, and how many hours where their rates are known."""
    if any(clip.sample_rate == UNKNOWN_RATE for clip in clips):
        return f"{len(clips)} clips"
    return f"{len(clips)} clips, {sum(clip.seconds for clip in clips) / 3600:.3f} hours"
