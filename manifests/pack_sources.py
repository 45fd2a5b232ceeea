"""What is to be packed: the clips of a folder or a manifest, and the numbers of their labels. Opens no clip."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from mae_ast_plugin.audio.features import is_features
from mae_ast_plugin.audio.listing import EXTENSIONS, find_files
from mae_ast_plugin.errors import PlainError
from manifests.hdf5_layout import labels_of, read_classes
from manifests.tsv import read_rows


class Source(NamedTuple):
    """A clip to be packed: its name in the input, its label."""

    name: str
    label: str | None


def list_sources(given: str) -> tuple[str, list[Source], dict[str, str]]:
    """List the clips of a folder or a manifest: root, clips, and why others cannot be listed; PlainError for none."""
    if os.path.isdir(given):
        root, unreadable = os.path.abspath(given), dict[str, str]()
        endings = tuple(f".{ending}" for ending in EXTENSIONS.split(","))
        names = sorted(find_files(root, endings, unreadable))
        if not names:
            raise PlainError(f"{given} holds no file that ends in {EXTENSIONS}: check the folder, or give a manifest")
        return root, [Source(name, None) for name in names], unreadable
    if not given.endswith(".tsv"):
        raise PlainError(f"{given} is neither a folder nor a manifest (.tsv): give one of them")
    rows = read_rows(given)
    for line, clip in enumerate(rows.clips, start=2):
        if is_features(clip.name):
            raise PlainError(f"{given} line {line}: {clip.name} is features, and shards hold audio: leave it out")
    return rows.root, [Source(clip.name, clip.label) for clip in rows.clips], {}


def number_classes(sources: Sequence[Source], list_of_classes: str | None) -> dict[str, int] | None:
    """Give each label its number; None where no clip has a label. PlainError for a label that has none."""
    labels = {label: source.name for source in sources for label in labels_of(source.label)}
    if list_of_classes:
        classes = {label: number for number, label in enumerate(read_classes(list_of_classes))}
        for label, name in labels.items():
            if label not in classes:
                raise PlainError(f"{name} has the label {label!r}, which --classes {list_of_classes} does not list")
        return classes
    if not labels:
        return None
    for label, name in labels.items():
        if not (label.isascii() and label.isdigit()):
            raise PlainError(f"{name} has the label {label!r}, which is no number of a class: give --classes")
    return {str(number): number for number in range(1 + max(map(int, labels)))}
