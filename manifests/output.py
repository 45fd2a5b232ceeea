"""What the commands write: the clips of a split as a manifest, what could not be read, and the sentences about both."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sortedcontainers import SortedDict

from mae_ast_plugin.audio.manifest import write_atomically, write_manifest
from mae_ast_plugin.audio.places import container_of
from mae_ast_plugin.audio.reader import AudioError, probe
from mae_ast_plugin.errors import PlainError
from manifests.jobs import Journal, each
from manifests.splits import choose_splits

UNREADABLE = "unreadable.tsv"  # what could not be read of all splits; NAME-unreadable.tsv where `pack` writes several
UNREADABLE_OF_ONE = ".unreadable"  # behind the name of the one manifest that a command writes


class Clip(NamedTuple):
    """A row: its name (relative to the root), length in samples at its own rate, that rate in Hz, and its label."""

    name: str
    num_samples: int
    sample_rate: int
    label: str | None = None

    @property
    def seconds(self) -> float:
        return self.num_samples / self.sample_rate


@dataclass
class Findings:
    """What looking into files found: clips and reasons of failure by name, in the order of the names."""

    clips: SortedDict[str, Clip] = field(default_factory=SortedDict)
    unreadable: SortedDict[str, str] = field(default_factory=SortedDict)
    num_short: int = 0
    num_long: int = 0

    def add(self, clip: Clip, min_seconds: float = 0.0, max_seconds: float = float("inf")) -> None:
        """Keep a clip that is neither too short nor too long."""
        if clip.seconds < min_seconds:
            self.num_short += 1
        elif clip.seconds > max_seconds:
            self.num_long += 1
        else:
            self.clips[clip.name] = clip


def version_of(path: str) -> str | None:
    """Tell in which state a clip's file or container is, by its size and time; None where it is not there."""
    try:
        status = os.stat(container_of(path) or path)
    except OSError:
        return None
    return f"{status.st_size} {status.st_mtime_ns}"


def probing_journal(path: Path, of: Sequence[str], root: str) -> Journal:
    """Open a journal of `find_out`, in which a file that was replaced since does not count as done."""
    return Journal(path, of, version=partial(_version_below, root))


def _version_below(root: str, name: str) -> str | None:
    return version_of(os.path.join(root, name))


def probe_all(
    root: str, names: Sequence[str], *, jobs: int, journal: Journal | None = None
) -> Iterable[tuple[str, tuple[int, int] | str]]:
    """Give each name with its length [samples] and rate [Hz], or with the reason why it is unreadable, in any order."""
    yield from each(partial(_probe, root), names, jobs=jobs, what="probing", journal=journal, kept=_is_clip)


def _is_clip(found: tuple[int, int] | str) -> bool:
    return not isinstance(found, str)


def _probe(root: str, name: str) -> tuple[int, int] | str:
    try:
        info = probe(os.path.join(root, name))
    except AudioError as error:
        return error.reason
    return info.num_samples, info.sample_rate


def find_out(
    root: str,
    names: Sequence[str],
    findings: Findings,
    *,
    jobs: int,
    journal: Journal | None = None,
    label_of: Callable[[str], str | None] = lambda name: None,
    limits: tuple[float, float] = (0.0, float("inf")),
) -> None:
    """Probe ``names`` and sort them into ``findings``; ``limits`` are the shortest and longest clip in seconds."""
    for name, found in probe_all(root, names, jobs=jobs, journal=journal):
        if isinstance(found, str):
            findings.unreadable[name] = found
        else:
            findings.add(Clip(name, *found, label_of(name)), *limits)


def write_split(out: Path, split: str, root: str, clips: Sequence[Clip]) -> None:
    """Write ``out/SPLIT.tsv`` with its rates, and its labels where any clip has one; say how much it holds."""
    path = out / f"{split}.tsv"
    labelled = any(clip.label is not None for clip in clips)
    write_manifest(
        path,
        root,
        ((clip.name, clip.num_samples) for clip in clips),
        labels=(clip.label for clip in clips) if labelled else None,
        rates=(clip.sample_rate for clip in clips),
    )
    hours = sum(clip.seconds for clip in clips) / 3600
    print(f"{split}: {len(clips)} clips, {hours:.3f} hours in {path}")


def write_splits(out: Path, root: str, clips: Mapping[str, Clip], *, valid: float, test: float, seed: int) -> None:
    """Write the requested splits in the order of ``clips``; a split that is not requested is left alone, and said."""
    shares = {"train": 1.0, "valid": valid, "test": test}
    for split, names in choose_splits(clips, valid, test, seed).items():
        path = out / f"{split}.tsv"
        if shares[split] == 0:
            if path.exists():
                print(f"{split}: not requested, {path} of an earlier run is left as it is")
            continue
        write_split(out, split, root, [clips[name] for name in names])
        if not names:
            print(f"{split}: too few clips for this split, {path} has no rows: train without it or add clips")
        elif len(names) == 1 < len(clips) and split != "train":
            print(f"{split}: a single clip; with so few clips it may change when files are added")


def write_unreadable(out: Path, unreadable: Mapping[str, str], file_name: str = UNREADABLE) -> Path:
    """Write ``out/unreadable.tsv``, or another file there: name and reason per line; returns its path."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / file_name
    write_atomically(path, map(tsv_line, unreadable.items()))
    return path


def report_findings(out: Path, root: str, findings: Findings) -> None:
    """List what could not be read and say how much was left out; PlainError where nothing is left."""
    path = write_unreadable(out, findings.unreadable)
    print(
        f"{len(findings.unreadable)} unreadable (listed in {path}), "
        f"{findings.num_short} too short, {findings.num_long} too long"
    )
    if not findings.clips:
        raise PlainError(f"no clip below {root} can be used: see {path} and the limits of length")


def tsv_line(columns: Sequence[str]) -> bytes:
    """Join columns with TABs; a TAB or line break within one is written as a backslash and a letter."""
    escaped = (text.replace("\t", "\\t").replace("\r", "\\r").replace("\n", "\\n") for text in columns)
    return os.fsencode("\t".join(escaped)) + b"\n"
