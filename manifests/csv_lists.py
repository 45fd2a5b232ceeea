"""Delimited text as corpora and other systems publish it: rows with their line numbers, columns by their header.

Bytes that are no UTF-8 stay what they are, so that a file name in another encoding still names its file. Knows nothing
of what the columns mean.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from mae_ast_plugin.errors import PlainError


def read_rows(path: Path, *, delimiter: str = ",", skip_spaces: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Give every row that is not blank with its line number, from 1; PlainError names the file and the line."""
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
            rows = csv.reader(handle, delimiter=delimiter, skipinitialspace=skip_spaces, strict=True)
            try:
                for row in rows:
                    if any(cell.strip() for cell in row):
                        yield rows.line_num, row
            except csv.Error as error:
                raise PlainError(
                    f"{path} line {rows.line_num}: is no delimited text ({error}): mend the line"
                ) from error
    except OSError as error:
        raise PlainError(f"{path} cannot be read: {error.strerror}") from error


def read_columns(path: Path, columns: Sequence[str], *, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Give the named columns of every row below the header, with the line number.

    PlainError for a column that the header has not, and for a row with more or fewer cells than the header.
    """
    rows = read_rows(path, delimiter=delimiter)
    _, header = next(rows, (0, []))
    names = [name.strip() for name in header]
    for column in columns:
        if column not in names:
            raise PlainError(f"{path} line 1: has no column {column!r}, it has {', '.join(names) or 'nothing'}")
    places = [names.index(column) for column in columns]
    for line, row in rows:
        if len(row) != len(header):
            raise PlainError(
                f"{path} line {line}: has {len(row)} cells and the header has {len(header)}: mend the line"
            )
        yield line, [row[place] for place in places]


def first_lines(path: Path, count: int) -> list[str]:
    """Give the first lines without their breaks, empty ones where there are fewer; PlainError as `read_rows`."""
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as handle:
            return [handle.readline().rstrip("\r\n") for _ in range(count)]
    except OSError as error:
        raise PlainError(f"{path} cannot be read: {error.strerror}") from error


def format_row(cells: Sequence[str], *, delimiter: str = ",") -> bytes:
    """Write one row, with quotes where they are needed."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogateescape")
