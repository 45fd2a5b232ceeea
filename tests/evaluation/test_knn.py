"""The kNN score: laws it obeys, small cases by hand, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.evaluation.baselines import log_mel_statistics
from mae_ast_plugin.evaluation.knn import knn_accuracy, leave_one_group_out, stratified_folds_accuracy
from mae_ast_plugin.evaluation.tables import best, format_table, layer_table

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def overlapping_clusters(seed: int = 0) -> Split:
    """Three classes that overlap: a score strictly between chance and 1."""
    rng = np.random.default_rng(seed)
    labels = np.arange(120) % 3
    vectors = rng.standard_normal((120, 6)) + 1.2 * np.eye(3, 6)[labels]
    return vectors[:80], labels[:80], vectors[80:], labels[80:]


def test_perfect_clusters_score_one() -> None:
    labels = np.arange(40) % 4
    vectors = 20 * np.eye(4)[labels] + np.random.default_rng(0).standard_normal((40, 4)) * 0.1
    assert knn_accuracy(vectors[:30], labels[:30], vectors[30:], labels[30:]) == 1.0
    assert stratified_folds_accuracy(vectors, labels) == 1.0
    assert leave_one_group_out(vectors, labels, np.arange(40) // 10).mean == 1.0


def test_random_labels_score_near_chance() -> None:
    rng = np.random.default_rng(0)
    score = stratified_folds_accuracy(rng.standard_normal((600, 8)), rng.integers(4, size=600))
    assert abs(score - 0.25) < 0.08


def test_a_case_small_enough_to_count_by_hand() -> None:
    # Standardising leaves these as they are (mean 0, spread 1): four corners, one per quadrant.
    train_x, train_y = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]), ["a", "b", "c", "d"]
    test_x, test_y = np.array([[9.0, 8.0], [0.1, -0.2], [-3.0, 2.0], [-5.0, -6.0]]), ["a", "b", "c", "a"]
    assert knn_accuracy(train_x, train_y, test_x, test_y, k=1) == 0.75


def test_the_majority_of_k_decides() -> None:
    train_x = np.array([[1.0, 0.0], [1.0, 0.2], [1.0, -0.2], [-3.0, 0.0]])
    train_y, test_x = ["odd", "common", "common", "far"], np.array([[1.0, 0.0]])
    assert knn_accuracy(train_x, train_y, test_x, ["odd"], k=1) == 1.0
    assert knn_accuracy(train_x, train_y, test_x, ["common"], k=3) == 1.0


def test_the_order_of_clips_does_not_matter() -> None:
    train_x, train_y, test_x, test_y = overlapping_clusters()
    rng = np.random.default_rng(1)
    a, b = rng.permutation(len(train_y)), rng.permutation(len(test_y))
    expected = knn_accuracy(train_x, train_y, test_x, test_y)
    assert 0.4 < expected < 1.0
    assert knn_accuracy(train_x[a], train_y[a], test_x[b], test_y[b]) == expected


def test_scaling_or_moving_a_column_does_not_change_the_score() -> None:
    train_x, train_y, test_x, test_y = overlapping_clusters()
    scale, shift = np.array([1000.0, 1, 1e-3, 1, 7, 1]), np.array([0.0, -50, 0, 3, 0, 1])
    expected = knn_accuracy(train_x, train_y, test_x, test_y)
    assert knn_accuracy(train_x * scale + shift, train_y, test_x * scale + shift, test_y) == expected


def test_a_column_that_never_changes_does_not_change_the_score() -> None:
    train_x, train_y, test_x, test_y = overlapping_clusters()
    wider = [np.hstack([x, np.full((len(x), 1), 5.0)]) for x in (train_x, test_x)]
    assert knn_accuracy(wider[0], train_y, wider[1], test_y) == knn_accuracy(train_x, train_y, test_x, test_y)


def test_words_and_numbers_serve_as_labels_alike() -> None:
    train_x, train_y, test_x, test_y = overlapping_clusters()
    words = np.array(["ant", "bee", "cat"])
    expected = knn_accuracy(train_x, train_y, test_x, test_y)
    assert knn_accuracy(train_x, words[train_y], test_x, words[test_y]) == expected


def test_a_group_is_scored_by_the_others_only() -> None:
    x, y, _, _ = overlapping_clusters()
    groups = np.array(["anna", "ben", "carl", "dora"])[np.arange(80) // 20]
    scores = leave_one_group_out(x, y, groups)
    assert list(scores.by_group) == ["anna", "ben", "carl", "dora"]
    others = groups != "ben"
    assert scores.by_group["ben"] == knn_accuracy(x[others], y[others], x[~others], y[~others])
    assert scores.mean == pytest.approx(np.mean(list(scores.by_group.values())))


def test_the_same_seed_gives_the_same_folds() -> None:
    x, y, _, _ = overlapping_clusters()
    assert stratified_folds_accuracy(x, y, seed=3) == stratified_folds_accuracy(x, y, seed=3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused_with_their_row(bad: float) -> None:
    train_x, train_y, test_x, test_y = overlapping_clusters()
    test_x[7, 2] = bad
    with pytest.raises(PlainError, match=r"test vectors.*row 7"):
        knn_accuracy(train_x, train_y, test_x, test_y)


def test_mistakes_end_in_one_sentence() -> None:
    train_x, train_y, test_x, test_y = overlapping_clusters()
    with pytest.raises(PlainError, match="80 training vectors need as many labels"):
        knn_accuracy(train_x, train_y[:-1], test_x, test_y)
    with pytest.raises(PlainError, match="6 columns and test vectors 5"):
        knn_accuracy(train_x, train_y, test_x[:, :5], test_y)
    with pytest.raises(PlainError, match="one class only"):
        knn_accuracy(train_x, np.zeros(80), test_x, test_y)
    for k in (0, 81):
        with pytest.raises(PlainError, match=f"k is {k}"):
            knn_accuracy(train_x, train_y, test_x, test_y, k=k)
    with pytest.raises(PlainError, match="table of clips by columns"):
        knn_accuracy(train_x[:0], [], test_x, test_y)
    with pytest.raises(PlainError, match="at least 2 groups"):
        leave_one_group_out(train_x, train_y, ["anna"] * 80)
    with pytest.raises(PlainError, match="as many groups"):
        leave_one_group_out(train_x, train_y, ["anna"])
    with pytest.raises(PlainError, match="folds is 30"):
        stratified_folds_accuracy(train_x, train_y, folds=30)


def test_the_best_layer_is_found_and_the_first_of_equals_wins() -> None:
    table = layer_table({"0": np.ones((2, 1)), "1": np.ones((2, 3)), "2": np.ones((2, 3))}, lambda x: x.shape[1] / 4)
    assert table == {"0": 0.25, "1": 0.75, "2": 0.75}
    assert list(table) == ["0", "1", "2"]
    assert best(table) == ("1", 0.75)
    with pytest.raises(PlainError, match="empty table"):
        best({})


def test_log_mel_statistics_are_mean_and_spread_over_time() -> None:
    statistics = log_mel_statistics([np.array([[0.0, 1.0], [2.0, 1.0]]), np.array([[5.0, 6.0]])])
    np.testing.assert_array_equal(statistics, [[1.0, 1.0, 1.0, 0.0], [5.0, 6.0, 0.0, 0.0]])


def test_log_mel_statistics_do_not_see_the_order_of_frames() -> None:
    spectrogram = np.random.default_rng(0).standard_normal((37, 5))
    np.testing.assert_allclose(log_mel_statistics([spectrogram]), log_mel_statistics([spectrogram[::-1]]))


def test_log_mel_statistics_refuse_what_has_none() -> None:
    for spectrograms, message in (
        ([], "no spectrograms"),
        ([np.ones((3, 2)), np.ones((3, 4))], "same number of bins"),
        ([np.ones((0, 2))], "Spectrogram 0"),
        ([np.full((3, 2), np.nan)], "NaN or infinity"),
    ):
        with pytest.raises(PlainError, match=message):
            log_mel_statistics(spectrograms)


def test_a_table_is_aligned_whatever_its_cells() -> None:
    assert format_table([["0", "0.5"], ["last", "0.75"]], ["layer", "score"]).splitlines() == [
        "layer  score",
        "-----  -----",
        "0        0.5",
        "last    0.75",
    ]
    assert format_table([], ["layer"]).splitlines() == ["layer", "-----"]
    with pytest.raises(PlainError, match="Row 0 of the table has 1 cells"):
        format_table([["0"]], ["layer", "score"])
