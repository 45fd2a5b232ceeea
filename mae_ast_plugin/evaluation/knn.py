"""Score clip vectors with the nearest neighbours of each clip: no training, no settings to tune.

Columns are standardised with the training clips' mean and spread, distance is cosine, the k nearest vote. Knows nothing
of where the vectors come from. Needs scikit-learn, the extra ``evaluation``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mae_ast_plugin.errors import PlainError

try:
    from sklearn.model_selection import StratifiedKFold
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
except ImportError as error:
    raise PlainError('The kNN score needs scikit-learn: pip install "mae-ast-plugin[evaluation]".') from error

Labels = Sequence[Any] | np.ndarray


class GroupScores(NamedTuple):
    """Accuracy of each group held out in turn, and the plain mean over groups."""

    by_group: dict[Hashable, float]
    mean: float


def _vectors(vectors: np.ndarray, name: str) -> np.ndarray:
    """Return ``vectors`` as float64 (N, D), or raise `PlainError`."""
    array = np.asarray(vectors, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise PlainError(f"{name} must be a table of clips by columns with at least one of each, but is {array.shape}.")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise PlainError(f"{name} holds NaN or infinity, first in row {row} of {len(array)}; drop or mend that clip.")
    return array


def _labelled(x: np.ndarray, y: Labels, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors (N, D) and labels (N,), or raise `PlainError` when their lengths differ."""
    vectors, labels = _vectors(x, f"{name} vectors"), np.asarray(y)
    if labels.shape != (len(vectors),):
        raise PlainError(f"{len(vectors)} {name} vectors need as many labels, but got labels of shape {labels.shape}.")
    return vectors, labels


def _check_votes(labels: np.ndarray, k: int) -> None:
    if len(np.unique(labels)) < 2:
        raise PlainError(f"The training set has one class only ({labels[0]}); a kNN score needs at least 2.")
    if not 1 <= k <= len(labels):
        raise PlainError(f"k is {k}, but must lie between 1 and the {len(labels)} clips of the training set.")


def _num_correct(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, k: int) -> int:
    _check_votes(train_y, k)
    model = make_pipeline(StandardScaler(), KNeighborsClassifier(n_neighbors=k, metric="cosine"))
    return int((model.fit(train_x, train_y).predict(test_x) == test_y).sum())


def knn_accuracy(train_x: np.ndarray, train_y: Labels, test_x: np.ndarray, test_y: Labels, k: int = 5) -> float:
    """Return the share of test clips whose ``k`` nearest training clips vote for the right label.

    Shapes: ``train_x`` (N, D), ``train_y`` (N,), ``test_x`` (M, D), ``test_y`` (M,). Raises `PlainError` for NaN or
    infinity, lengths or widths that differ, fewer than two training classes, and ``k`` above N.
    """
    train_x, train_y = _labelled(train_x, train_y, "training")
    test_x, test_y = _labelled(test_x, test_y, "test")
    if train_x.shape[1] != test_x.shape[1]:
        raise PlainError(f"Training vectors have {train_x.shape[1]} columns and test vectors {test_x.shape[1]}.")
    return _num_correct(train_x, train_y, test_x, test_y, k) / len(test_y)


def leave_one_group_out(x: np.ndarray, y: Labels, groups: Labels, k: int = 5) -> GroupScores:
    """Score every group (a speaker, a session) with the clips of all others as the training set.

    Shapes: ``x`` (N, D), ``y`` and ``groups`` (N,). Raises `PlainError` as `knn_accuracy` does, and for fewer than two
    groups.
    """
    x, y = _labelled(x, y, "clip")
    groups = np.asarray(groups)
    if groups.shape != y.shape:
        raise PlainError(f"{len(y)} clips need as many groups, but got groups of shape {groups.shape}.")
    names = np.unique(groups)
    if len(names) < 2:
        raise PlainError(f"All clips belong to the group {names[0]}; leaving one out needs at least 2 groups.")
    scores: dict[Hashable, float] = {}
    for name in names:
        held_out = groups == name
        correct = _num_correct(x[~held_out], y[~held_out], x[held_out], y[held_out], k)
        scores[name.item()] = correct / int(held_out.sum())
    return GroupScores(scores, float(np.mean(list(scores.values()))))


def stratified_folds_accuracy(x: np.ndarray, y: Labels, k: int = 5, folds: int = 5, seed: int = 0) -> float:
    """Return the share of clips that the other folds classify rightly, each class spread evenly over the folds.

    Shapes: ``x`` (N, D), ``y`` (N,). Raises `PlainError` as `knn_accuracy` does, and for a class with fewer clips
    than folds.
    """
    x, y = _labelled(x, y, "clip")
    names, counts = np.unique(y, return_counts=True)
    if not 2 <= folds <= counts.min():
        rarest = names[counts.argmin()]
        raise PlainError(f"folds is {folds}, but must lie between 2 and the {counts.min()} clips of class {rarest}.")
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, y)
    return sum(_num_correct(x[fit], y[fit], x[test], y[test], k) for fit, test in splits) / len(y)


def layer_table(features_by_layer: Mapping[str, np.ndarray], score: Callable[[np.ndarray], float]) -> dict[str, float]:
    """Apply ``score`` to the vectors (N, D) of every layer, keeping the order of the layers."""
    return {layer: float(score(features)) for layer, features in features_by_layer.items()}


def best(scores: Mapping[str, float]) -> tuple[str, float]:
    """Return the name and the score of the best row, the first of equals; raises `PlainError` for an empty table."""
    if not scores:
        raise PlainError("There is no best row in an empty table; score at least one layer.")
    return max(scores.items(), key=lambda row: row[1])


def log_mel_statistics(spectrograms: Sequence[np.ndarray]) -> np.ndarray:
    """Describe every spectrogram (T, F) by its mean and spread over time, shape (N, 2F): the plain baseline.

    Raises `PlainError` for an empty list, a spectrogram without frames, NaN or infinity, and differing numbers of bins.
    """
    if not spectrograms:
        raise PlainError("There are no spectrograms to describe; give at least one.")
    checked = [_vectors(s, f"Spectrogram {index}") for index, s in enumerate(spectrograms)]
    widths = {s.shape[1] for s in checked}
    if len(widths) > 1:
        raise PlainError(f"All spectrograms must have the same number of bins, but found {sorted(widths)}.")
    return np.stack([np.concatenate([s.mean(axis=0), s.std(axis=0)]) for s in checked])


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
