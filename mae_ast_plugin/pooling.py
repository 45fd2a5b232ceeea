"""From the steps of a clip to one vector: frames (B, T, D) and steps of each clip (B,) in, (B, ...) out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F


def own_steps(frames: Tensor, lengths: Tensor) -> Tensor:
    """Mark the steps that are a clip's own: (B, T, 1), one or zero."""
    return (torch.arange(frames.shape[1], device=frames.device) < lengths[:, None])[..., None].to(frames.dtype)


def pool_mean(frames: Tensor, lengths: Tensor) -> Tensor:
    """Average over each clip's own steps: (B, T, D), (B,) -> (B, D)."""
    valid = own_steps(frames, lengths)
    return (frames * valid).sum(dim=1) / valid.sum(dim=1)


def pool_max(frames: Tensor, lengths: Tensor) -> Tensor:
    """Take the largest value over each clip's own steps: (B, T, D), (B,) -> (B, D)."""
    return frames.masked_fill(own_steps(frames, lengths) == 0, float("-inf")).amax(dim=1)


def pool_statistics(frames: Tensor, lengths: Tensor) -> Tensor:
    """Join mean and standard deviation over each clip's own steps: (B, T, D), (B,) -> (B, 2 D)."""
    mean = pool_mean(frames, lengths)
    variance = pool_mean((frames - mean[:, None]).square(), lengths)
    return torch.cat([mean, (variance + 1e-6).sqrt()], dim=1)


def pool_segments(frames: Tensor, lengths: Tensor, num_segments: int = 3) -> Tensor:
    """Average over equal parts of each clip and join them in order: (B, T, D), (B,) -> (B, num_segments x D).

    Keeps the order of events, which a mean over the clip loses. A clip with fewer steps than segments repeats steps.
    """
    steps = torch.arange(frames.shape[1], device=frames.device)
    parts = []
    for segment in range(num_segments):
        begin = (lengths * segment) // num_segments
        end = torch.maximum((lengths * (segment + 1)) // num_segments, begin + 1)
        inside = ((steps >= begin[:, None]) & (steps < end[:, None]))[..., None].to(frames.dtype)
        parts.append((frames * inside).sum(dim=1) / inside.sum(dim=1))
    return torch.cat(parts, dim=1)


POOLINGS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": pool_mean,
    "max": pool_max,
    "statistics": pool_statistics,
    "segments": pool_segments,
}


def normalised(frames: Tensor) -> Tensor:
    """Bring each step to mean 0 and variance 1 over its values, so that layers of any scale pool alike."""
    return F.layer_norm(frames, frames.shape[-1:])
