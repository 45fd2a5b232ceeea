"""Losses against torch's own, a clip at a time, and padding that is neither a negative nor counted."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from mae_ast_plugin.nn.losses import info_nce, reconstruction_errors


def pair(*shape: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    return scale * torch.randn(shape, generator=generator), scale * torch.randn(shape, generator=generator)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (2, 31, 256)])
def test_info_nce_is_the_cross_entropy_of_each_clip(shape: tuple[int, int, int]) -> None:
    predicted, target = pair(*shape)
    losses = info_nce(predicted, target)
    for clip in range(shape[0]):
        expected = F.cross_entropy(predicted[clip] @ target[clip].T, torch.arange(shape[1]), reduction="none")
        torch.testing.assert_close(losses[clip], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("kind", "reference"), [("squared", F.mse_loss), ("absolute", F.l1_loss)])
def test_errors_of_tokens_average_to_torchs_loss(kind: str, reference: Callable[..., torch.Tensor]) -> None:
    predicted, target = pair(2, 5, 7)
    errors = reconstruction_errors(predicted, target, kind)
    assert errors.shape == (2, 5)
    torch.testing.assert_close(errors.mean(), reference(predicted, target))
    torch.testing.assert_close(errors[1, 3], reference(predicted[1, 3], target[1, 3]))


def test_without_knowledge_info_nce_is_the_logarithm_of_the_number_of_tokens() -> None:
    _, target = pair(1, 372, 16)
    torch.testing.assert_close(info_nce(torch.zeros(1, 372, 16), target), torch.full((1, 372), math.log(372)))


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_padding_never_becomes_a_negative(scale: float) -> None:
    counts, (predicted, target) = [11, 1, 5], pair(3, 11, 6)
    padding = torch.arange(11) >= torch.tensor(counts)[:, None]
    losses = info_nce(predicted, target.masked_fill(padding[..., None], scale), padding)
    for clip, count in enumerate(counts):
        alone = info_nce(predicted[clip : clip + 1, :count], target[clip : clip + 1, :count])
        torch.testing.assert_close(losses[clip, :count], alone[0], rtol=1e-5, atol=1e-5)


def test_padding_is_not_counted_and_gives_no_gradient() -> None:
    predicted, target = pair(2, 7, 3)
    predicted.requires_grad_()
    padding = torch.arange(7) >= torch.tensor([7, 4])[:, None]
    losses = info_nce(predicted, target, padding)
    assert (losses[padding] == 0).all()
    losses.sum().backward()
    assert predicted.grad is not None and torch.isfinite(predicted.grad).all()
    assert (predicted.grad[padding] == 0).all() and (predicted.grad[~padding] != 0).all()


def test_a_clip_without_hidden_tokens_gives_zero_and_finite_gradients() -> None:
    predicted, target = pair(2, 5, 3, scale=50)
    predicted.requires_grad_()
    padding = torch.tensor([[True] * 5, [False] * 5])
    losses = info_nce(predicted, target, padding)
    assert (losses[0] == 0).all()
    losses.sum().backward()
    assert predicted.grad is not None and torch.isfinite(predicted.grad).all()
    assert (predicted.grad[0] == 0).all()


def test_no_hidden_token_at_all_gives_an_empty_loss() -> None:
    assert info_nce(torch.zeros(2, 0, 3), torch.zeros(2, 0, 3)).shape == (2, 0)
    assert reconstruction_errors(torch.zeros(2, 0, 3), torch.zeros(2, 0, 3)).shape == (2, 0)


def test_a_mask_of_no_padding_changes_nothing() -> None:
    predicted, target = pair(2, 5, 3)
    torch.testing.assert_close(
        info_nce(predicted, target, torch.zeros(2, 5, dtype=torch.bool)), info_nce(predicted, target)
    )


def test_the_order_of_the_tokens_does_not_matter() -> None:
    predicted, target = pair(2, 9, 4)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(info_nce(predicted[:, order], target[:, order]), info_nce(predicted, target)[:, order])


def test_large_scores_stay_finite() -> None:
    predicted, target = pair(1, 5, 64, scale=1e4)
    assert torch.isfinite(info_nce(predicted, target)).all()


def test_info_nce_is_computed_in_float32_under_autocast() -> None:
    predicted, target = pair(2, 13, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = info_nce(predicted, target)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, info_nce(predicted, target))
    assert info_nce(predicted.bfloat16(), target).dtype == torch.float32


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7)])
def test_the_mean_of_reconstruction_errors_is_the_mean_squared_error(shape: tuple[int, int, int]) -> None:
    predicted, target = pair(*shape)
    errors = reconstruction_errors(predicted, target)
    assert errors.shape == shape[:2]
    torch.testing.assert_close(errors.mean(), F.mse_loss(predicted, target))
    assert reconstruction_errors(predicted.bfloat16(), target).dtype == torch.float32
