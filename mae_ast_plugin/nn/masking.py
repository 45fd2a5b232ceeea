"""Which tokens the encoder sees and which are hidden, for a whole batch at once.

Every masker is a rule "rank the tokens, hide the first so many", written with batched tensor operations; randomness
comes from seeds per clip or per batch (``noise.py``). Clips of one batch may have different numbers of tokens. Counts
follow the original: ``max(1, int((1 - ratio) * tokens))`` tokens stay visible, in float arithmetic (facts: MAE-AST 7).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from mae_ast_plugin.nn.host import on_device
from mae_ast_plugin.nn.noise import combine, random_bits, random_ranks, uniform


@dataclass(frozen=True)
class TokenMask:
    """Visible and hidden tokens of a batch as indices into N, ascending.

    ``visible`` (B, V) and ``hidden`` (B, M) hold the index N itself (one past the last token) where a clip has fewer.
    """

    visible: Tensor
    hidden: Tensor
    num_tokens: int
    num_visible: tuple[int, ...]
    num_hidden: tuple[int, ...]

    @property
    def visible_padding(self) -> Tensor | None:
        """True (B, V) at places of ``visible`` that are no tokens; None where there are none."""
        return self.visible == self.num_tokens if len(set(self.num_visible)) > 1 else None

    @property
    def hidden_padding(self) -> Tensor | None:
        """True (B, M) at places of ``hidden`` that are no tokens; None where there are none."""
        return self.hidden == self.num_tokens if len(set(self.num_hidden)) > 1 else None


@dataclass(frozen=True)
class MaskRequest:
    """What a masker needs to know of a batch.

    ``clip_seeds`` (B,) int64 on the device the mask is wanted on; ``num_tokens`` of each clip and the longest row's
    ``row_length`` on the host, because shapes hang on them.
    """

    clip_seeds: Tensor
    batch_seed: int
    num_tokens: Sequence[int]
    row_length: int
    num_chan: int = 1

    @property
    def shared_seeds(self) -> Tensor:
        """The batch's seed for every clip."""
        return torch.full_like(self.clip_seeds, self.batch_seed)

    @cached_property
    def valid(self) -> Tensor:
        """True (B, N) at tokens that are not padding."""
        counts = on_device(self.num_tokens, self.clip_seeds.device)
        return torch.arange(self.row_length, device=counts.device) < counts[:, None]


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """How much is hidden, and the shape of spans (tokens)."""

    ratio: float = 0.75
    span_length: int = 10
    span_law: str = "static"
    span_other: float = 0.0
    no_overlap: bool = False
    min_space: int = 0


@lru_cache(maxsize=4096)
def count_visible(num_tokens: int, ratio: float) -> int:
    """Count the tokens that stay visible, with the original's truncation in float arithmetic."""
    return max(1, int((1 - ratio) * num_tokens))


def mask_of(hidden: Tensor, num_hidden: Sequence[int], request: MaskRequest) -> TokenMask:
    """Turn ``hidden`` (B, N) bool, true at ``num_hidden`` tokens of each clip, into indices.

    By a running count instead of sorts or ``nonzero``: cheap, and nothing has to wait for the device.
    """
    num_visible = tuple(n - m for n, m in zip(request.num_tokens, num_hidden, strict=True))
    rows, device = request.row_length, hidden.device
    most_visible, most_hidden = max(num_visible), max(num_hidden)
    index = torch.arange(rows, device=device)
    before = hidden.cumsum(dim=1)
    # each token's place among the visible ones, or behind all of those among the hidden ones
    place = index - before
    torch.where(hidden, before.add_(most_visible - 1), place, out=place)
    if min(request.num_tokens) < rows:
        place = torch.where(request.valid, place, most_visible + most_hidden)
    filled = torch.full((hidden.shape[0], most_visible + most_hidden + 1), rows, device=device)
    filled.scatter_(1, place, index.expand_as(place))
    visible, masked, _ = filled.split([most_visible, most_hidden, 1], dim=1)
    return TokenMask(visible, masked, rows, num_visible, tuple(num_hidden))


