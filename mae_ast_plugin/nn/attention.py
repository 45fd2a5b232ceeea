"""Scaled dot-product attention with dropout: torch's, and on a CPU one that keeps its scores in the cache.

torch's fused kernel for the CPU has no dropout: it falls back to whole matrices of scores, each of which goes through
memory a dozen times. Here a few heads at a time go through all steps, and again in the backward pass, which stores
none of them, as in FlashAttention (Dao et al. 2022, https://arxiv.org/abs/2205.14135).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mae_ast_plugin.nn.dropout import is_ours, keep_mask, kept_share

BLOCK_SCORES = 1 << 21  # 8 MiB of float32; fewer steps of two threads that wait for each other than with less


def attention(query: Tensor, key: Tensor, value: Tensor, attend: Tensor | None, dropout: float) -> Tensor:
    """Attend: each (B, H, N, D / H), queries perhaps fewer than keys; ``attend`` (B, 1, 1, N) is true at keys that may
    be seen, or what is added to the scores; ``dropout`` is the share of the weights that is dropped.
    """
    is_bias = attend is not None and attend.dtype != torch.bool
    none = not query.numel() or not kept_share(dropout)  # no queries, or nothing that is kept
    if not dropout or none or is_bias or not is_ours(query):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=attend, dropout_p=dropout)
    return _BlockedAttention.apply(query, key, value, attend, dropout)  # type: ignore[no-any-return]


def _blocks(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut (B, H, ...) into blocks of few clips and heads."""
    (num_clips, num_heads), scores = query.shape[:2], query.shape[2] * key.shape[2]
    heads = min(num_heads, max(1, BLOCK_SCORES // scores))
    clips = max(1, BLOCK_SCORES // (scores * num_heads))
    for clip in range(0, num_clips, clips):
        for head in range(0, num_heads, heads):
            yield slice(clip, clip + clips), slice(head, head + heads)


def _weights(query: Tensor, key: Tensor, attend: Tensor | None) -> Tensor:
    """Softmax of the scores of a block, float32: (b, h, M, d), (b, h, N, d) -> (b, h, M, N)."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if attend is not None:
        scores.masked_fill_(~attend, torch.finfo(scores.dtype).min)  # finite: a clip of padding alone stays so
    return scores.softmax(dim=-1, dtype=torch.float32)


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, attend: Tensor | None, rate: float) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            mask = keep_mask((*query.shape[:3], key.shape[2]), rate)
            mixed = query.new_empty(query.shape[0], query.shape[2], query.shape[1], query.shape[3]).transpose(1, 2)
            for block in _blocks(query, key):
                weights = _weights(query[block], key[block], None if attend is None else attend[block[0]])
                weights.mul_(mask[block])
                mixed[block] = weights.to(value.dtype) @ value[block] / kept_share(rate)
        ctx.save_for_backward(query, key, value, attend, mask)
        ctx.rate = rate
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        query, key, value, attend, mask = ctx.saved_tensors
        scale, kept = query.shape[-1] ** -0.5, kept_share(ctx.rate)
        of_query, of_key, of_value = (torch.empty_like(x) for x in (query, key, value))
        for block in _blocks(query, key):
            weights = _weights(query[block], key[block], None if attend is None else attend[block[0]])
            above = gradient[block] / kept
            dropped = (weights * mask[block]).to(value.dtype)
            of_value[block] = dropped.transpose(-2, -1) @ above
            of_weights = (above @ value[block].transpose(-2, -1)).float().mul_(mask[block])
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, torch.float32).to(query.dtype)
            of_query[block] = of_scores @ key[block] * scale
            of_key[block] = of_scores.transpose(-2, -1) @ query[block] * scale
        return of_query, of_key, of_value, None, None
