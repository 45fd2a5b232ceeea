"""The linear probe: logistic regression on clip vectors whose columns were standardised with the training clips.

Knows nothing of where the vectors come from.
"""

from __future__ import annotations

import warnings

import numpy as np

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.evaluation.scikit import LogisticRegression, OneVsRestClassifier, StandardScaler, make_pipeline
from mae_ast_plugin.evaluation.scores import Predict

# scikit-learn's C, the inverse of how strongly weights are held back
DEFAULT_C = 0.1
CHOICES_OF_C = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)  # of equals the first is taken, which holds back most
MAX_ITERATIONS = 1000


def fit_linear(x: np.ndarray, targets: np.ndarray, c: float = DEFAULT_C) -> Predict:
    """Fit on vectors (N, D): one regression over all classes where clips have one label (N,), one per class of (N, K).

    PlainError for a ``c`` that is not above 0.
    """
    if not 0 < c < float("inf"):
        raise PlainError(f"C is {c}; it must be more than 0")
    regression = LogisticRegression(C=c, max_iter=MAX_ITERATIONS)
    if targets.ndim == 1:
        predict: Predict = make_pipeline(StandardScaler(), regression).fit(x, targets).predict
        return predict
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Label .* is present in all training examples")  # the same number for all
        fitted = make_pipeline(StandardScaler(), OneVsRestClassifier(regression)).fit(x, targets)
    decide: Predict = fitted.decision_function
    return decide
