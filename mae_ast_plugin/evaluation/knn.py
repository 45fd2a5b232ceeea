"""Score clip vectors with the nearest neighbours of each clip: no training, no settings to tune.

Columns are standardised with the training clips' mean and spread, distance is cosine, the k nearest vote. Knows nothing
of where the vectors come from. Needs scikit-learn, the extra ``evaluation``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.evaluation.arrays import check_vectors
from mae_ast_plugin.evaluation.scikit import (
    KNeighborsClassifier,
    KNeighborsRegressor,
    StandardScaler,
    StratifiedKFold,
    make_pipeline,
)
from mae_ast_plugin.evaluation.scores import Predict, leave_out_each, score

Labels = Sequence[Any] | np.ndarray


class GroupScores(NamedTuple):
    """Accuracy of each group held out in turn, and the plain mean over groups."""

    by_group: dict[str, float]
    mean: float


def _labelled(x: np.ndarray, y: Labels, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors (N, D) and labels (N,), or raise `PlainError` when their lengths differ."""
    vectors, labels = check_vectors(x, f"{name} vectors"), np.asarray(y)
    if labels.shape != (len(vectors),):
        raise PlainError(f"{len(vectors)} {name} vectors need as many labels, but got labels of shape {labels.shape}.")
    return vectors, labels


def _check_votes(labels: np.ndarray, k: int) -> None:
    if len(np.unique(labels)) < 2:
        raise PlainError(f"The training set has one class only ({labels[0]}); a kNN score needs at least 2.")
    if not 1 <= k <= len(labels):
        raise PlainError(f"k is {k}, but must lie between 1 and the {len(labels)} clips of the training set.")


def fit_knn(x: np.ndarray, targets: np.ndarray, k: int = 5) -> Predict:
    """Keep vectors (N, D) and predict what the ``k`` nearest of them say.

    Of labels (N,) that is the most frequent one, of 0 and 1 for each class (N, K) the share of neighbours in each.
    """
    kind = KNeighborsClassifier if targets.ndim == 1 else KNeighborsRegressor
    predict: Predict = make_pipeline(StandardScaler(), kind(n_neighbors=k, metric="cosine")).fit(x, targets).predict
    return predict


def _num_correct(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, k: int) -> int:
    _check_votes(train_y, k)
    return int((fit_knn(train_x, train_y, k)(test_x) == test_y).sum())


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
    division = leave_out_each(groups)
    for fitted, _ in division.folds.values():
        _check_votes(y[fitted], k)
    found = score(x, y, division, {"": partial(fit_knn, k=k)})
    return GroupScores({name: of["accuracy"] for name, of in found.by_fold.items()}, found.measures["accuracy"])


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
