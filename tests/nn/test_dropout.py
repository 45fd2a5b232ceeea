"""Dropout drops the share it is told to, anew each time, and as torch's generator says."""

from __future__ import annotations

import pytest
import torch

from mae_ast_plugin.nn.dropout import BLOCK, dropout, keep_mask, kept_share


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.75])
@pytest.mark.parametrize("count", [100_003, 4 * BLOCK + 5])
def test_the_share_that_is_dropped_is_the_rate(rate: float, count: int) -> None:
    torch.manual_seed(0)
    kept = float(keep_mask((count,), rate).float().mean())
    spread = (rate * (1 - rate) / count) ** 0.5
    assert abs(kept - (1 - rate)) < 5 * spread
    assert kept_share(rate) == pytest.approx(1 - rate, abs=2**-17)


def test_neighbours_and_blocks_know_nothing_of_each_other() -> None:
    torch.manual_seed(0)
    kept = keep_mask((2, 4 * BLOCK), 0.5).double() - 0.5
    for one, other in ((kept[0, 1:], kept[0, :-1]), (kept[0, 4:], kept[0, :-4]), (kept[0], kept[1])):
        assert abs(float((4 * one * other).mean())) < 5 / (4 * BLOCK) ** 0.5


def test_masks_follow_torchs_generator() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = keep_mask((50, 7), 0.5), keep_mask((50, 7), 0.5)
    torch.set_rng_state(state)
    assert torch.equal(keep_mask((50, 7), 0.5), first)
    assert not torch.equal(first, second)


def test_values_are_zero_or_scaled_and_so_are_gradients() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 30, requires_grad=True)
    dropped = dropout(x, 0.3, training=True)
    dropped.sum().backward()
    gone = dropped == 0
    assert 0.2 < float(gone.float().mean()) < 0.4
    torch.testing.assert_close(dropped[~gone], (x / kept_share(0.3))[~gone])
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.where(gone, 0.0, 1 / kept_share(0.3)))


def test_the_mean_is_kept() -> None:
    torch.manual_seed(0)
    assert float(dropout(torch.ones(400_000), 0.1, training=True).mean()) == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize(("rate", "training"), [(0.0, True), (0.3, False)])
def test_without_a_rate_or_training_nothing_happens(rate: float, training: bool) -> None:
    x = torch.randn(4, 5)
    assert dropout(x, rate, training) is x


@pytest.mark.parametrize("rate", [1.0, 0.999999])
def test_everything_can_be_dropped(rate: float) -> None:
    assert not dropout(torch.ones(5), rate, training=True).any()


def test_nothing_stays_nothing() -> None:
    assert dropout(torch.ones(3, 0, 2), 0.5, training=True).shape == (3, 0, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_precision_stays(dtype: torch.dtype) -> None:
    assert dropout(torch.ones(9, dtype=dtype), 0.5, training=True).dtype == dtype
