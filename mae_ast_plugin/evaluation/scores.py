"""What is fitted on which clips, what it says of others, and how right that is.

A fit takes vectors (N, D) and targets, the labels (N,) or, where a clip may have several, 0 and 1 for each class
(N, K); it gives a function from vectors (M, D) to predictions, labels (M,) or a number for each class (M, K), the
higher the likelier. Measures are scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mae_ast_plugin.evaluation.arrays import check_vectors
from mae_ast_plugin.evaluation.scikit import (
    DummyClassifier,
    DummyRegressor,
    MultiLabelBinarizer,
    accuracy_score,
    average_precision_score,
    f1_score,
)
from mae_ast_plugin.evaluation.tables import best

Predict = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray], Predict]


@dataclass(frozen=True)
class Division:
    """Which rows are fitted on and which scored, by name of the fold; rows to choose a setting on, where there are."""

    folds: Mapping[str, tuple[np.ndarray, np.ndarray]]
    valid: np.ndarray | None = None


@dataclass(frozen=True)
class Score:
    """Measures of the scored clips (the plain mean over folds) and of each fold; how the setting was chosen."""

    measures: dict[str, float]
    by_fold: dict[str, dict[str, float]]
    setting: str
    valid: dict[str, float] | None = None


def targets_of(labels: Sequence[Sequence[str]], several: bool) -> np.ndarray:
    """Turn the labels of each clip into targets: (N,) text, or with ``several`` (N, K) 0 and 1, classes sorted."""
    if several:
        targets: np.ndarray = MultiLabelBinarizer().fit_transform(labels)
        return targets
    return np.array([own[0] for own in labels])


def measure(targets: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Measure predictions, the decisive measure first.

    One label each: accuracy and the mean of the F1 of each class. Several: the mean of the average precision of each
    class. Classes that no scored clip has do not count.
    """
    if targets.ndim == 1:
        f1 = f1_score(targets, predicted, labels=np.unique(targets), average="macro", zero_division=0.0)
        return {"accuracy": float(accuracy_score(targets, predicted)), "macro-F1": float(f1)}
    present = targets.any(axis=0)
    return {"mAP": float(average_precision_score(targets[:, present], predicted[:, present], average="macro"))}


def leave_out_each(groups: np.ndarray) -> Division:
    """Score each group (a speaker, a session) with the clips of all others as the training set."""
    return Division(
        {str(name): (np.flatnonzero(groups != name), np.flatnonzero(groups == name)) for name in np.unique(groups)}
    )


def score(x: np.ndarray, targets: np.ndarray, division: Division, candidates: Mapping[str, Fit]) -> Score:
    """Fit and measure every fold, with that candidate which does best on the validation rows.

    Without such rows there must be one candidate. PlainError for NaN or infinity in ``x`` (N, D).
    """
    x = check_vectors(x, "the clip vectors")
    assert division.valid is not None or len(candidates) == 1, "nothing to choose a setting on"
    by_fold: dict[str, dict[str, float]] = {}
    setting, valid = next(iter(candidates)), None
    for name, (fitted, scored) in division.folds.items():
        predictors = {key: fit(x[fitted], targets[fitted]) for key, fit in candidates.items()}
        if division.valid is not None:
            rows = division.valid
            found = {key: measure(targets[rows], predict(x[rows])) for key, predict in predictors.items()}
            setting, _ = best({key: next(iter(measures.values())) for key, measures in found.items()})
            valid = found[setting]
        by_fold[name] = measure(targets[scored], predictors[setting](x[scored]))
    names = next(iter(by_fold.values()))
    means = {name: float(np.mean([measures[name] for measures in by_fold.values()])) for name in names}
    return Score(means, by_fold, setting, valid)


def fit_chance(x: np.ndarray, targets: np.ndarray) -> Predict:
    """Say the same of every clip: the most frequent label, or how frequent each label is."""
    model = DummyClassifier(strategy="most_frequent") if targets.ndim == 1 else DummyRegressor(strategy="mean")
    predict: Predict = model.fit(x, targets).predict
    return predict
