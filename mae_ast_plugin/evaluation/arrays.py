"""What every table of vectors must be."""

from __future__ import annotations

import numpy as np

from mae_ast_plugin.errors import PlainError


def check_vectors(vectors: np.ndarray, name: str) -> np.ndarray:
    """Return ``vectors`` as float64 (N, D), or raise `PlainError`."""
    array = np.asarray(vectors, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise PlainError(f"{name} must be a table of clips by columns with at least one of each, but is {array.shape}.")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise PlainError(f"{name} holds NaN or infinity, first in row {row} of {len(array)}; drop or mend that clip.")
    return array
