"""Tables of scores: the best row, and text with aligned columns. Knows nothing of what was scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mae_ast_plugin.errors import PlainError


def layer_table(features_by_layer: Mapping[str, np.ndarray], score: Callable[[np.ndarray], float]) -> dict[str, float]:
    """Apply ``score`` to the vectors (N, D) of every layer, keeping the order of the layers."""
    return {layer: float(score(features)) for layer, features in features_by_layer.items()}


def best(scores: Mapping[str, float]) -> tuple[str, float]:
    """Return the name and the score of the best row, the first of equals; raises `PlainError` for an empty table."""
    if not scores:
        raise PlainError("There is no best row in an empty table; score at least one layer.")
    return max(scores.items(), key=lambda row: row[1])


def format_table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Lay out a table as plain text: the first column to the left, the others to the right, a rule below the header.

    Raises `PlainError` for a row with more or fewer cells than the header.
    """
    for index, row in enumerate(rows):
        if len(row) != len(header):
            raise PlainError(f"Row {index} of the table has {len(row)} cells where the header has {len(header)}.")
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("  ".join(_aligned(line, widths)).rstrip() for line in lines)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    pairs = list(zip(cells, widths, strict=True))
    return [cell.ljust(width) for cell, width in pairs[:1]] + [cell.rjust(width) for cell, width in pairs[1:]]
