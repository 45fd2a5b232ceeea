"""Positions: the sinusoid against its formula, tables from checkpoints, and the reach of the convolution."""

from __future__ import annotations

import math

import pytest
import torch

from mae_ast_plugin.nn.positions import ConvPositions, SinusoidPositions, resize_axis, sinusoid_table


def formula(position: int, column: int, dim: int) -> float:
    angle = position * 10000 ** (-(column // 2 * 2) / dim)
    return math.cos(angle) if column % 2 else math.sin(angle)


@pytest.mark.parametrize("dim", [2, 6, 768])
def test_the_table_is_the_formula(dim: int) -> None:
    table = sinusoid_table(1000, dim)
    for position in (0, 1, 2, 97, 999):
        for column in range(0, dim, max(1, dim // 7)):
            assert abs(float(table[position, column]) - formula(position, column, dim)) < 1e-4


def test_the_first_position_is_sine_and_cosine_of_zero() -> None:
    assert sinusoid_table(1, 6).tolist() == [[0, 1, 0, 1, 0, 1]]


def test_positions_grow_on_demand_and_keep_their_rows() -> None:
    positions = SinusoidPositions(8)
    short = positions(1)
    assert short.shape == (1, 1, 8)
    for num_tokens in (1024, 1025, 5003, 7):
        grown = positions(num_tokens)
        assert grown.shape == (1, num_tokens, 8)
        torch.testing.assert_close(grown[0], sinusoid_table(num_tokens, 8), rtol=0, atol=0)


def test_a_computed_table_is_not_saved() -> None:
    positions = SinusoidPositions(4)
    positions(3000)
    assert positions.state_dict() == {}


@pytest.mark.parametrize("num_rows", [1, 5, 2000])
def test_a_loaded_table_is_used_and_saved(num_rows: int) -> None:
    table = torch.randn(num_rows, 4, generator=torch.Generator().manual_seed(1))
    positions = SinusoidPositions(4)
    positions.load_table(table)
    assert torch.equal(positions(num_rows)[0], table)
    assert torch.equal(positions.state_dict()["table"], table)


def test_beyond_a_loaded_table_the_formula_goes_on() -> None:
    table = sinusoid_table(5, 4).half().float()
    positions = SinusoidPositions(4)
    positions.load_table(table)
    longer = positions(11)[0]
    assert torch.equal(longer[:5], table)
    assert torch.equal(longer[5:], sinusoid_table(11, 4)[5:])


def test_a_loaded_table_is_a_copy_in_float32() -> None:
    table = sinusoid_table(5, 4).half()
    positions = SinusoidPositions(4)
    positions.load_table(table)
    table.zero_()
    assert positions.table.dtype == torch.float32
    torch.testing.assert_close(positions(5)[0], sinusoid_table(5, 4), rtol=0, atol=1e-3)


def test_positions_are_zero_at_padding_and_the_same_elsewhere() -> None:
    padding = torch.tensor([[False] * 5, [False, True, True, True, True]])
    positions = SinusoidPositions(6)
    with_padding = positions(5, padding)
    assert with_padding.shape == (2, 5, 6)
    assert (with_padding[padding] == 0).all()
    assert torch.equal(with_padding[~padding], positions(5).expand(2, -1, -1)[~padding])


@pytest.mark.parametrize("kernel", [1, 2, 3, 8, 128])
@pytest.mark.parametrize("num_tokens", [1, 2, 31])
def test_convolutional_positions_keep_the_number_of_tokens(kernel: int, num_tokens: int) -> None:
    assert ConvPositions(8, kernel, groups=4)(torch.randn(1, num_tokens, 8)).shape == (1, num_tokens, 8)


@pytest.mark.parametrize("kernel", [1, 2, 5, 8])
def test_a_token_reaches_exactly_the_tokens_under_the_kernel(kernel: int) -> None:
    positions = ConvPositions(4, kernel, groups=2)
    x = torch.randn(1, 23, 4, generator=torch.Generator().manual_seed(0))
    moved = x.clone()
    moved[0, 11] += 10
    changed = (positions(x) != positions(moved))[0].any(dim=1).nonzero().flatten().tolist()
    # output i sees the inputs i - kernel // 2 ... i - kernel // 2 + kernel - 1
    assert changed == [i for i in range(23) if i - kernel // 2 <= 11 <= i - kernel // 2 + kernel - 1]


def test_every_step_of_the_kernel_has_its_own_length() -> None:
    """The norm of weight normalisation runs over all but the kernel's dimension, as in the published tensors."""
    positions = ConvPositions(6, 3, groups=2)
    shapes = {name.rsplit(".", 1)[-1]: tuple(value.shape) for name, value in positions.state_dict().items()}
    assert shapes == {"bias": (6,), "original0": (1, 1, 3), "original1": (6, 3, 3)}


def test_an_axis_keeps_its_first_rows_or_is_interpolated() -> None:
    table = torch.arange(4.0)[:, None].expand(-1, 3)
    assert torch.equal(resize_axis(table, 4), table)
    assert torch.equal(resize_axis(table, 2), table[:2])
    longer = resize_axis(table, 8)
    assert longer.shape == (8, 3)
    assert longer[:, 0].tolist() == [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]
