"""Blocked attention against torch's, with the same weights dropped."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mae_ast_plugin.nn import attention as module
from mae_ast_plugin.nn.attention import attention
from mae_ast_plugin.nn.dropout import keep_mask, kept_share

CLIPS, HEADS, TOKENS, DIM, RATE = 3, 4, 10, 6, 0.3


def inputs(num_queries: int = TOKENS, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = [(CLIPS, HEADS, count, DIM) for count in (num_queries, TOKENS, TOKENS)]
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def padded() -> Tensor:
    """True at keys that may be seen: all, seven and one of the three clips'."""
    return (torch.arange(TOKENS) < torch.tensor([TOKENS, 7, 1])[:, None])[:, None, None]


def by_the_book(query: Tensor, key: Tensor, value: Tensor, attend: Tensor | None) -> Tensor:
    """Whole matrices, and the mask that the generator's state gives."""
    scores = query @ key.transpose(-2, -1) / DIM**0.5
    if attend is not None:
        scores = scores.masked_fill(~attend, float("-inf"))
    kept = keep_mask(scores.shape, RATE)
    return (scores.softmax(dim=-1) * kept / kept_share(RATE)) @ value


@pytest.mark.parametrize("attend", [None, padded()], ids=["whole", "padded"])
@pytest.mark.parametrize("num_queries", [TOKENS, 4])
@pytest.mark.parametrize("block", [1, 2 * TOKENS * TOKENS, 1 << 30], ids=["a head", "two heads", "all at once"])
def test_output_and_gradients_are_those_of_whole_matrices(
    monkeypatch: pytest.MonkeyPatch, attend: Tensor | None, num_queries: int, block: int
) -> None:
    monkeypatch.setattr(module, "BLOCK_SCORES", block)
    above = torch.randn(CLIPS, HEADS, num_queries, DIM, dtype=torch.float64)
    results = []
    for way in (lambda *parts: attention(*parts, attend, RATE), lambda *parts: by_the_book(*parts, attend)):
        parts = inputs(num_queries)
        torch.manual_seed(5)
        mixed = way(*parts)
        results.append([mixed, *torch.autograd.grad(mixed, parts, above)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=2e-5, atol=2e-6)  # weights are float32


def test_without_dropout_it_is_torchs() -> None:
    query, key, value = inputs(dtype=torch.float32)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=padded())
    torch.testing.assert_close(attention(query, key, value, padded(), 0.0), expected)


def test_hardly_any_dropout_is_hardly_anything() -> None:
    query, key, value = inputs(dtype=torch.float32)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(attention(query, key, value, None, 1e-7), expected)


def test_a_clip_of_padding_alone_stays_finite() -> None:
    parts = inputs(dtype=torch.float32)
    attend = torch.tensor([True, False, True])[:, None, None, None].expand(-1, 1, 1, TOKENS)
    mixed = attention(*parts, attend, RATE)
    gradients = torch.autograd.grad(mixed.square().sum(), parts)
    assert all(bool(part.isfinite().all()) for part in (mixed, *gradients))


def test_half_precision_stays_and_is_near() -> None:
    single, half = inputs(dtype=torch.float32), inputs(dtype=torch.bfloat16)
    results = []
    for parts in (single, half):
        torch.manual_seed(5)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=parts is half):
            mixed = attention(*parts, padded(), RATE)
        results.append([mixed, *torch.autograd.grad(mixed.float().square().sum(), parts)])
    assert {part.dtype for part in results[1]} == {torch.bfloat16}
    for exact, near in zip(*results, strict=True):
        assert float((exact - near.float()).detach().norm() / exact.detach().norm()) < 0.05


@pytest.mark.parametrize("rate", [RATE, 0.999999])
def test_no_queries_and_no_weights_that_are_kept_give_finite_numbers(rate: float) -> None:
    assert attention(*inputs(0), None, rate).shape == (CLIPS, HEADS, 0, DIM)
    assert bool(attention(*inputs(), None, rate).isfinite().all())
