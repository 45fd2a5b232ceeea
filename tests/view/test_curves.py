"""Curves over the updates of a run."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.view.curves import draw_curves, running_mean
from mae_ast_plugin.view.reconstruction import to_image


def test_a_short_series_is_drawn_point_by_point_with_its_name() -> None:
    axes = draw_curves({"train": ([1, 2, 3], [3.0, 2.0, 1.5]), "valid": ([1, 3], [3.1, 1.7])}, "Loss", "loss").axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["train", "valid"]
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[1, 3.0], [2, 2.0], [3, 1.5]])
    assert (axes.get_title(loc="left"), axes.get_ylabel(), axes.get_xlabel()) == ("Loss", "loss", "update")


def test_a_long_series_keeps_its_points_behind_a_mean_that_says_so() -> None:
    updates, values = np.arange(1000), np.random.default_rng(0).standard_normal(1000)
    axes = draw_curves({"train": (updates, values)}, "Loss", "loss").axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), values)
    assert np.std(axes.lines[1].get_ydata()) < 0.5 * np.std(values)
    assert "mean of 51 points" in axes.get_legend().get_texts()[0].get_text()


def test_one_point_and_gaps_are_drawn() -> None:
    assert to_image(draw_curves({"train": ([7], [1.0])}, "Loss", "loss")).std() > 0
    gap = draw_curves({"train": ([1, 2, 3], [1.0, float("nan"), 3.0])}, "Loss", "loss")
    assert np.isnan(gap.axes[0].lines[0].get_ydata()[1])


def test_a_running_mean_of_a_line_is_the_line_and_a_constant_stays() -> None:
    line = np.arange(50.0)
    np.testing.assert_allclose(running_mean(line, 5)[2:-2], line[2:-2])
    np.testing.assert_allclose(running_mean(np.full(50, 2.0), 7), 2.0)


def test_a_running_mean_passes_over_gaps_without_moving_them() -> None:
    smoothed = running_mean(np.array([1.0, 1.0, np.nan, 1.0, 1.0]), 3)
    np.testing.assert_array_equal(smoothed, [1.0, 1.0, np.nan, 1.0, 1.0])


def test_mistakes_end_in_one_sentence() -> None:
    with pytest.raises(PlainError, match="at least one series"):
        draw_curves({}, "Loss", "loss")
    for updates, values in (([1, 2], [1.0]), ([], [])):
        with pytest.raises(PlainError, match="'train' needs as many values as updates"):
            draw_curves({"train": (updates, values)}, "Loss", "loss")
