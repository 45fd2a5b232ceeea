"""What is used of scikit-learn, or the sentence that says how to install it: the one module that imports it."""

from __future__ import annotations

from mae_ast_plugin.errors import PlainError

try:
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, average_precision_score, f1_score
    from sklearn.model_selection import StratifiedKFold
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MultiLabelBinarizer, StandardScaler
except ImportError as error:
    raise PlainError('Scores need scikit-learn: pip install "mae-ast-plugin[evaluation]".') from error

__all__ = [
    "DummyClassifier",
    "DummyRegressor",
    "KNeighborsClassifier",
    "KNeighborsRegressor",
    "LogisticRegression",
    "MultiLabelBinarizer",
    "OneVsRestClassifier",
    "StandardScaler",
    "StratifiedKFold",
    "accuracy_score",
    "average_precision_score",
    "f1_score",
    "make_pipeline",
]
