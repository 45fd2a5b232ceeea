"""Reconstruction and contrastive losses over masked tokens, in float32, one value per token.

Per-token values let the caller choose what a mean runs over: the original's mean over a batch and the mean over all
tokens of all processes are the same formula with another denominator.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ERRORS: dict[str, Callable[[Tensor], Tensor]] = {"squared": torch.square, "absolute": torch.abs}


def reconstruction_errors(predicted: Tensor, target: Tensor, kind: str = "squared") -> Tensor:
    """Mean error of each token: (B, M, P), (B, M, P) -> (B, M); ``kind`` is a name of `ERRORS`."""
    return ERRORS[kind](predicted.float() - target.float()).mean(dim=-1)


def match_accuracy(predicted: Tensor, target: Tensor, padding: Tensor | None = None) -> Tensor:
    """Share of hidden tokens whose prediction the targets' softmax over predictions picks: (B, M) of 0 or 1.

    As SSAST measures it: the largest of each prediction's column after the softmax along each target's row (facts:
    SSAST 6). Rows of ``padding`` (B, M) count as wrong and are never chosen.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        scores = target.float() @ predicted.float().transpose(1, 2)
        if padding is not None:
            scores = scores.masked_fill(padding[:, None, :], float("-inf"))
        shares = scores.softmax(dim=-1)
        if padding is not None:
            shares = shares.masked_fill(padding[:, :, None], -1.0)
        right = shares.argmax(dim=1) == torch.arange(scores.shape[-1], device=scores.device)
        return (right if padding is None else right & ~padding).to(torch.float32)


def info_nce(predicted: Tensor, target: Tensor, padding: Tensor | None = None) -> Tensor:
    """InfoNCE of each masked token against the masked tokens of its own clip, in nats: (B, M).

    Neither temperature nor normalisation of the vectors (facts: MAE-AST 8). With the arguments exchanged, the softmax
    runs over predictions for a target instead of over targets for a prediction (facts: SSAST 6). ``padding`` (B, M)
    marks rows that are no tokens: they are never a negative, and their own value is zero.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        scores = predicted.float() @ target.float().transpose(1, 2)
        if padding is not None:
            # a row keeps its own column, so that rows of padding stay finite and give no gradient
            own = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
            scores = scores.masked_fill(padding[:, None, :] & ~own, float("-inf"))
        losses = scores.logsumexp(dim=-1) - scores.diagonal(dim1=1, dim2=2)
        return losses if padding is None else losses.masked_fill(padding, 0.0)
