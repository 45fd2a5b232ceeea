"""From steps to one vector: only a clip's own steps count, in the simplest formulas."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from mae_ast_plugin.pooling import (
    POOLINGS,
    normalised,
    own_steps,
    pool_max,
    pool_mean,
    pool_segments,
    pool_statistics,
)


def batch(seed: int) -> tuple[Tensor, Tensor]:
    draw = random.Random(seed)
    lengths = torch.tensor([draw.randrange(1, 12) for _ in range(draw.randrange(1, 6))])
    frames = torch.randn(len(lengths), int(lengths.max()), 3, generator=torch.Generator().manual_seed(seed))
    return frames, lengths


def directly(pooling: str, own: Tensor) -> Tensor:
    """The same from the steps (steps, D) of one clip."""
    if pooling == "mean":
        return own.mean(dim=0)
    if pooling == "max":
        return own.amax(dim=0)
    if pooling == "statistics":
        return torch.cat([own.mean(dim=0), (own.var(dim=0, correction=0) + 1e-6).sqrt()])
    edges = [len(own) * part // 3 for part in range(4)]
    return torch.cat([own[a : max(b, a + 1)].mean(dim=0) for a, b in pairwise(edges)])


@pytest.mark.parametrize("pooling", list(POOLINGS))
@pytest.mark.parametrize("seed", range(8))
def test_a_batch_pools_as_each_clips_own_steps(pooling: str, seed: int) -> None:
    frames, lengths = batch(seed)
    pooled = POOLINGS[pooling](frames, lengths)
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(pooled[row], directly(pooling, frames[row, :length]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", list(POOLINGS))
def test_what_lies_behind_a_clip_changes_nothing(pooling: str) -> None:
    frames, lengths = batch(3)
    longer = torch.cat([frames, torch.full((len(frames), 5, 3), 7.0)], dim=1)
    torch.testing.assert_close(POOLINGS[pooling](longer, lengths), POOLINGS[pooling](frames, lengths))


@pytest.mark.parametrize("pooling", list(POOLINGS))
def test_a_clip_of_one_step_is_that_step(pooling: str) -> None:
    frames = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    pooled = POOLINGS[pooling](frames, torch.tensor([1, 1]))
    torch.testing.assert_close(pooled[:, :3], frames[:, 0])
    if pooling == "segments":
        torch.testing.assert_close(pooled, frames[:, 0].repeat(1, 3))
    if pooling == "statistics":
        torch.testing.assert_close(pooled[:, 3:], torch.full((2, 3), 1e-3))


def test_segments_join_the_means_of_equal_parts_in_order() -> None:
    frames = torch.arange(7.0)[None, :, None].expand(2, 7, 3).clone()
    pooled = pool_segments(frames, torch.tensor([6, 2]), num_segments=3)
    assert pooled.view(2, 3, 3)[:, :, 0].tolist() == [[0.5, 2.5, 4.5], [0.0, 0.0, 1.0]]


def test_each_pooling_by_hand() -> None:
    frames = torch.arange(7.0)[None, :, None].expand(2, 7, 3).clone()
    lengths = torch.tensor([6, 2])
    assert pool_mean(frames, lengths)[:, 0].tolist() == [2.5, 0.5]
    assert pool_max(-frames, lengths)[:, 0].tolist() == [0.0, 0.0]
    assert pool_max(frames, lengths)[:, 0].tolist() == [5.0, 1.0]
    statistics = pool_statistics(frames, lengths)
    torch.testing.assert_close(statistics[:, 3], torch.tensor([35 / 12, 0.25]).sqrt(), atol=1e-5, rtol=1e-5)
    assert own_steps(frames, lengths)[:, :, 0].sum(dim=1).tolist() == [6, 2]


def test_the_order_of_steps_counts_in_segments_only() -> None:
    frames = torch.randn(1, 9, 3, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([9])
    for name, pool in POOLINGS.items():
        same = torch.allclose(pool(frames, lengths), pool(frames.flip(1), lengths), atol=1e-6)
        assert same == (name != "segments")


@pytest.mark.parametrize("pooling", list(POOLINGS))
def test_gradients_reach_a_clips_own_steps_only(pooling: str) -> None:
    frames = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    POOLINGS[pooling](frames, torch.tensor([6, 2])).sum().backward()
    assert frames.grad is not None
    assert bool(frames.grad.isfinite().all()) and bool(frames.grad[1, :2].any()) and not frames.grad[1, 2:].any()


def test_normalised_steps_have_mean_zero_and_variance_one() -> None:
    frames = 100 * torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0)) + 7
    steps = normalised(frames)
    torch.testing.assert_close(steps.mean(dim=-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(steps.var(dim=-1, correction=0), torch.ones(2, 5), atol=1e-3, rtol=0)
    assert not normalised(torch.zeros(1, 2, 8)).any()  # what lies behind a clip stays zero
