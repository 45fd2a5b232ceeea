"""Batches: laws over many sizes, limits and numbers of processes. Numbers only."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mae_ast_plugin.data.batching import ClipRef, make_batches

SIZES = {
    "one clip": np.array([7000]),
    "two clips": np.array([16000, 300]),
    "a prime number of equal clips": np.full(97, 4000),
    "many lengths": np.random.default_rng(0).integers(300, 160000, size=1009),
    "one giant among dwarfs": np.array([250000] + [1000] * 40),
}
LIMITS = [(None, 1), (None, 8), (None, 13), (250000, None), (400000, 8), (10_000_000, None), (None, None)]
PARTS = [1, 2, 3, 8]
MULTIPLES = [1, 4]


def rows_of(batches: list[list[ClipRef]]) -> list[int]:
    return [ref.row for batch in batches for ref in batch]


def by_global_batch(batches: list[list[ClipRef]]) -> dict[int, set[int]]:
    groups: dict[int, set[int]] = {}
    for ref in itertools.chain(*batches):
        groups.setdefault(ref.batch, set()).add(ref.row)
    return groups


@pytest.mark.parametrize("multiple", MULTIPLES)
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize(("max_samples", "max_clips"), LIMITS)
@pytest.mark.parametrize("name", SIZES)
def test_every_clip_is_dealt_exactly_once_an_epoch_within_the_limits(
    name: str, max_samples: int | None, max_clips: int | None, parts: int, multiple: int
) -> None:
    sizes = SIZES[name]
    for epoch in (1, 2):
        batches = make_batches(
            sizes, max_samples=max_samples, max_clips=max_clips, num_parts=parts, multiple=multiple, epoch=epoch
        )
        assert sorted(rows_of(batches)) == list(range(len(sizes)))
        assert len(batches) % parts == 0
        for batch in filter(None, batches):
            lengths = sizes[[ref.row for ref in batch]]
            assert len(batch) <= (max_clips or len(sizes))
            assert max_samples is None or len(batch) * lengths.max() <= max_samples


@pytest.mark.parametrize("parts", PARTS)
def test_entry_b_times_parts_plus_r_is_part_r_of_batch_b(parts: int) -> None:
    batches = make_batches(SIZES["many lengths"], max_samples=None, max_clips=5, num_parts=parts, epoch=3)
    for number, batch in enumerate(batches):
        assert all(ref.batch == number // parts and ref.epoch == 3 for ref in batch)


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_one_batch_differ_by_at_most_one_clip_and_only_the_last_batch_may_leave_one_empty(parts: int) -> None:
    batches = make_batches(SIZES["many lengths"], max_samples=400000, max_clips=None, num_parts=parts)
    for start in range(0, len(batches), parts):
        counts = [len(batch) for batch in batches[start : start + parts]]
        assert max(counts) - min(counts) <= 1
        assert min(counts) > 0 or start == len(batches) - parts


@pytest.mark.parametrize("clips", [1, 3, 8])
@pytest.mark.parametrize("name", SIZES)
def test_two_parts_of_b_clips_hold_what_one_part_of_2b_clips_holds(name: str, clips: int) -> None:
    for epoch in (1, 2, 5):
        two = make_batches(SIZES[name], max_samples=None, max_clips=clips, num_parts=2, epoch=epoch)
        one = make_batches(SIZES[name], max_samples=None, max_clips=2 * clips, num_parts=1, epoch=epoch)
        assert by_global_batch(two) == by_global_batch(one)


def test_full_parts_are_a_multiple_of_the_multiple_and_the_rest_is_kept() -> None:
    batches = make_batches(np.full(30, 1000), max_samples=None, max_clips=11, multiple=4)
    assert [len(batch) for batch in batches] == [8, 8, 8, 6]


def test_a_limit_below_the_multiple_still_makes_batches() -> None:
    batches = make_batches(np.full(7, 1000), max_samples=None, max_clips=3, multiple=8)
    assert [len(batch) for batch in batches] == [3, 3, 1]


def test_the_same_seed_and_epoch_give_the_same_batches_whatever_numpy_drew_before() -> None:
    options = {"max_samples": 400000, "max_clips": None, "num_parts": 2, "seed": 11, "epoch": 4}
    first = make_batches(SIZES["many lengths"], **options)  # type: ignore[arg-type]
    np.random.seed(5)
    np.random.random(3)
    assert make_batches(SIZES["many lengths"], **options) == first  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"epoch": 2}, {"seed": 2}])
def test_another_epoch_or_seed_mixes_the_clips_anew(change: dict[str, int]) -> None:
    options = {"max_samples": None, "max_clips": 8, "seed": 1, "epoch": 1}
    for name in ("many lengths", "a prime number of equal clips"):
        here = make_batches(SIZES[name], **options)  # type: ignore[arg-type]
        there = make_batches(SIZES[name], **{**options, **change})  # type: ignore[arg-type]
        same = {frozenset(rows) for rows in by_global_batch(here).values()}
        same &= {frozenset(rows) for rows in by_global_batch(there).values()}
        assert len(same) < 0.1 * len(by_global_batch(here))


def test_clips_of_one_batch_are_of_similar_length() -> None:
    sizes = SIZES["many lengths"]
    batches = make_batches(sizes, max_samples=None, max_clips=8)
    padded = sum(len(batch) * sizes[[ref.row for ref in batch]].max() for batch in batches)
    assert padded < 1.1 * sizes.sum()


def test_more_processes_than_clips_leave_some_without_a_clip_but_lose_none() -> None:
    batches = make_batches(np.array([500, 900, 700]), max_samples=None, max_clips=4, num_parts=8)
    assert len(batches) == 8
    assert sorted(map(len, batches)) == [0] * 5 + [1] * 3
    assert sorted(rows_of(batches)) == [0, 1, 2]
