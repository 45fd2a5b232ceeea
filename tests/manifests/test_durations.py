"""Durations: parts add up to the whole, percentiles are numpy's, the histogram loses no clip."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.durations import Durations, summary

SECONDS = st.lists(st.integers(0, 10**7).map(lambda hundredths: hundredths / 100), min_size=1, max_size=60)


@settings(deadline=None, max_examples=50)
@given(SECONDS, st.integers(0, 60))
def test_the_parts_are_the_whole(seconds: list[float], cut: int) -> None:
    whole = Durations.of(np.array(seconds))
    parts = Durations.of(np.array(seconds[:cut])) + Durations.of(np.array(seconds[cut:]))
    assert parts.table() == whole.table()
    assert Durations.from_table(json.loads(json.dumps(whole.table()))).table() == whole.table()
    assert len(whole) == len(seconds)
    assert whole.total_seconds == pytest.approx(sum(seconds))


@settings(deadline=None, max_examples=50)
@given(SECONDS, st.sampled_from([0, 1, 25, 50, 99, 100]))
def test_percentiles_are_those_of_numpy(seconds: list[float], percent: int) -> None:
    expected = np.percentile(seconds, percent, method="inverted_cdf")
    assert Durations.of(np.array(seconds)).percentile(percent) == pytest.approx(expected)


def test_a_percentile_is_not_the_next_one_by_rounding() -> None:
    hundred = Durations.of(np.arange(1, 101) / 100)
    assert [hundred.percentile(percent) for percent in range(1, 101)] == [percent / 100 for percent in range(1, 101)]


@settings(deadline=None, max_examples=50)
@given(SECONDS)
def test_every_clip_is_in_one_bar(seconds: list[float]) -> None:
    bars = Durations.of(np.array(seconds)).bars()
    for low, high, count in bars:
        assert count == sum(low <= value < high for value in seconds)
    assert sum(count for _, _, count in bars) == len(seconds)
    assert [high for _, high, _ in bars[:-1]] == [low for low, _, _ in bars[1:]]
    assert bars[0][2] > 0 and bars[-1][2] > 0


def test_the_summary_says_hours_and_draws_bars() -> None:
    lines = summary(Durations.of(np.array([10.0] * 360 + [1.2] * 9)))
    assert lines[0] == "369 clips, 1.003 hours"
    assert "shortest 1.20" in lines[1] and "median 10.00" in lines[1] and "longest 10.00" in lines[1]
    assert lines[2].split()[:5] == ["1", "to", "1.5", "s", "9"]
    assert lines[-1].endswith("360  " + "#" * 40)


def test_no_duration_is_said_and_not_divided_by() -> None:
    assert summary(Durations.none()) == ["no duration is known"]
