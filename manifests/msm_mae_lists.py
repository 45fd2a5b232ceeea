"""MSM-MAE's list of clips: CSV with the one column ``file_name``, paths of log-mel arrays (``.npy``).

The paths are relative to the data folder that its training command is given.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from mae_ast_plugin.audio.features import is_features
from mae_ast_plugin.audio.manifest import write_atomically
from mae_ast_plugin.errors import PlainError
from manifests.csv_lists import format_row, read_columns
from manifests.foreign_lists import Item, ListFormat, below

PATHS = "file_name"


def read(path: Path, options: argparse.Namespace) -> Iterator[Item]:
    """Give the clips of a list."""
    for line, (name,) in read_columns(path, [PATHS]):
        if not name:
            raise PlainError(f"{path} line {line}: the column {PATHS!r} is empty: write the path or remove the line")
        yield Item(f"line {line}", name, None)


def write(path: Path, root: str, items: Sequence[Item], options: argparse.Namespace) -> list[str]:
    """Write the paths below ``root``; PlainError for a clip that is no array."""
    for item in items:
        if not is_features(item.path):
            raise PlainError(
                f"{options.list} {item.where}: {item.path} does not end in .npy, and MSM-MAE reads log-mels only: "
                "compute them first"
            )
    write_atomically(path, map(format_row, [[PATHS], *([below(root, item.path)] for item in items)]))
    notes = [f"paths in it are relative to {root}, give MSM-MAE that as its data folder; lengths are not in it"]
    if num_labelled := sum(1 for item in items if item.label):
        notes.append(f"the labels of {num_labelled} clips are not in it, the format has none")
    return notes


FORMAT = ListFormat("MSM-MAE", read, write, ())
