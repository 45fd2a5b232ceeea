"""Dasheng's list of clips: delimited text with a header, a column of paths, and any other columns.

Its packing tool puts the other columns beside each clip of a shard. One of them may be the label. The paths are
absolute or relative to wherever the tool is started.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from mae_ast_plugin.audio.manifest import write_atomically
from mae_ast_plugin.errors import PlainError
from manifests.csv_lists import first_lines, format_row, read_columns, read_rows
from manifests.foreign_lists import Item, ListFormat

PATHS = "filename"
LABELS = ("labels", "label")


def read(path: Path, options: argparse.Namespace) -> Iterator[Item]:
    """Give the clips of a list; columns that are neither path nor label are left out, and said."""
    delimiter = "\t" if "\t" in first_lines(path, 1)[0] else ","
    header = [name.strip() for name in next(read_rows(path, delimiter=delimiter), (0, []))[1]]
    paths = options.filename_column or PATHS
    label = options.label_column or _label_column(header, paths)
    for column in header:
        if column not in (paths, label):
            print(f"{path}: the column {column!r} is left out (--label-column takes it as the label)")
    for line, cells in read_columns(path, [paths, label] if label else [paths], delimiter=delimiter):
        if not cells[0]:
            raise PlainError(f"{path} line {line}: the column {paths!r} is empty: write the path or remove the line")
        yield Item(f"line {line}", cells[0], cells[1] or None if label else None)


def write(path: Path, root: str, items: Sequence[Item], options: argparse.Namespace) -> list[str]:
    """Write the paths, and the labels where any clip has one."""
    columns = [options.filename_column or PATHS]
    labelled = any(item.label for item in items)
    if labelled:
        columns.append(options.label_column or LABELS[0])
    rows = ([item.path, item.label or ""] if labelled else [item.path] for item in items)
    write_atomically(path, (format_row(row, delimiter="\t") for row in [columns, *rows]))
    keys = Counter(PurePosixPath(item.path).stem for item in items)
    notes = ["lengths and rates are not in it, Dasheng's loader finds them out"]
    if len(keys) < len(items):
        stem, count = keys.most_common(1)[0]
        notes.append(
            f"Dasheng's packing tool drops folders, and names repeat ({count} clips are {stem!r}): it would mix them "
            "up; `python -m manifests pack` keeps them apart"
        )
    return notes


def _label_column(header: list[str], paths: str) -> str | None:
    """Guess the column of labels: by its name, or because it is the only other one."""
    others = [column for column in header if column != paths]
    named = [column for column in LABELS if column in others]
    return named[0] if named else others[0] if len(others) == 1 else None


FORMAT = ListFormat("Dasheng", read, write, ("filename_column", "label_column"))
