"""Which tokens the encoder sees and which are hidden, for a whole batch at once.

Every masker is a rule "rank the tokens, hide the first so many", written with batched tensor operations; randomness comes from
seeds per clip or per batch (``noise.py``). Clips of one batch may have different numbers of tokens. Counts follow the original:
``max(1, int((1 - ratio) * tokens))`` tokens stay visible, in float arithmetic (facts: MAE-AST 7).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mae_ast_plugin.nn.noise import combine, uniform


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

    @property
    def valid(self) -> Tensor:
        """True (B, N) at tokens that are not padding."""
        counts = torch.tensor(self.num_tokens, device=self.clip_seeds.device)
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


def count_visible(num_tokens: int, ratio: float) -> int:
    """Count the tokens that stay visible, with the original's truncation in float arithmetic."""
    return max(1, int((1 - ratio) * num_tokens))


def mask_from_order(order: Tensor, num_visible: Sequence[int], request: MaskRequest) -> TokenMask:
    """Show the first ``num_visible`` tokens of each row of ``order`` (B, N), hide the other tokens of the clip.

    ``order`` lists token indices with padding at its end.
    """
    rows = request.row_length
    num_hidden = tuple(n - v for n, v in zip(request.num_tokens, num_visible, strict=True))
    device = order.device
    place = torch.arange(rows, device=device)
    shown = torch.tensor(num_visible, device=device)[:, None]
    total = torch.tensor(request.num_tokens, device=device)[:, None]
    filler = torch.full_like(order, rows)
    visible = torch.where(place < shown, order, filler).sort(dim=1).values[:, : max(num_visible)]
    hidden = torch.where((place >= shown) & (place < total), order, filler).sort(dim=1).values[:, : max(num_hidden)]
    return TokenMask(visible, hidden, rows, tuple(num_visible), num_hidden)


def _mask_by_rank(hide_rank: Tensor, request: MaskRequest, ratio: float) -> TokenMask:
    """Hide the tokens of lowest ``hide_rank`` (B, N); among equals the lowest index is hidden first."""
    padded = hide_rank.masked_fill(~request.valid, float("-inf"))
    order = padded.argsort(dim=1, stable=True).flip(1)  # padding last, then shown first
    num_visible = [count_visible(n, ratio) for n in request.num_tokens]
    return mask_from_order(order, num_visible, request)


def random_mask(request: MaskRequest, settings: MaskSettings) -> TokenMask:
    """Hide a random share of each clip, another one in every clip."""
    return _mask_by_rank(uniform(request.clip_seeds, request.row_length), request, settings.ratio)


def random_mask_batched(request: MaskRequest, settings: MaskSettings) -> TokenMask:
    """Hide a random share, the same tokens in every clip of a length."""
    return _mask_by_rank(uniform(request.shared_seeds, request.row_length), request, settings.ratio)


def _first_cover(covered: Tensor, row_length: int) -> Tensor:
    """Number of the first shape that covers a token: (B, K, A) token indices of K shapes -> (B, N) float ranks.

    Indices outside the row are ignored; tokens that no shape covers get K.
    """
    num_clips, num_shapes, area = covered.shape
    number = torch.arange(num_shapes, device=covered.device, dtype=torch.float32)[None, :, None].expand_as(covered)
    inside = torch.where((covered >= 0) & (covered < row_length), covered, row_length)
    ranks = torch.full((num_clips, row_length + 1), float(num_shapes), device=covered.device)
    ranks.scatter_reduce_(1, inside.flatten(1), number.flatten(1), "amin")
    return ranks[:, :row_length]


def _num_chunks(row_length: int, area: int, ratio: float) -> int:
    """Chunks that surely cover ``ratio`` of a row, with room to spare: the coupon collector's count times 1.5."""
    return 50 + math.ceil(1.5 * row_length / area * (1 - math.log(max(1 - ratio, 0.5 / row_length))))


def chunk_mask(request: MaskRequest, settings: MaskSettings) -> TokenMask:
    """Hide square chunks of 3, 4 or 5 patches a side, one size and one set of chunks for the whole batch.

    As in the original: chunks are collected until they cover more than the wanted number of tokens, then the highest indices
    are let go; a chunk runs along frequency by index and so may wrap into the next time step (facts: MAE-AST 7).
    """
    device, rows = request.clip_seeds.device, request.row_length
    size = 3 + combine(request.batch_seed, 1) % 3
    side = torch.arange(size, device=device)
    offsets = (side[:, None] + side * request.num_chan).unique()
    lengths = sorted(set(request.num_tokens))  # clips of one length share their mask: draw it once
    totals = torch.tensor(lengths, device=device)[:, None]
    starts = uniform(request.shared_seeds[:1], _num_chunks(rows, len(offsets), settings.ratio), stream=2)
    covered = (starts * totals).long()[..., None] + offsets
    covered = covered.masked_fill(covered >= totals[..., None], -1)
    ranks = _first_cover(covered, rows)
    num_hidden = [n - count_visible(n, settings.ratio) for n in lengths]
    # the chunk with which the count goes beyond the wanted number is the last one collected
    beyond = torch.tensor(num_hidden, device=device).clamp(max=rows - 1)[:, None]
    padded = ranks.masked_fill(torch.arange(rows, device=device) >= totals, float("inf"))
    last = padded.sort(dim=1).values.gather(1, beyond)
    index = torch.arange(rows, device=device, dtype=torch.float32)
    hide_rank = torch.where(ranks <= last, index, rows + index)
    clip_rows = torch.tensor([lengths.index(n) for n in request.num_tokens], device=device)
    return _mask_by_rank(hide_rank[clip_rows], request, settings.ratio)


