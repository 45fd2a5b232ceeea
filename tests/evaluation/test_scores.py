"""What is fitted and measured: small cases by hand, laws, and that a setting is chosen where it may be."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

pytest.importorskip("sklearn")

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.evaluation.knn import fit_knn, knn_accuracy
from mae_ast_plugin.evaluation.linear import fit_linear
from mae_ast_plugin.evaluation.scores import Division, fit_chance, leave_out_each, measure, score, targets_of

FITS = {"knn": fit_knn, "linear": fit_linear}


def overlapping(seed: int = 0, num_clips: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and labels of three classes that overlap."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_clips) % 3
    return rng.standard_normal((num_clips, 6)) + 1.2 * np.eye(3, 6)[labels], np.array(["ant", "bee", "cat"])[labels]


def tagged(seed: int = 0, num_clips: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and 0 and 1 for three tags, each of which moves the vector along its own axis."""
    rng = np.random.default_rng(seed)
    tags = (rng.uniform(size=(num_clips, 3)) < 0.4).astype(int)
    return rng.standard_normal((num_clips, 6)) + 1.2 * tags @ np.eye(3, 6), tags


def half(num_clips: int) -> Division:
    rows = np.arange(num_clips)
    return Division({"test": (rows[: num_clips // 2], rows[num_clips // 2 :])})


def test_one_label_is_measured_by_accuracy_and_by_the_f1_of_the_classes_that_occur() -> None:
    targets, predicted = np.array(["a", "a", "a", "b"]), np.array(["a", "a", "b", "c"])
    assert measure(targets, predicted) == {"accuracy": 0.5, "macro-F1": pytest.approx((0.8 + 0.0) / 2)}


def test_several_labels_are_measured_by_the_average_precision_of_the_classes_that_occur() -> None:
    targets = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    predicted = np.array([[0.9, 0.1, 0.3], [0.8, 0.7, 0.9], [0.1, 0.6, 0.2], [0.0, 0.0, 0.1]])
    # first class: right at ranks 1 and 3 of 3; second: at 1 and 2; the third has no clip to find
    assert measure(targets, predicted) == {"mAP": pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)}


@pytest.mark.parametrize("probe", FITS)
def test_what_can_be_told_apart_is_told_apart(probe: str) -> None:
    labels = np.arange(40) % 4
    vectors = 20 * np.eye(4)[labels] + np.random.default_rng(0).standard_normal((40, 4)) * 0.1
    names = np.array(list("abcd"))[labels]
    assert score(vectors, names, half(40), {"": FITS[probe]}).measures == {"accuracy": 1.0, "macro-F1": 1.0}
    tags = targets_of([("even", name) if name in "ac" else (name,) for name in names], several=True)
    assert score(vectors, tags, half(40), {"": FITS[probe]}).measures == {"mAP": pytest.approx(1.0)}


@pytest.mark.parametrize("make", [overlapping, tagged])
@pytest.mark.parametrize("probe", FITS)
def test_neither_the_order_of_clips_nor_the_scale_of_a_column_matters(probe: str, make: object) -> None:
    vectors, targets = make()  # type: ignore[operator]
    expected = score(vectors, targets, half(120), {"": FITS[probe]}).measures
    chance = score(vectors, targets, half(120), {"": fit_chance}).measures
    assert all(chance[name] + 0.1 < value < 1.0 for name, value in expected.items())
    order = np.concatenate([np.random.default_rng(1).permutation(60), 60 + np.random.default_rng(2).permutation(60)])
    moved = vectors[order] * np.array([1000.0, 1, 1e-3, 1, 7, 1]) + np.array([0.0, -50, 0, 3, 0, 1])
    assert score(moved, targets[order], half(120), {"": FITS[probe]}).measures == pytest.approx(expected, abs=1e-6)


def test_votes_for_one_label_are_those_of_the_accuracy() -> None:
    vectors, labels = overlapping()
    expected = knn_accuracy(vectors[:60], labels[:60], vectors[60:], labels[60:], k=3)
    assert score(vectors, labels, half(120), {"": partial(fit_knn, k=3)}).measures["accuracy"] == expected


def test_votes_for_tags_are_shares_of_neighbours() -> None:
    vectors, tags = np.array([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]]), np.array([[1, 0], [1, 1], [0, 1]])
    assert fit_knn(vectors, tags, k=2)(np.array([[1.0, 0.05]])).tolist() == [[1.0, 0.5]]


def test_each_group_is_scored_by_the_others_and_counts_the_same() -> None:
    vectors, labels = overlapping()
    groups = np.array(["anna"] * 30 + ["ben"] * 30 + ["carl"] * 60)
    found = score(vectors, labels, leave_out_each(groups), {"": fit_knn})
    assert list(found.by_fold) == ["anna", "ben", "carl"]
    others = groups != "ben"
    expected = knn_accuracy(vectors[others], labels[others], vectors[~others], labels[~others])
    assert found.by_fold["ben"]["accuracy"] == expected
    assert found.measures["accuracy"] == pytest.approx(np.mean([of["accuracy"] for of in found.by_fold.values()]))


def test_the_setting_that_does_best_on_valid_is_taken_and_the_first_of_equals() -> None:
    vectors, labels = overlapping()
    rows = np.arange(120)
    division = Division({"test": (rows[:60], rows[90:])}, valid=rows[60:90])
    candidates = {f"k={k}": partial(fit_knn, k=k) for k in (60, 9, 1)}
    on_valid = {
        key: score(vectors, labels, Division({"": (rows[:60], rows[60:90])}), {key: fit}).measures
        for key, fit in candidates.items()
    }
    found = score(vectors, labels, division, candidates)
    assert on_valid["k=60"]["accuracy"] < on_valid["k=9"]["accuracy"]
    assert found.valid == on_valid[found.setting] == max(on_valid.values(), key=lambda of: of["accuracy"])
    alone = score(vectors, labels, Division(division.folds), {found.setting: candidates[found.setting]})
    assert found.measures == alone.measures and alone.valid is None
    same = score(vectors, labels, division, {"first": fit_knn, "second": fit_knn})
    assert same.setting == "first"


def test_chance_is_the_share_of_the_most_frequent_label_and_of_each_tag() -> None:
    nothing = np.zeros((8, 1))
    labels = np.array(["a", "a", "a", "b", "a", "b", "b", "b"])
    assert score(nothing, labels, half(8), {"": fit_chance}).measures["accuracy"] == 0.25
    tags = np.array([[1, 0], [0, 1], [1, 1], [0, 1], [1, 0], [0, 1], [0, 1], [0, 1]])
    assert score(nothing, tags, half(8), {"": fit_chance}).measures["mAP"] == pytest.approx((0.25 + 0.75) / 2)


def test_mistakes_end_in_one_sentence() -> None:
    vectors, labels = overlapping()
    vectors[7, 2] = np.nan
    with pytest.raises(PlainError, match=r"the clip vectors holds NaN or infinity, first in row 7"):
        score(vectors, labels, half(120), {"": fit_knn})
    with pytest.raises(PlainError, match="C is 0; it must be more than 0"):
        fit_linear(vectors, labels, c=0)
