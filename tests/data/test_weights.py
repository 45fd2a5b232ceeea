"""Weights of classes and clips: rare classes count more, and the order of clips does not matter."""

from __future__ import annotations

import numpy as np
import pytest

from mae_ast_plugin.data.weights import class_weights, clip_weights
from mae_ast_plugin.errors import PlainError

LABELS = np.random.default_rng(0).random((40, 6)) < np.array([0.9, 0.5, 0.3, 0.1, 0.05, 0.0])


def test_the_rarer_a_class_the_more_it_weighs() -> None:
    counts = LABELS.sum(axis=0)
    weights = class_weights(counts)
    assert weights.tolist() == [1000 / (100 + count) for count in counts]
    assert (np.diff(weights[np.argsort(counts)]) <= 0).all()


@pytest.mark.parametrize("combine", ["sum", "max"])
@pytest.mark.parametrize("offset", [0.01, 100.0])
def test_a_clip_weighs_what_its_classes_do(combine: str, offset: float) -> None:
    of_classes = class_weights(LABELS.sum(axis=0), offset)
    expected = [getattr(np, combine)(of_classes[row]) if row.any() else 0.0 for row in LABELS]
    np.testing.assert_allclose(clip_weights(LABELS, offset, combine), expected)


@pytest.mark.parametrize("combine", ["sum", "max"])
def test_a_clip_without_label_is_never_drawn(combine: str) -> None:
    assert clip_weights(np.zeros((2, 3)), combine=combine).tolist() == [0, 0]
    assert clip_weights(np.zeros((2, 0)), combine=combine).tolist() == [0, 0]


def test_weights_follow_their_clips_into_another_order() -> None:
    order = np.random.default_rng(1).permutation(len(LABELS))
    np.testing.assert_allclose(clip_weights(LABELS[order]), clip_weights(LABELS)[order])


def test_counts_of_a_larger_corpus_may_be_given() -> None:
    counts = LABELS.sum(axis=0)
    np.testing.assert_allclose(clip_weights(LABELS[:7], counts=counts), clip_weights(LABELS)[:7])


def test_shares_of_mixed_labels_count_as_labels() -> None:
    np.testing.assert_allclose(clip_weights(LABELS * 0.3), clip_weights(LABELS))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(PlainError, match="combined by 'mean'; it must be one of sum, max"):
        clip_weights(LABELS, combine="mean")
    with pytest.raises(PlainError, match="offset of class weights is 0"):
        class_weights([0, 1], offset=0)
