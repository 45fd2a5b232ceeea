"""Batches: laws over many sizes, limits and numbers of processes, drawn and chosen. Numbers only."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ast_plugin.data.batching import ClipRef, make_batches
from mae_ast_plugin.data.buckets import STEP, length_buckets

Entries = Sequence[Sequence[ClipRef]]

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


def rows_of(batches: Entries) -> list[int]:
    return [ref.row for batch in batches for ref in batch]


def by_global_batch(batches: Entries) -> dict[int, set[int]]:
    groups: dict[int, set[int]] = {}
    for ref in itertools.chain(*batches):
        groups.setdefault(ref.batch, set()).add(ref.row)
    return groups


def read_out(batches: Entries) -> list[list[ClipRef]]:
    return [list(batch) for batch in batches]


# ---- drawn by hypothesis

sizes_of_clips = st.lists(st.integers(1, 300_000), min_size=1, max_size=200).map(np.array)
limits = st.fixed_dictionaries(
    {
        "max_samples": st.none() | st.integers(300_000, 3_000_000),
        "max_clips": st.none() | st.integers(1, 50),
        "multiple": st.integers(1, 9),
        "seed": st.integers(0, 9),
        "epoch": st.integers(0, 9),
    }
)
drawn = settings(max_examples=60, deadline=None)


@drawn
@given(sizes_of_clips, limits, st.integers(1, 9))
def test_no_clip_is_lost_or_dealt_twice(sizes: np.ndarray, limit: dict[str, Any], parts: int) -> None:
    assert sorted(rows_of(make_batches(sizes, num_parts=parts, **limit))) == list(range(len(sizes)))


@drawn
@given(sizes_of_clips, limits, st.integers(1, 9))
def test_no_batch_is_larger_than_the_limits_padding_included(
    sizes: np.ndarray, limit: dict[str, Any], parts: int
) -> None:
    for batch in filter(None, make_batches(sizes, num_parts=parts, **limit)):
        [width] = {ref.width for ref in batch}
        assert width >= sizes[[ref.row for ref in batch]].max()
        assert len(batch) <= (limit["max_clips"] or len(sizes))
        assert len(batch) * width <= (limit["max_samples"] or np.inf)


@drawn
@given(sizes_of_clips, limits)
def test_the_same_seed_and_epoch_give_the_same_batches(sizes: np.ndarray, limit: dict[str, Any]) -> None:
    assert read_out(make_batches(sizes, **limit)) == read_out(make_batches(sizes.copy(), **limit))


@drawn
@given(sizes_of_clips, st.integers(1, 9), st.integers(1, 9), st.integers(0, 9))
def test_the_number_of_processes_changes_no_update(sizes: np.ndarray, clips: int, parts: int, epoch: int) -> None:
    several = make_batches(sizes, max_samples=None, max_clips=clips, num_parts=parts, epoch=epoch)
    one = make_batches(sizes, max_samples=None, max_clips=clips * parts, num_parts=1, epoch=epoch)
    assert by_global_batch(several) == by_global_batch(one)
    assert {ref.row: ref.width for batch in several for ref in batch} == {
        ref.row: ref.width for batch in one for ref in batch
    }


@drawn
@given(sizes_of_clips)
def test_a_clip_is_shorter_than_its_bucket_by_less_than_a_step(sizes: np.ndarray) -> None:
    bucket_of, widths = length_buckets(sizes)
    assert (sizes <= widths[bucket_of]).all()
    assert (sizes * STEP * (1 + 1e-9) > widths[bucket_of]).all()
    assert set(widths) - {0} <= set(sizes)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.floats(1.0, 8.0), st.floats(0.1, 0.8))
def test_lognormal_lengths_give_little_padding_and_few_shapes(seed: int, median_s: float, spread: float) -> None:
    draw = np.random.default_rng(seed)
    sizes = np.clip(draw.lognormal(np.log(median_s), spread, 20_000) * 16000, 2800, 250_000).astype(np.int64)
    batches = make_batches(sizes, max_samples=1_000_000, max_clips=None, seed=seed)
    assert 1 - sizes.sum() / batches.num_samples() < 0.05
    assert len({width for _, width in batches.shapes()}) <= 70  # of 20,000 clips of about as many lengths
    assert len(batches.shapes()) < 0.5 * len(batches)


# ---- chosen


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
            assert batch[0].width >= lengths.max()
            assert max_samples is None or len(batch) * batch[0].width <= max_samples


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
    first = read_out(make_batches(SIZES["many lengths"], **options))  # type: ignore[arg-type]
    np.random.seed(5)
    np.random.random(3)
    assert read_out(make_batches(SIZES["many lengths"], **options)) == first  # type: ignore[arg-type]


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
    padded = sum(len(batch) * batch[0].width for batch in batches)
    assert padded == batches.num_samples() < 1.1 * sizes.sum()


def test_more_processes_than_clips_leave_some_without_a_clip_but_lose_none() -> None:
    batches = make_batches(np.array([500, 900, 700]), max_samples=None, max_clips=4, num_parts=8)
    assert len(batches) == 8
    assert sorted(map(len, batches)) == [0] * 5 + [1] * 3
    assert sorted(rows_of(batches)) == [0, 1, 2]


@pytest.mark.parametrize("parts", PARTS)
def test_clips_of_one_length_come_in_one_shape_without_padding_but_for_the_last_batch(parts: int) -> None:
    batches = make_batches(np.full(8 * 12 + 5, 4000), max_samples=20_000, max_clips=None, num_parts=parts)
    assert batches.num_samples() == 4000 * (8 * 12 + 5)
    *full, last = [list(batches)[start : start + parts] for start in range(0, len(batches), parts)]
    assert {len(batch) for update in full for batch in update} == {5}
    assert sum(map(len, last)) <= 5 * parts


def test_shapes_are_those_of_the_entries() -> None:
    batches = make_batches(SIZES["many lengths"], max_samples=400_000, max_clips=7, num_parts=3)
    found: dict[tuple[int, int], int] = {}
    for batch in filter(None, batches):
        shape = len(batch), batch[0].width
        found[shape] = found.get(shape, 0) + 1
    assert batches.shapes() == found


def test_an_epoch_of_millions_of_clips_is_held_in_a_few_bytes_a_clip_and_sent_in_a_few_more() -> None:
    batches = make_batches(np.random.default_rng(0).integers(300, 160_000, 200_000), max_samples=None, max_clips=32)
    assert batches.rows.nbytes + batches.bounds.nbytes + batches.widths.nbytes < 5 * 200_000
    assert len(pickle.dumps(batches[0])) < 1000


def test_a_batch_on_its_way_to_a_worker_is_the_list_of_its_references() -> None:
    batches = make_batches(SIZES["many lengths"], max_samples=None, max_clips=8, num_parts=2, epoch=3)
    for batch in (batches[0], batches[5], batches[-1]):
        assert pickle.loads(pickle.dumps(batch)) == list(batch) == [batch[n] for n in range(len(batch))]


def test_entries_are_found_like_those_of_a_list() -> None:
    batches = make_batches(SIZES["many lengths"], max_samples=None, max_clips=8, num_parts=2)
    whole = read_out(batches)
    assert len(whole) == len(batches)
    assert list(batches[-1]) == whole[-1]
    assert read_out(batches[3:9:2]) == whole[3:9:2]
    with pytest.raises(IndexError):
        batches[len(batches)]
