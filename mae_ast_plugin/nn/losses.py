"""Reconstruction and contrastive losses over masked tokens, in float32, one value per token.

Per-token values let the caller choose what a mean runs over: the original's mean over a batch and the mean over all
tokens of all processes are the same formula with another denominator.
"""

from __future__ import annotations

import torch
from torch import Tensor


def reconstruction_errors(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each token: (B, M, P), (B, M, P) -> (B, M)."""
    return (predicted.float() - target.float()).square().mean(dim=-1)


def info_nce(predicted: Tensor, target: Tensor, padding: Tensor | None = None) -> Tensor:
    """InfoNCE of each masked token against the masked tokens of its own clip, in nats: (B, M).

    Neither temperature nor normalisation of the vectors (facts: MAE-AST 8). ``padding`` (B, M) marks rows that are no
    tokens: they are never a negative, and their own value is zero.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        scores = predicted.float() @ target.float().transpose(1, 2)
        if padding is not None:
            # a row keeps its own column, so that rows of padding stay finite and give no gradient
            own = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
            scores = scores.masked_fill(padding[:, None, :] & ~own, float("-inf"))
        losses = scores.logsumexp(dim=-1) - scores.diagonal(dim1=1, dim2=2)
        return losses if padding is None else losses.masked_fill(padding, 0.0)
