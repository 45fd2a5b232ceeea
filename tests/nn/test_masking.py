"""Masks: what every masker promises, and what each of them does with the share it hides."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch

from mae_ast_plugin.nn.masking import (
    MASKERS,
    SPAN_LAWS,
    MaskRequest,
    MaskSettings,
    TokenMask,
    chunk_mask,
    count_visible,
    gather_tokens,
    group_mask,
    random_mask,
    random_mask_batched,
    retain_spans,
    scatter_tokens,
    span_mask,
)
from mae_ast_plugin.nn.noise import combine

EXACT = {name: masker for name, masker in MASKERS.items() if name != "retain_spans"}
every_masker = pytest.mark.parametrize("masker", MASKERS.values(), ids=MASKERS)
every_exact_masker = pytest.mark.parametrize("masker", EXACT.values(), ids=EXACT)
every_shape = pytest.mark.parametrize(
    "num_tokens", [[1], [2], [97], [496, 496], [31, 7, 1, 31], [2, 3, 5, 7, 11, 13]], ids=str
)


def request_for(
    num_tokens: Sequence[int],
    clip_seeds: Sequence[int] | None = None,
    batch_seed: int = 7,
    row_length: int | None = None,
    num_chan: int = 8,
) -> MaskRequest:
    seeds = [combine(1, place) for place in range(len(num_tokens))] if clip_seeds is None else clip_seeds
    return MaskRequest(torch.tensor(seeds), batch_seed, list(num_tokens), row_length or max(num_tokens), num_chan)


def own(row: torch.Tensor, mask: TokenMask) -> list[int]:
    return [index for index in row.tolist() if index != mask.num_tokens]


def hidden_of(mask: TokenMask) -> list[list[int]]:
    return [own(row, mask) for row in mask.hidden]


def runs(tokens: Sequence[int]) -> list[tuple[int, int]]:
    """First and last token of each run of neighbours."""
    found: list[tuple[int, int]] = []
    for token in tokens:
        found = (
            [*found[:-1], (found[-1][0], token)] if found and found[-1][1] == token - 1 else [*found, (token, token)]
        )
    return found


# ---------------------------------------------------------------------------------------------------- what all promise


@every_masker
@every_shape
@pytest.mark.parametrize("ratio", [0.05, 0.5, 0.75, 0.99])
@pytest.mark.parametrize("surplus", [0, 5])
def test_visible_and_hidden_tokens_are_the_clip(
    masker,
    num_tokens: list[int],
    ratio: float,
    surplus: int,  # type: ignore[no-untyped-def]
) -> None:
    request = request_for(num_tokens, row_length=max(num_tokens) + surplus)
    mask = masker(request, MaskSettings(ratio=ratio, span_length=3))
    assert mask.num_tokens == request.row_length
    assert mask.visible.shape == (len(num_tokens), max(mask.num_visible))
    assert mask.hidden.shape == (len(num_tokens), max(mask.num_hidden))
    for row, count in enumerate(num_tokens):
        visible, hidden = own(mask.visible[row], mask), own(mask.hidden[row], mask)
        assert visible == sorted(visible) and hidden == sorted(hidden)
        assert sorted(visible + hidden) == list(range(count))
        assert (len(visible), len(hidden)) == (mask.num_visible[row], mask.num_hidden[row])
        # fillers stand at the end
        assert mask.visible[row, len(visible) :].eq(mask.num_tokens).all()
        assert mask.hidden[row, len(hidden) :].eq(mask.num_tokens).all()


@every_exact_masker
@every_shape
@pytest.mark.parametrize("ratio", [0.05, 0.5, 0.75, 0.8, 0.9, 0.99])
def test_the_share_is_met_exactly(masker, num_tokens: list[int], ratio: float) -> None:  # type: ignore[no-untyped-def]
    mask = masker(request_for(num_tokens), MaskSettings(ratio=ratio, span_length=4))
    assert list(mask.num_visible) == [max(1, int((1 - ratio) * count)) for count in num_tokens]


@pytest.mark.parametrize(
    ("ratio", "num_tokens", "num_visible"),
    [(0.8, 500, 99), (0.9, 100, 9), (0.75, 496, 124), (0.75, 499, 124), (0.75, 1, 1)],
)
def test_counts_truncate_in_float_arithmetic_as_the_original(ratio: float, num_tokens: int, num_visible: int) -> None:
    assert count_visible(num_tokens, ratio) == num_visible


@every_masker
def test_padding_is_named_where_clips_differ_and_only_there(masker) -> None:  # type: ignore[no-untyped-def]
    settings = MaskSettings(span_length=3)
    even = masker(request_for([20, 20]), settings)
    assert even.visible_padding is None and even.hidden_padding is None
    ragged = masker(request_for([20, 9, 5]), settings)
    for index, padding in ((ragged.visible, ragged.visible_padding), (ragged.hidden, ragged.hidden_padding)):
        if padding is None:  # retain_spans shows the same number in every clip
            assert masker is retain_spans and index.lt(ragged.num_tokens).all()
        else:
            assert torch.equal(padding, index == ragged.num_tokens)


@every_masker
def test_the_same_seeds_give_the_same_mask_and_others_another(masker) -> None:  # type: ignore[no-untyped-def]
    settings = MaskSettings(span_length=5, ratio=0.6)
    first = masker(request_for([97, 53], [1, 2], 3), settings)
    again = masker(request_for([97, 53], [1, 2], 3), settings)
    other = masker(request_for([97, 53], [4, 5], 6), settings)
    assert torch.equal(first.hidden, again.hidden) and torch.equal(first.visible, again.visible)
    assert all(mine != yours for mine, yours in zip(hidden_of(first), hidden_of(other), strict=True))


# ------------------------------------------------------------------------------------------- whose seed makes the mask


@pytest.mark.parametrize("masker", [random_mask, span_mask])
def test_the_mask_of_a_clip_does_not_depend_on_its_batch(masker) -> None:  # type: ignore[no-untyped-def]
    counts, seeds, settings = [31, 97, 1, 62], [11, -5, 7, 2**62], MaskSettings(span_length=6)
    together = hidden_of(masker(request_for(counts, seeds), settings))
    backwards = hidden_of(masker(request_for(counts[::-1], seeds[::-1], 99), settings))[::-1]
    wider = hidden_of(masker(request_for(counts, seeds, row_length=200), settings))
    alone = [hidden_of(masker(request_for([n], [s]), settings))[0] for n, s in zip(counts, seeds, strict=True)]
    assert together == backwards == wider == alone


@pytest.mark.parametrize("masker", [random_mask, span_mask])
def test_two_clips_of_a_batch_have_masks_of_their_own(masker) -> None:  # type: ignore[no-untyped-def]
    first, second = hidden_of(masker(request_for([97, 97]), MaskSettings()))
    assert first != second


@pytest.mark.parametrize("masker", [random_mask_batched, chunk_mask])
def test_clips_of_one_length_share_a_mask_that_their_own_seeds_do_not_change(masker) -> None:  # type: ignore[no-untyped-def]
    first, other, second = hidden_of(masker(request_for([64, 24, 64], [1, 2, 3]), MaskSettings()))
    assert first == second != other
    assert hidden_of(masker(request_for([64], [4]), MaskSettings())) == [first]
    assert hidden_of(masker(request_for([64], [4], batch_seed=8), MaskSettings())) != [first]


@pytest.mark.parametrize("masker", [random_mask, random_mask_batched])
def test_random_masks_hide_every_token_as_often_as_any_other(masker) -> None:  # type: ignore[no-untyped-def]
    masks = [masker(request_for([13] * 40, range(40 * n, 40 * n + 40), n), MaskSettings(ratio=0.5)) for n in range(60)]
    hidden = torch.cat([mask.hidden.flatten() for mask in masks])
    frequency = torch.bincount(hidden, minlength=13) / (60 * 40)
    assert (frequency - 7 / 13).abs().max() < (0.05 if masker is random_mask else 0.25)  # 2400 draws, or 60


# ---------------------------------------------------------------------------------------------------------------- spans


@pytest.mark.parametrize(
    ("num_tokens", "length", "ratio"), [(97, 10, 0.5), (499, 7, 0.3), (31, 4, 0.75), (11, 10, 0.6)]
)
def test_hidden_spans_are_whole_but_for_the_last_one_and_those_at_the_ends(
    num_tokens: int, length: int, ratio: float
) -> None:
    mask = span_mask(request_for([num_tokens] * 50), MaskSettings(ratio=ratio, span_length=length))
    for hidden in hidden_of(mask):
        inside = [(a, b) for a, b in runs(hidden) if a > 0 and b < num_tokens - 1]
        assert sum(b - a + 1 < length for a, b in inside) <= 1  # the last span is cut to fit the share


@pytest.mark.parametrize(("num_tokens", "length", "ratio"), [(30, 5, 0.5), (62, 10, 0.75)])
def test_the_ends_of_a_clip_are_hidden_about_as_often_as_its_middle(num_tokens: int, length: int, ratio: float) -> None:
    mask = span_mask(request_for([num_tokens] * 2000), MaskSettings(ratio=ratio, span_length=length))
    frequency = torch.bincount(mask.hidden.flatten(), minlength=num_tokens) / 2000
    assert (frequency - mask.num_hidden[0] / num_tokens).abs().max() < 0.07


def test_spans_longer_than_the_clip_still_leave_a_visible_token() -> None:
    mask = span_mask(request_for([3, 1, 2]), MaskSettings(ratio=0.99, span_length=50))
    assert mask.num_visible == (1, 1, 1)


@pytest.mark.parametrize("law", SPAN_LAWS)
@pytest.mark.parametrize(("length", "space"), [(3, 2), (5, 4), (10, 1)])
def test_spans_without_overlap_keep_their_space(law: str, length: int, space: int) -> None:
    settings = MaskSettings(ratio=0.4, span_length=length, span_law=law, span_other=1, no_overlap=True, min_space=space)
    for seed in range(20):
        mask = retain_spans(request_for([211], [combine(2, seed)]), settings)
        shown = runs(own(mask.visible[0], mask))
        gaps = [after[0] - before[1] - 1 for before, after in pairwise(shown)]
        assert all(gap >= space for gap in gaps)
        if law == "static":
            assert all(b - a + 1 == length for a, b in shown)
        if law == "uniform":
            assert all(b - a + 1 <= 2 * length for a, b in shown)


@pytest.mark.parametrize("num_tokens", [4, 12, 13, 14, 40])
def test_spans_that_must_keep_apart_are_as_many_as_have_room(num_tokens: int) -> None:
    settings = MaskSettings(ratio=3, span_length=5, no_overlap=True, min_space=3)
    mask = retain_spans(request_for([num_tokens]), settings)
    shown = runs(own(mask.visible[0], mask))
    if num_tokens < 5:
        assert mask.num_visible == (1,)
    else:
        assert len(shown) == (num_tokens + 3) // 8 and all(b - a + 1 == 5 for a, b in shown)


@pytest.mark.parametrize(("law", "other"), [("static", 0), ("uniform", 0), ("normal", 3), ("poisson", 0)])
def test_span_laws_have_the_right_mean_length(law: str, other: float) -> None:
    # so few spans in so many tokens that they hardly touch: shown tokens are the sum of their lengths
    settings = MaskSettings(ratio=0.02, span_length=10, span_law=law, span_other=other)
    mask = retain_spans(request_for([100000]), settings)
    assert abs(mask.num_visible[0] / 200 - 10) < 1.5  # three standard errors of the widest law, and 2 % overlap


@pytest.mark.parametrize(("other", "shortest", "longest"), [(0, 1, 10), (4, 4, 10)])
def test_uniform_span_lengths_stay_between_the_second_parameter_and_twice_the_first(
    other: float, shortest: int, longest: int
) -> None:
    settings = MaskSettings(ratio=0.01, span_length=5, span_law="uniform", span_other=other)
    mask = retain_spans(request_for([50000]), settings)
    lengths = [b - a + 1 for a, b in runs(own(mask.visible[0], mask))]
    assert min(lengths) == shortest
    assert sorted(lengths)[len(lengths) * 95 // 100] <= longest  # a few touch


def test_retained_spans_show_the_same_number_in_every_clip() -> None:
    mask = retain_spans(request_for([97, 31, 60]), MaskSettings(ratio=1.45))
    assert len(set(mask.num_visible)) == 1
    assert mask.hidden_padding is not None


def test_retained_spans_never_reach_the_last_token() -> None:
    for seed in range(50):
        mask = retain_spans(request_for([97], [seed]), MaskSettings(ratio=1.45))
        assert 96 in own(mask.hidden[0], mask)


@pytest.mark.parametrize(("ratio", "hidden_share"), [(1.45, 0.257), (0.74, 0.506)])
def test_retained_spans_hide_what_the_original_hides(ratio: float, hidden_share: float) -> None:
    shares = []
    for seed in range(40):
        seeds = [combine(3, seed, clip) for clip in range(8)]
        mask = retain_spans(request_for([499] * 8, seeds), MaskSettings(ratio=ratio))
        shares.append(mask.num_hidden[0] / 499)
    assert abs(sum(shares) / len(shares) - hidden_share) < 0.015


# --------------------------------------------------------------------------------------------------------------- groups


@pytest.mark.parametrize(("length", "num_columns"), [(2, 52), (5, 50), (2, 25), (7, 50)])
def test_all_groups_but_one_are_hidden_or_shown_as_a_whole(length: int, num_columns: int) -> None:
    for seed in range(20):
        mask = group_mask(request_for([num_columns], [seed], num_chan=1), MaskSettings(ratio=0.75, span_length=length))
        hidden = set(hidden_of(mask)[0])
        groups = [range(first, min(first + length, num_columns)) for first in range(0, num_columns, length)]
        cut = [group for group in groups if 0 < len(hidden & set(group)) < len(group)]
        assert len(cut) <= 1
        for group in cut:  # its first columns are shown
            shown = [token for token in group if token not in hidden]
            assert shown == list(group)[: len(shown)]


def test_groups_lie_in_one_row_of_frequency() -> None:
    mask = group_mask(request_for([48], num_chan=2), MaskSettings(ratio=0.5, span_length=3))
    grid = torch.zeros(48).index_fill(0, mask.hidden[0], 1.0).unflatten(0, (24, 2))
    assert torch.equal(grid.unflatten(0, (8, 3)).amin(dim=1), grid.unflatten(0, (8, 3)).amax(dim=1))
    assert not torch.equal(grid[:, 0], grid[:, 1])


def test_groups_of_one_column_are_spread_like_single_tokens() -> None:
    seeds = [combine(9, clip) for clip in range(2000)]
    mask = group_mask(request_for([20] * 2000, seeds, num_chan=1), MaskSettings(ratio=0.75, span_length=1))
    frequency = torch.zeros(2000, 20).scatter(1, mask.hidden, 1.0).mean(dim=0)
    assert bool(((frequency - 0.75).abs() < 0.05).all())


# --------------------------------------------------------------------------------------------------------------- chunks


def chunk(start: int, size: int, num_chan: int, num_tokens: int) -> list[int]:
    """The tokens of one chunk, ascending: it wraps along frequency and ends with the clip."""
    tokens = {start + a + num_chan * b for a in range(size) for b in range(size)}
    return sorted(token for token in tokens if token < num_tokens)


@pytest.mark.parametrize(("num_chan", "num_hidden"), [(8, 8), (5, 8), (1, 4)])
def test_a_small_share_is_one_chunk_without_its_highest_tokens(num_chan: int, num_hidden: int) -> None:
    num_tokens = 800
    chunks = [chunk(s, size, num_chan, num_tokens)[:num_hidden] for size in (3, 4, 5) for s in range(num_tokens)]
    for seed in range(20):
        request = request_for([num_tokens], batch_seed=combine(4, seed), num_chan=num_chan)
        assert hidden_of(chunk_mask(request, MaskSettings(ratio=num_hidden / num_tokens)))[0] in chunks


def test_chunks_never_hide_the_last_token() -> None:
    for seed in range(50):
        mask = chunk_mask(request_for([96, 17, 2], batch_seed=combine(5, seed)), MaskSettings())
        assert all(count - 1 not in hidden for count, hidden in zip([96, 17, 2], hidden_of(mask), strict=True))


def test_chunks_hide_what_the_original_hides() -> None:
    """Frequencies measured with the original on a grid of 62 x 8 patches."""
    hidden = torch.zeros(400, 496)
    for seed in range(400):
        mask = chunk_mask(request_for([496], batch_seed=combine(6, seed)), MaskSettings())
        hidden[seed, mask.hidden[0]] = 1
    frequency, grid = hidden.mean(dim=0), hidden.unflatten(1, (62, 8))
    thirds = [float(third.mean()) for third in (frequency[:165], frequency[165:330], frequency[330:])]
    assert abs(float(frequency[0]) - 0.11) < 0.05
    assert all(abs(mine - original) < 0.02 for mine, original in zip(thirds, (0.730, 0.777, 0.743), strict=True))
    assert 0.83 < float((grid[:, 1:] == grid[:, :-1]).float().mean()) < 0.86
    assert 0.83 < float((grid[:, :, 1:] == grid[:, :, :-1]).float().mean()) < 0.86


# --------------------------------------------------------------------------------------------------- gather and scatter


def test_tokens_gathered_and_scattered_stand_where_they_stood() -> None:
    mask = random_mask(request_for([13, 7, 1]), MaskSettings(ratio=0.5))
    tokens, filler = torch.randn(3, 13, 4), torch.tensor([1.0, 2, 3, 4])
    rows = scatter_tokens(gather_tokens(tokens, mask.visible), mask.visible, 13, filler)
    for row in range(3):
        visible = own(mask.visible[row], mask)
        others = [index for index in range(13) if index not in visible]
        assert torch.equal(rows[row, visible], tokens[row, visible])
        assert torch.equal(rows[row, others], filler.expand(len(others), -1))


def test_filler_places_never_overwrite_a_token() -> None:
    rows = scatter_tokens(torch.full((1, 3, 1), 9.0), torch.tensor([[0, 2, 2]]), 2, torch.zeros(1))
    assert rows.tolist() == [[[9.0], [0.0]]]
