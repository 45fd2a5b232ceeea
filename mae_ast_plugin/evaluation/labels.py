"""Labelled clips: the rows of a manifest with a third column, checked before any time is spent on audio.

Knows nothing of models, and opens no clip.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from mae_ast_plugin.audio.listing import Listed
from mae_ast_plugin.audio.manifest import Manifest
from mae_ast_plugin.errors import PlainError


@dataclass(frozen=True)
class LabelledClips:
    """Clips of one manifest: ``clips``, the ``labels`` of each (one or more), and the ``lines`` they stand in."""

    path: str
    clips: list[Listed]
    labels: list[tuple[str, ...]]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def has_several(self) -> bool:
        """Whether any clip has more than one label."""
        return any(len(labels) > 1 for labels in self.labels)

    def known(self) -> list[str]:
        """List the labels that occur, sorted."""
        return sorted({label for labels in self.labels for label in labels})

    def without(self, rows: Collection[int]) -> LabelledClips:
        """Leave out some ``rows``."""
        kept = [row for row in range(len(self)) if row not in rows]
        return LabelledClips(
            self.path,
            [self.clips[row] for row in kept],
            [self.labels[row] for row in kept],
            [self.lines[row] for row in kept],
        )


def read_labelled(path: str | os.PathLike[str]) -> LabelledClips:
    """Read a manifest in which every row has a label, or several with commas between them.

    PlainError names the manifest and the line that has none; ManifestError as `Manifest.load`.
    """
    manifest = Manifest.load(path)
    clips, labels = [], []
    for number, row in enumerate(manifest):
        found = tuple(dict.fromkeys(label.strip() for label in (row.label or "").split(",") if label.strip()))
        if not found:
            raise PlainError(
                f"{path} line {number + 2} has no label: write a TAB and the label, or several with commas between "
                "them, behind the length"
            )
        clips.append(Listed(os.path.relpath(row.path, manifest.root), row.path, row.label))
        labels.append(found)
    return LabelledClips(os.fspath(path), clips, labels, list(range(2, len(clips) + 2)))


def check_classes(train: LabelledClips) -> None:
    """Raise PlainError where there is nothing to tell apart."""
    if not len(train):
        raise PlainError(f"{train.path}: none of its clips can be read, so there is nothing to learn from")
    if len(train.known()) < 2:
        raise PlainError(
            f"{train.path} has one class only, {train.known()[0]!r}, in the clips that can be read: "
            "give clips of two or more"
        )


def check_known(scored: LabelledClips, train: LabelledClips, which: str = "row") -> None:
    """Raise PlainError for a label of ``scored`` that occurs in no ``which`` (row, readable clip) of ``train``."""
    if not len(scored):
        raise PlainError(f"{scored.path}: none of its clips can be read, so there is nothing to score")
    known = set(train.known())
    for labels, line in zip(scored.labels, scored.lines, strict=True):
        for label in labels:
            if label not in known:
                raise PlainError(
                    f"{scored.path} line {line}: the label {label!r} is in no {which} of {train.path}: "
                    "add clips of it there, or remove the line"
                )


def check_apart(scored: LabelledClips, train: LabelledClips) -> None:
    """Raise PlainError where a clip is scored that was learned from."""
    learned = {os.path.normpath(clip.path) for clip in train.clips}
    for clip, line in zip(scored.clips, scored.lines, strict=True):
        if os.path.normpath(clip.path) in learned:
            raise PlainError(
                f"{scored.path} line {line}: {clip.name} is in {train.path} as well, so its score would mean nothing: "
                "remove it from one of them"
            )


def groups_of(clips: LabelledClips, pattern: str) -> np.ndarray:
    """Name the group of each clip (N,): what the first group of the regular expression finds in the clip's name.

    PlainError for an expression that is none or has no group, and for the first clip in whose name it finds nothing.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise PlainError(f"--leave-out {pattern!r} is no regular expression: {error}") from error
    if not expression.groups:
        raise PlainError(
            f"--leave-out {pattern!r} has no group: put parentheses around the part of a clip's name that says which "
            "group it is of, like '^([^/]+)/' for its first folder"
        )
    groups = []
    for clip, line in zip(clips.clips, clips.lines, strict=True):
        found = expression.search(clip.name)
        if not found or not found[1]:
            raise PlainError(f"{clips.path} line {line}: --leave-out {pattern!r} finds no group in {clip.name!r}")
        groups.append(found[1])
    return np.array(groups)


def check_groups(clips: LabelledClips, groups: Sequence[str] | np.ndarray) -> None:
    """Raise PlainError for fewer than two groups, and for a label that only one group has."""
    names = sorted({str(group) for group in groups})
    if len(names) < 2:
        raise PlainError(f"{clips.path}: all clips are of the group {names[0]!r}; leaving one out needs two or more")
    groups_with: dict[str, set[str]] = {}
    for labels, group in zip(clips.labels, groups, strict=True):
        for label in labels:
            groups_with.setdefault(label, set()).add(str(group))
    for labels, line in zip(clips.labels, clips.lines, strict=True):
        for label in labels:
            if len(groups_with[label]) == 1:
                raise PlainError(
                    f"{clips.path} line {line}: all clips with the label {label!r} are of the group "
                    f"{min(groups_with[label])!r}, so nothing is left to learn it from when that group is scored: "
                    "remove them or choose other groups"
                )
