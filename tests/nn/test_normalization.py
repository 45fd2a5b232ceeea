"""The input's normalisation against torch's BatchNorm with one channel, and padding that does not count."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mae_ast_plugin.nn.normalization import ClipNorm, InputNorm


def log_mel(num_clips: int, num_frames: int, num_bins: int, seed: int = 0) -> torch.Tensor:
    """Values about as large as log-mel energies are, so that rounding counts."""
    noise = torch.randn(num_clips, num_frames, num_bins, generator=torch.Generator().manual_seed(seed))
    return 4 * noise - 9


def trained(norm: InputNorm, seed: int = 9) -> InputNorm:
    norm.train()(log_mel(2, 5, 3, seed))
    return norm


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 31, 7), (5, 13, 128)])
def test_training_and_evaluation_equal_torchs_batch_norm_times_a_half(shape: tuple[int, int, int]) -> None:
    ours, theirs = InputNorm(), nn.BatchNorm2d(1, affine=False)
    for seed in range(4):
        x = log_mel(*shape, seed)
        torch.testing.assert_close(ours(x), 0.5 * theirs(x[:, None])[:, 0], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-6)
    ours.eval()
    theirs.eval()
    x = log_mel(*shape, seed=99)
    torch.testing.assert_close(ours(x), 0.5 * theirs(x[:, None])[:, 0], rtol=1e-5, atol=2e-5)


def test_evaluation_leaves_the_running_statistics_alone() -> None:
    norm = trained(InputNorm()).eval()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    norm(log_mel(3, 4, 5))
    torch.testing.assert_close(norm.state_dict(), before, rtol=0, atol=0)


def test_statistics_with_padding_are_those_of_the_clips_own_frames() -> None:
    lengths = [1, 7, 11, 4]
    batch, padding = log_mel(4, 11, 6), torch.arange(11) >= torch.tensor(lengths)[:, None]
    own = batch[~padding][None]  # (1, frames of all clips, F)
    padded_norm, plain_norm = InputNorm(), InputNorm()
    torch.testing.assert_close(padded_norm(batch, padding)[~padding][None], plain_norm(own))
    torch.testing.assert_close(padded_norm.state_dict(), plain_norm.state_dict())


def test_what_stands_in_padding_changes_nothing() -> None:
    batch, padding = log_mel(2, 7, 5), torch.tensor([[False] * 7, [False] * 3 + [True] * 4])
    other = batch.masked_fill(padding[..., None], 1e4)
    first, second = InputNorm(), InputNorm()
    assert torch.equal(first(batch, padding)[~padding], second(other, padding)[~padding])
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)


def test_the_order_of_the_clips_does_not_matter() -> None:
    batch = log_mel(5, 3, 4)
    torch.testing.assert_close(InputNorm()(batch.flip(0)).flip(0), InputNorm()(batch))


def test_without_padding_a_mask_of_no_padding_gives_the_same() -> None:
    batch = log_mel(2, 3, 4)
    torch.testing.assert_close(InputNorm()(batch, torch.zeros(2, 3, dtype=torch.bool)), InputNorm()(batch))


@pytest.mark.parametrize("value", [-15.942385, 0.0])
def test_a_constant_input_gives_finite_zeros_in_training(value: float) -> None:
    norm = InputNorm()
    normalized = norm(torch.full((2, 3, 4), value))
    torch.testing.assert_close(normalized, torch.zeros(2, 3, 4), rtol=0, atol=1e-3)
    assert torch.isfinite(norm.running_var).all()


def test_one_single_value_gives_finite_statistics() -> None:
    norm = InputNorm()
    assert torch.isfinite(norm(torch.ones(1, 1, 1))).all()
    assert torch.isfinite(norm.running_var).all() and torch.isfinite(norm.running_mean).all()


def test_arithmetic_is_float32_under_autocast() -> None:
    batch = log_mel(2, 3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        normalized = InputNorm()(batch)
    assert normalized.dtype == torch.float32
    torch.testing.assert_close(normalized, InputNorm()(batch))


def test_the_statistics_carry_no_gradient() -> None:
    batch = log_mel(2, 3, 4).requires_grad_()
    norm = InputNorm()
    norm(batch).sum().backward()
    assert not norm.running_mean.requires_grad
    assert batch.grad is not None and torch.isfinite(batch.grad).all()


def test_the_scale_multiplies_the_result() -> None:
    batch = log_mel(2, 3, 4)
    torch.testing.assert_close(InputNorm(scale=1.0)(batch), 2 * InputNorm(scale=0.5)(batch))


# ---- each clip by itself


def test_each_clip_has_mean_0_and_deviation_1() -> None:
    normalized = ClipNorm()(log_mel(3, 11, 7) * torch.tensor([0.1, 1.0, 5.0])[:, None, None])
    torch.testing.assert_close(normalized.mean(dim=(1, 2)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalized.std(dim=(1, 2)), torch.ones(3), atol=1e-5, rtol=0)


def test_the_company_of_a_clip_does_not_matter() -> None:
    lengths = [1, 7, 11, 4]
    batch, padding = log_mel(4, 11, 6), torch.arange(11) >= torch.tensor(lengths)[:, None]
    together = ClipNorm()(batch.masked_fill(padding[..., None], 1e4), padding)
    for row, length in enumerate(lengths):
        alone = ClipNorm()(batch[row : row + 1, :length])
        torch.testing.assert_close(together[row : row + 1, :length], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 1, 1)])
def test_a_clip_of_one_value_becomes_zeros(shape: tuple[int, int, int]) -> None:
    assert torch.equal(ClipNorm()(torch.full(shape, -15.942385)), torch.zeros(shape))


def test_a_clip_of_padding_only_stays_finite() -> None:
    assert torch.isfinite(ClipNorm()(log_mel(1, 3, 4), torch.ones(1, 3, dtype=torch.bool))).all()


def test_training_and_evaluation_normalise_a_clip_alike_and_nothing_is_saved() -> None:
    norm = ClipNorm()
    assert torch.equal(norm.train()(log_mel(2, 3, 4)), norm.eval()(log_mel(2, 3, 4)))
    assert norm.state_dict() == {}
