"""Cutting and grouping are arithmetic: every step once, even parts, bounded batches."""

from __future__ import annotations

import random

import pytest

from mae_ast_plugin.segments import Segment, batches_of, segments_of, windows_of


@pytest.mark.parametrize("num_steps", [*range(1, 40), 97, 1000, 11250])
@pytest.mark.parametrize("most", [1, 2, 3, 7, 10, 375, 10**9])
def test_segments_cover_every_step_once_and_are_even(num_steps: int, most: int) -> None:
    segments = list(segments_of(5, num_steps, most))
    sizes = [segment.num_steps for segment in segments]
    assert {segment.clip for segment in segments} == {5}
    assert [segment.first_step for segment in segments] == [sum(sizes[:number]) for number in range(len(sizes))]
    assert sum(sizes) == num_steps
    assert max(sizes) <= most and max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-num_steps // most)


def test_a_clip_of_just_one_segment_is_not_cut() -> None:
    assert list(segments_of(0, 10, 10)) == [Segment(0, 0, 10)]
    assert list(segments_of(0, 11, 10)) == [Segment(0, 0, 5), Segment(0, 5, 6)]


def test_thirty_minutes_and_a_step_leave_no_remnant() -> None:
    sizes = [segment.num_steps for segment in segments_of(0, 30 * 375 + 1, 375)]
    assert len(sizes) == 31 and set(sizes) == {362, 363}


@pytest.mark.parametrize("seed", range(20))
def test_batches_hold_every_segment_once_and_no_more_than_they_may(seed: int) -> None:
    draw = random.Random(seed)
    most = draw.choice([1, 10, 100, 1000])
    segments = [
        segment
        for clip in range(draw.randrange(1, 60))
        for segment in segments_of(clip, draw.randrange(1, 300), draw.choice([20, 100]))
    ]
    batches = batches_of(segments, most)
    assert sorted(map(hash, segments)) == sorted(hash(segment) for batch in batches for segment in batch)
    for batch in batches:
        longest = max(segment.num_steps for segment in batch)
        assert len(batch) == 1 or len(batch) * longest <= most
    longest_first = [segment.num_steps for batch in batches for segment in batch]
    assert longest_first == sorted(longest_first, reverse=True)


def test_no_batch_could_have_taken_the_next_segment() -> None:
    batches = batches_of([Segment(clip, 0, 5) for clip in range(23)], 50)
    assert [len(batch) for batch in batches] == [10, 10, 3]
    assert [segment.clip for batch in batches for segment in batch] == list(range(23))  # equals keep their order


def test_nothing_makes_no_batches() -> None:
    assert batches_of([], 10) == []


@pytest.mark.parametrize("num_steps", [1, 6, 7, 8, 20, 21, 1000])
def test_windows_of_a_fixed_size_leave_the_rest_to_the_last(num_steps: int) -> None:
    sizes = [segment.num_steps for segment in windows_of(2, num_steps, 7)]
    assert sum(sizes) == num_steps
    assert set(sizes[:-1]) <= {7} and 1 <= sizes[-1] <= 7
    assert [segment.first_step for segment in windows_of(2, num_steps, 7)] == list(range(0, num_steps, 7))