def span_mask(request: MaskRequest, settings: MaskSettings) -> TokenMask:
    """Hide spans of ``span_length`` tokens that begin anywhere; exactly the wanted share is hidden, the last span cut to fit."""
    rows, length = request.row_length, settings.span_length
    totals = torch.tensor(request.num_tokens, device=request.clip_seeds.device)[:, None]
    noise = uniform(request.clip_seeds, rows + length - 1)
    # one candidate span begins at every place from just before the clip, so that both ends are hidden as often as the middle
    begins = torch.arange(1 - length, rows, device=noise.device)
    order = noise.masked_fill(begins >= totals, float("inf")).argsort(dim=1)
    covered = begins[order][..., None] + torch.arange(length, device=noise.device)
    ranks = _first_cover(covered, rows)
    return _mask_by_rank(ranks, request, settings.ratio)


def _span_lengths(request: MaskRequest, settings: MaskSettings) -> Tensor:
    """Length of the span that would begin at each token, by the law of ``span_law``: (B, N) whole numbers, float."""
    noise = uniform(request.clip_seeds, request.row_length, stream=3)
    length, other = float(settings.span_length), settings.span_other
    if settings.span_law == "static":
        return torch.full_like(noise, length)
    if settings.span_law == "uniform":
        return (other + noise * (2 * length + 1 - other)).floor()
    if settings.span_law == "normal":
        normal = torch.erfinv((2 * noise - 1).clamp(-1 + 1e-6, 1 - 1e-6)) * 2**0.5
        return (length + other * normal).round().clamp(min=1)
    # Poisson by inversion: count the steps of the distribution function below the uniform number
    counts = torch.arange(int(4 * length) + 20, device=noise.device, dtype=torch.float32)
    cumulative = torch.exp(counts * torch.log(torch.tensor(length)) - length - torch.lgamma(counts + 1)).cumsum(0)
    return (noise[..., None] > cumulative).sum(dim=-1).float()


def _covered(starts: Tensor, lengths: Tensor) -> Tensor:
    """Tokens inside spans that begin where ``starts`` (B, N) is true, ``lengths`` (B, N) long: (B, N) bool."""
    index = torch.arange(starts.shape[1], device=starts.device)
    ends = torch.where(starts, index + lengths.long(), 0)
    return (ends.cummax(dim=1).values > index) & starts.cumsum(dim=1).bool()


def _free_starts(request: MaskRequest, settings: MaskSettings, num_spans: Tensor) -> Tensor:
    """Starts of spans that may overlap, all different, none so late that it would leave the clip: (B, N) bool."""
    totals = torch.tensor(request.num_tokens, device=num_spans.device)
    latest = torch.maximum(totals - settings.span_length, num_spans + 1)
    noise = uniform(request.clip_seeds, request.row_length, stream=2)
    noise = noise.masked_fill(torch.arange(noise.shape[1], device=noise.device) >= latest[:, None], float("inf"))
    return noise.argsort(dim=1).argsort(dim=1) < num_spans[:, None]


def _apart_starts(request: MaskRequest, settings: MaskSettings, num_spans: Tensor) -> Tensor:
    """Starts of spans that keep ``min_space`` tokens between them: the free room is shared out at random: (B, N) bool."""
    totals = torch.tensor(request.num_tokens, device=num_spans.device)
    step = settings.span_length + settings.min_space
    num_spans = torch.minimum(num_spans, (totals + settings.min_space) // step)
    room = totals + settings.min_space - num_spans * step
    most = int(max(1, (request.row_length + settings.min_space) // step))
    place = torch.arange(most, device=num_spans.device)
    shares = uniform(request.clip_seeds, most, stream=2).masked_fill(place >= num_spans[:, None], 2.0).sort(dim=1).values
    starts = (shares * (room[:, None] + 1)).long() + place * step
    starts = torch.where(place < num_spans[:, None], starts, request.row_length)
    chosen = torch.zeros(len(totals), request.row_length + 1, dtype=torch.bool, device=starts.device)
    return chosen.scatter_(1, starts.clamp(max=request.row_length), True)[:, : request.row_length]


def retain_spans(request: MaskRequest, settings: MaskSettings) -> TokenMask:
    """Show spans and hide the rest: the original's ``retain_spans``, in which ``ratio`` drives what is SHOWN.

    ``int(ratio * tokens / span_length + u)`` spans a clip, at least two; all clips are cut at random to the smallest number of
    covered tokens in the batch, so the hidden share depends on the batch (facts: MAE-AST 7). ``span_mask`` hides exactly.
    """
    totals = torch.tensor(request.num_tokens, device=request.clip_seeds.device)
    rounding = uniform(request.clip_seeds, 1, stream=1)[:, 0].double()
    num_spans = (settings.ratio * totals.double() / settings.span_length + rounding).long().clamp(min=2)
    lengths = _span_lengths(request, settings)
    starts = (_apart_starts if settings.no_overlap else _free_starts)(request, settings, num_spans)
    shown = _covered(starts, lengths) & request.valid
    counts: list[int] = shown.sum(dim=1).tolist()  # the shape of the visible tokens hangs on it
    fewest = max(1, min(counts))
    noise = uniform(request.clip_seeds, request.row_length, stream=4)
    rank = torch.where(shown, noise, 1 + noise).masked_fill(~request.valid, float("inf"))
    return mask_from_order(rank.argsort(dim=1), [fewest] * len(counts), request)


MASKERS: dict[str, Callable[[MaskRequest, MaskSettings], TokenMask]] = {
    "random_mask": random_mask,
    "random_mask_batched": random_mask_batched,
    "chunk_mask": chunk_mask,
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
