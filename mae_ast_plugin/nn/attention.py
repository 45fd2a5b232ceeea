"""Scaled dot-product attention with dropout: torch's, and on a CPU one that keeps its scores in the cache.

torch's fused kernel for the CPU has no dropout: it falls back to whole matrices of scores, each of which goes through
memory a dozen times. Here a few heads at a time go through all steps, as in FlashAttention (Dao et al. 2022,
https://arxiv.org/abs/2205.14135); their weights are stored, since a CPU has memory rather than time to compute them
again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mae_ast_plugin.nn.dropout import is_ours, keep_mask, kept_share

BLOCK_SCORES = 1 << 19  # 2 MiB of float32


def attention(query: Tensor, key: Tensor, value: Tensor, attend: Tensor | None, dropout: float) -> Tensor:
    """Attend: each (B, H, N, D / H), queries perhaps fewer than keys; ``attend`` (B, 1, 1, N) is true at keys that may
    be seen, or what is added to the scores; ``dropout`` is the share of the weights that is dropped.
    """
    is_bias = attend is not None and attend.dtype != torch.bool
    none = not query.numel() or not key.numel() or not kept_share(dropout)  # no tokens, or nothing that is kept
    if not dropout or none or is_bias or not is_ours(query):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=attend, dropout_p=dropout)
    return _BlockedAttention.apply(query, key, value, attend, dropout)  # type: ignore[no-any-return]


class _BlockedAttention(torch.autograd.Function):
    """Heads of all clips stand in one row: (B H, N, d)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, attend: Tensor | None, rate: float) -> Tensor:
        shape, num_heads, scale = query.shape, query.shape[1], query.shape[-1] ** -0.5
        hidden = None if attend is None else ~attend.flatten(0, 1).repeat_interleave(num_heads, dim=0)
        query, key, value = (query * scale).flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)
        mask = keep_mask((*query.shape[:2], key.shape[1]), rate)
        weights, mixed = mask.new_empty(mask.shape, dtype=torch.float32), torch.empty_like(query)
        with torch.autocast("cpu", enabled=False):
            for block in _blocks(mask):
                scores = query[block] @ key[block].transpose(1, 2)
                if hidden is not None:  # a finite number: a clip of padding alone stays finite
                    scores.masked_fill_(hidden[block], torch.finfo(scores.dtype).min)
                torch.softmax(scores, -1, dtype=torch.float32, out=weights[block])
                torch.bmm((weights[block] * mask[block]).to(value.dtype), value[block], out=mixed[block])
        ctx.save_for_backward(query, key, value, weights, mask)
        ctx.scale, ctx.kept = scale, kept_share(rate)
        return mixed.div_(ctx.kept).view(shape)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights, mask = ctx.saved_tensors
        heads = gradients[0].shape[:2]
        above = (gradients[0] / ctx.kept).flatten(0, 1)
        of_query, of_key, of_value = (torch.empty_like(x) for x in (query, key, value))
        for block in _blocks(mask):
            dropped = (weights[block] * mask[block]).to(value.dtype)
            torch.bmm(dropped.transpose(1, 2), above[block], out=of_value[block])
            of_weights = (above[block] @ value[block].transpose(1, 2)).float().mul_(mask[block])
            of_scores = torch._softmax_backward_data(of_weights, weights[block], -1, torch.float32).to(query.dtype)
            torch.bmm(of_scores, key[block], out=of_query[block])
            torch.bmm(of_scores.transpose(1, 2), query[block], out=of_key[block])
        of_query.mul_(ctx.scale)
        return *(x.unflatten(0, heads) for x in (of_query, of_key, of_value)), None, None


def _blocks(scores: Tensor) -> Iterator[slice]:
    """Cut rows of heads (B H, M, N) into blocks of few."""
    length = max(1, BLOCK_SCORES // scores[0].numel())
    return (slice(first, first + length) for first in range(0, len(scores), length))