def _hide_lowest(rank: Tensor, num_hidden: Sequence[int], request: MaskRequest) -> Tensor:
    """True (B, N) at the ``num_hidden`` tokens of lowest ``rank``, whose values must differ within a row."""
    if len(set(num_hidden)) == 1 and min(request.num_tokens) == request.row_length:
        # the highest hidden one is the lowest of the others and itself: whichever list is shorter is looked through
        hidden, others = num_hidden[0], request.row_length - num_hidden[0] + 1
        if not hidden:
            last = rank.new_full((1, 1), -1)
        elif others < hidden:
            last = rank.topk(others, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
        else:
            last = rank.topk(hidden, dim=1, largest=False, sorted=False).values.amax(dim=1, keepdim=True)
    else:
        rank = rank.masked_fill(~request.valid, torch.iinfo(rank.dtype).max)
        wanted = on_device(num_hidden, rank.device)[:, None]
        last = rank.sort(dim=1).values.gather(1, (wanted - 1).clamp(min=0)).masked_fill(wanted == 0, -1)
    return rank <= last


def _by_share(rank: Tensor, request: MaskRequest, ratio: float, tie_break: Tensor | None = None) -> TokenMask:
    """Hide the tokens of lowest ``rank`` (B, N), whole numbers of at most 2^40; among equals the lowest index goes
    first.

    ``tie_break`` (B, N) orders equals otherwise, by different whole numbers below N.
    """
    order = torch.arange(request.row_length, device=rank.device) if tie_break is None else tie_break
    unique = (rank * request.row_length).add_(order)
    num_hidden = [n - count_visible(n, ratio) for n in request.num_tokens]
    return mask_of(_hide_lowest(unique, num_hidden, request), num_hidden, request)


def _shared(request: MaskRequest) -> tuple[MaskRequest, list[int]]:
    """A request of one clip for each number of tokens in the batch, and the row of it that each clip takes."""
    lengths = sorted(set(request.num_tokens))
    places = [lengths.index(n) for n in request.num_tokens]
    return replace(request, clip_seeds=request.shared_seeds[: len(lengths)], num_tokens=lengths), places


def _share_out(mask: TokenMask, places: list[int]) -> TokenMask:
    """Give each clip the row of the shared ``mask`` that is its own."""
    if len(mask.num_visible) == 1:  # no copies: all clips look at the one row
        visible, hidden = (index.expand(len(places), -1) for index in (mask.visible, mask.hidden))
        num_visible, num_hidden = mask.num_visible * len(places), mask.num_hidden * len(places)
        return TokenMask(visible, hidden, mask.num_tokens, num_visible, num_hidden)
    rows = on_device(places, mask.visible.device)
    return TokenMask(
        mask.visible[rows],
        mask.hidden[rows],
        mask.num_tokens,
        tuple(mask.num_visible[place] for place in places),
        tuple(mask.num_hidden[place] for place in places),
    )


def random_mask(request: MaskRequest, settings: MaskSettings) -> TokenMask:
    """Hide a random share of each clip, another one in every clip."""
    num_hidden = [n - count_visible(n, settings.ratio) for n in request.num_tokens]
    hidden = _hide_lowest(random_ranks(request.clip_seeds, request.row_length), num_hidden, request)
    return mask_of(hidden, num_hidden, request)


def random_mask_batched(request: MaskRequest, settings: MaskSettings) -> TokenMask:
    """Hide a random share, the same tokens in every clip of a length."""
    one, places = _shared(request)
    return _share_out(random_mask(one, settings), places)


def _first_cover(covered: Tensor, row_length: int) -> Tensor:
    """Number of the first shape that covers a token: (B, K, A) token indices of K shapes -> (B, N) whole numbers.

    Indices outside the row are ignored; tokens that no shape covers get K.
    """
    num_clips, num_shapes, _ = covered.shape
    number = torch.arange(num_shapes, device=covered.device)[None, :, None].expand_as(covered)
    inside = torch.where((covered >= 0) & (covered < row_length), covered, row_length)
    ranks = torch.full((num_clips, row_length + 1), num_shapes, device=covered.device)
    ranks.scatter_reduce_(1, inside.flatten(1), number.flatten(1), "amin")
    return ranks[:, :row_length]


def _num_chunks(row_length: int, area: int, ratio: float) -> int:
    """Chunks that surely cover ``ratio`` of a row, with room to spare: the coupon collector's count times 1.5."""
    return 50 + math.ceil(1.5 * row_length / area * (1 - math.log(max(1 - ratio, 0.5 / row_length))))


def chunk_mask(request: MaskRequest, settings: MaskSettings) -> TokenMask:
    """Hide square chunks of 3, 4 or 5 patches a side, one size and one set of chunks for the whole batch.

    As in the original: chunks are collected until they cover more than the wanted number of tokens, then the highest
    indices are let go; a chunk runs along frequency by index and so may wrap into the next time step (facts: MAE-AST
    7).
    """
    one, places = _shared(request)
    device, rows = request.clip_seeds.device, request.row_length
    size = 3 + combine(request.batch_seed, 1) % 3
    side = torch.arange(size, device=device)
    offsets = (side[:, None] + side * request.num_chan).flatten()
    totals = on_device(one.num_tokens, device)[:, None]
    area = size * (size if request.num_chan > 1 else 2)
    starts = uniform(one.clip_seeds[:1], _num_chunks(rows, area, settings.ratio), stream=2)
    covered = (starts * totals).long()[..., None] + offsets
    covered = covered.masked_fill(covered >= totals[..., None], -1)
    ranks = _first_cover(covered, rows)
    num_hidden = [n - count_visible(n, settings.ratio) for n in one.num_tokens]
    return _share_out(_by_share(_first_beyond(ranks, num_hidden, one), one, settings.ratio), places)


def cluster_mask(request: MaskRequest, settings: MaskSettings) -> TokenMask:
    """Hide square clusters of 3, 4 or 5 patches a side, one size and another set of clusters in every clip.

    As SSAST draws them: patches are counted row of frequency by row of frequency, a cluster runs on into the next row,
    the very first patch is never covered, and of more patches than wanted the last ones are let go (facts: SSAST 5).
    """
    device, rows, num_chan = request.clip_seeds.device, request.row_length, request.num_chan
    totals = on_device(request.num_tokens, device)[:, None]
    side = 3 + random_bits(request.clip_seeds, 1, stream=1) % 3
    starts = uniform(request.clip_seeds, _num_chunks(rows, 9, settings.ratio), stream=2)
    covered = _clusters((starts * totals).long(), side, totals, num_chan)
    num_hidden = [n - count_visible(n, settings.ratio) for n in request.num_tokens]
    order = _first_beyond(_first_cover(covered, rows), num_hidden, request)
    hidden = _hide_lowest(order * rows + torch.arange(rows, device=device), num_hidden, request)
    # from frequency-major places to ours; patches of no whole column stay where they are
    index, columns = torch.arange(rows, device=device), totals // num_chan
    place = torch.where(index < columns * num_chan, (index % num_chan) * columns + index // num_chan, index)
    return mask_of(hidden.gather(1, place), num_hidden, request)


def _clusters(starts: Tensor, side: Tensor, totals: Tensor, num_chan: int) -> Tensor:
    """Frequency-major indices of the patches in clusters at ``starts`` (B, K), -1 for none: (B, K, 25).

    ``side`` and ``totals`` (B, 1) are the patches along a side and in the clip.
    """
    step = torch.arange(5, device=starts.device)
    inside = (step < side)[:, :, None] & (step < side)[:, None, :]
    offsets = step[:, None] * (totals // num_chan)[..., None] + step
    covered = starts[..., None] + offsets.flatten(1)[:, None]
    return covered.masked_fill(~inside.flatten(1)[:, None] | (covered <= 0) | (covered >= totals[..., None]), -1)


def _first_beyond(ranks: Tensor, num_hidden: Sequence[int], request: MaskRequest) -> Tensor:
    """0 at tokens that shapes cover, up to the shape with which more than the wanted number are; 1 elsewhere."""
    wanted = on_device(num_hidden, ranks.device).clamp(max=request.row_length - 1)[:, None]
    if min(request.num_tokens) < request.row_length:
        padded = ranks.masked_fill(~request.valid, torch.iinfo(ranks.dtype).max)
    else:
        padded = ranks
    return (ranks > padded.sort(dim=1).values.gather(1, wanted)).long()


def group_mask(request: MaskRequest, settings: MaskSettings) -> TokenMask:
    """Hide groups of ``span_length`` neighbouring columns, counted from the first one, in each row of frequency.

    The count is exact, so one group is cut: its first columns are shown. Where the length does not divide the columns,
    the last group is shorter.
    """
    groups_in_row = -(-request.row_length // (request.num_chan * settings.span_length))
    ranks = random_bits(request.clip_seeds, groups_in_row * request.num_chan)
    return _by_groups(ranks, request, settings)


def _by_groups(ranks: Tensor, request: MaskRequest, settings: MaskSettings) -> TokenMask:
    """Hide the groups of lowest rank; ``ranks`` (B, groups) in the order of their first tokens."""
    index = torch.arange(request.row_length, device=ranks.device)
    column, chan = index // request.num_chan, index % request.num_chan
    group = column // settings.span_length * request.num_chan + chan
    return _by_share(ranks[:, group], request, settings.ratio, tie_break=request.row_length - 1 - index)


def span_mask(request: MaskRequest, settings: MaskSettings) -> TokenMask:
    """Hide spans of ``span_length`` tokens that begin anywhere, exactly the wanted share; the last one is cut."""
    rows, length = request.row_length, settings.span_length
    totals = on_device(request.num_tokens, request.clip_seeds.device)[:, None]
    # one span begins at every place from just before the clip, so that both ends are hidden as often as the middle;
    # the spans come in random order, and a token's turn is that of the first span that covers it
    begins = torch.arange(1 - length, rows, device=totals.device)
    turns = random_bits(request.clip_seeds, len(begins)).masked_fill(begins >= totals, 1 << 40)
    ranks = turns.unfold(1, length, 1).amin(dim=-1)
    # the last span is cut at its end in half of the clips and at its beginning in the others
    backwards = random_bits(request.clip_seeds, 1, stream=5) % 2 == 1
    index = torch.arange(rows, device=totals.device)
    return _by_share(ranks, request, settings.ratio, torch.where(backwards, rows - 1 - index, index))


def _span_lengths(request: MaskRequest, settings: MaskSettings, count: int) -> Tensor:
    """Draw ``count`` span lengths a clip by the law of ``span_law``: (B, count) whole numbers."""
    noise = uniform(request.clip_seeds, count, stream=3)
    length, other = float(settings.span_length), settings.span_other
    if settings.span_law == "static":
        drawn = torch.full_like(noise, length)
    elif settings.span_law == "uniform":
        drawn = (other + noise * (2 * length + 1 - other)).floor()
    elif settings.span_law == "normal":
        normal = torch.erfinv((2 * noise - 1).clamp(-1 + 1e-6, 1 - 1e-6)) * 2**0.5
        drawn = (length + other * normal).round().clamp(min=1)
    else:
        # Poisson by inversion: count the steps of the distribution function below the uniform number
        counts = torch.arange(int(4 * length) + 20, device=noise.device, dtype=torch.float32)
        cumulative = torch.exp(counts * math.log(length) - length - torch.lgamma(counts + 1)).cumsum(0)
        drawn = (noise[..., None] > cumulative).sum(dim=-1)
    return drawn.long()


def _free_spans(request: MaskRequest, settings: MaskSettings, num_spans: Tensor) -> Tensor:
    """Tokens inside spans that may overlap; starts all differ, none so late that its span would leave the clip: (B, N)
    bool.
    """
    totals = on_device(request.num_tokens, num_spans.device)
    latest = torch.maximum(totals - settings.span_length, num_spans + 1)
    noise = uniform(request.clip_seeds, request.row_length, stream=2)
    index = torch.arange(request.row_length, device=noise.device)
    noise = noise.masked_fill(index >= latest[:, None], float("inf"))
    starts = noise.argsort(dim=1).argsort(dim=1) < num_spans[:, None]
    ends = torch.where(starts, index + _span_lengths(request, settings, request.row_length), 0)
    return ends.cummax(dim=1).values > index


def _spans_apart(request: MaskRequest, settings: MaskSettings, num_spans: Tensor) -> Tensor:
    """Tokens inside spans at least ``min_space`` apart; the room left is shared out at random: (B, N) bool."""
    totals = on_device(request.num_tokens, num_spans.device)
    most = max(1, int(request.row_length))
    steps = _span_lengths(request, settings, most) + settings.min_space
    taken = steps.cumsum(dim=1)
    place = torch.arange(most, device=num_spans.device)
    used = (place < num_spans[:, None]) & (taken <= (totals + settings.min_space)[:, None])  # as many as fit
    room = totals + settings.min_space - (steps * used).sum(dim=1)
    shares = uniform(request.clip_seeds, most, stream=2).masked_fill(~used, 2.0).sort(dim=1).values
    starts = (shares * (room[:, None] + 1)).long() + taken - steps
    edges = torch.zeros(len(totals), request.row_length + 1, dtype=torch.long, device=num_spans.device)
    one = used.long()
    edges.scatter_add_(1, starts.clamp(max=request.row_length), one)
    edges.scatter_add_(1, (starts + steps - settings.min_space).clamp(max=request.row_length), -one)
    return edges.cumsum(dim=1)[:, : request.row_length] > 0


def retain_spans(request: MaskRequest, settings: MaskSettings) -> TokenMask:
    """Show spans and hide the rest: the original's ``retain_spans``, in which ``ratio`` drives what is SHOWN.

    ``int(ratio * tokens / span_length + u)`` spans a clip, at least two; all clips are cut at random to the smallest
    number of covered tokens in the batch, so the hidden share depends on the batch (facts: MAE-AST 7). ``span_mask``
    hides exactly.
    """
    totals = on_device(request.num_tokens, request.clip_seeds.device)
    rounding = uniform(request.clip_seeds, 1, stream=1)[:, 0].double()
    num_spans = (settings.ratio * totals.double() / settings.span_length + rounding).long().clamp(min=2)
    shown = (_spans_apart if settings.no_overlap else _free_spans)(request, settings, num_spans) & request.valid
    counts: list[int] = shown.sum(dim=1).tolist()  # the shape of the visible tokens hangs on it
    fewest = max(1, min(min(counts), min(request.num_tokens) - 1))  # something is shown and something hidden
    bits = random_bits(request.clip_seeds, request.row_length, stream=4)
    rank = torch.where(shown, bits + (1 << 41), bits)  # the spans are hidden last
    num_hidden = [n - fewest for n in request.num_tokens]
    unique = rank * request.row_length + torch.arange(request.row_length, device=rank.device)
    return mask_of(_hide_lowest(unique, num_hidden, request), num_hidden, request)


MASKERS: dict[str, Callable[[MaskRequest, MaskSettings], TokenMask]] = {
    "random_mask": random_mask,
    "random_mask_batched": random_mask_batched,
    "chunk_mask": chunk_mask,
    "cluster_mask": cluster_mask,
    "group_mask": group_mask,
    "retain_spans": retain_spans,
    "span_mask": span_mask,
}
SPAN_LAWS = ("static", "uniform", "normal", "poisson")


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Pick tokens: (B, N, D), (B, V) -> (B, V, D); an index of N or more gives some token of the clip."""
    index = index.clamp(max=tokens.shape[1] - 1)
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[2]))


def scatter_tokens(tokens: Tensor, index: Tensor, num_tokens: int, filler: Tensor) -> Tensor:
    """Put tokens (B, V, D) at ``index`` (B, V) of rows of ``num_tokens``, ``filler`` (D,) elsewhere: (B, N, D)."""
    # one place more than tokens: what has no place goes there and is cut off
    rows = filler.to(tokens.dtype).expand(tokens.shape[0], num_tokens + 1, -1)
    return rows.scatter(1, index[..., None].expand_as(tokens), tokens)[:, :num_tokens]
