"""Attention in windows against a published implementation, and its laws: who sees whom, and what moves with what."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ast_plugin.nn.transformer import TransformerSettings
from mae_ast_plugin.nn.windows import Merging, WindowLayer, distance_numbers, grid_of, windows_of

SMALL = TransformerSettings(num_layers=1, dim=8, ffn_dim=16, num_heads=2, pre_norm=True)


def layer(size: tuple[int, int], window: int, shifted: bool = False, drop_path: float = 0.0) -> WindowLayer:
    """A layer in evaluation mode whose weights are far from their small beginnings."""
    torch.manual_seed(0)
    made = WindowLayer(SMALL, size, window, shifted, drop_path)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return made.eval()


def grid(num_clips: int, size: tuple[int, int], dim: int = SMALL.dim) -> torch.Tensor:
    return torch.randn(num_clips, *size, dim, generator=torch.Generator().manual_seed(num_clips))


def seen_by(made: WindowLayer, row: int, column: int) -> torch.Tensor:
    """Which tokens of a grid the output at a place depends on."""
    x = grid(1, made.size).requires_grad_()
    made(x)[0, row, column].square().sum().backward()
    return x.grad[0].abs().sum(dim=-1) > 1e-12  # type: ignore[index]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_a_grid_cut_into_windows_comes_back(window: int, rows: int, columns: int, num_clips: int) -> None:
    size = (window * rows, window * columns)
    x = grid(num_clips, size)
    windows = windows_of(x, window)
    assert windows.shape == (num_clips * rows * columns, window**2, SMALL.dim)
    assert torch.equal(windows[rows * columns - 1, -1], x[0, -1, -1])
    assert torch.equal(grid_of(windows, size, window), x)


@pytest.mark.parametrize("window", [1, 2, 5])
def test_pairs_of_tokens_share_a_number_where_they_share_a_distance(window: int) -> None:
    numbers, places = distance_numbers(window), [(row, column) for row in range(window) for column in range(window)]
    found: dict[tuple[int, int], set[int]] = {}
    for one, (row, column) in enumerate(places):
        for other, (other_row, other_column) in enumerate(places):
            found.setdefault((row - other_row, column - other_column), set()).add(int(numbers[one, other]))
    assert all(len(each) == 1 for each in found.values())
    assert sorted(number for (number,) in found.values()) == list(range((2 * window - 1) ** 2))


def test_a_token_sees_its_window_and_nothing_else() -> None:
    seen = seen_by(layer((4, 6), 2), row=1, column=3)
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[0:2, 2:4] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize(
    ("place", "rows", "columns"),
    [
        ((3, 5), slice(2, 6), slice(2, 6)),  # a whole window between those of the other layers
        ((0, 5), slice(0, 2), slice(2, 6)),  # half of one: what the roll brings from the other end stays unseen
        ((7, 15), slice(6, 8), slice(14, 16)),
    ],
    ids=["inside", "edge", "corner"],
)
def test_a_shifted_window_lies_across_others_and_ends_where_the_grid_does(
    place: tuple[int, int], rows: slice, columns: slice
) -> None:
    expected = torch.zeros(8, 16, dtype=torch.bool)
    expected[rows, columns] = True
    assert torch.equal(seen_by(layer((8, 16), 4, shifted=True), *place), expected)


@pytest.mark.parametrize(
    ("size", "window", "expected"),
    [((16, 256), 8, (8, 4)), ((8, 128), 8, (8, 0)), ((4, 64), 8, (4, 0)), ((2, 32), 8, (2, 0)), ((32, 2), 8, (2, 0))],
)
def test_a_window_is_no_wider_than_the_grid_and_shifts_on_both_axes_or_none(
    size: tuple[int, int], window: int, expected: tuple[int, int]
) -> None:
    made = layer(size, window, shifted=True)
    assert (made.window, made.shift) == expected
    assert len(made.bias_table) == (2 * expected[0] - 1) ** 2


def test_the_bias_goes_by_distance() -> None:
    made = layer((4, 4), 4)
    with torch.no_grad():
        made.bias_table.fill_(-50.0)
        made.bias_table[made.distances[5, 6]] = 50.0  # all look one column to the right where there is one
        x = grid(1, (4, 4))
        whole = made._mix(x)
        neighbour = made.attention.out(made.attention.qkv(x[:, :, 1:])[..., 2 * SMALL.dim :])
    torch.testing.assert_close(whole[:, :, :-1], neighbour)


@pytest.mark.parametrize("shifted", [False, True])
def test_a_clip_is_the_same_alone_and_in_a_batch(shifted: bool) -> None:
    made, x = layer((8, 16), 4, shifted), grid(3, (8, 16))
    torch.testing.assert_close(made(x)[1:2], made(x[1:2]))


def test_each_half_of_a_layer_is_left_out_for_a_share_of_the_clips() -> None:
    made, x = layer((4, 4), 2, drop_path=0.4).train(), grid(1, (4, 4)).expand(400, -1, -1, -1)
    with torch.no_grad():
        change = made._for_some(x)
    left_out = (change == 0).flatten(1).all(dim=1)
    torch.testing.assert_close(change[~left_out], x[~left_out] / 0.6)
    assert 0.3 < float(left_out.float().mean()) < 0.5
    assert torch.equal(made.eval()._for_some(x), x)


def test_merging_takes_neighbours_frequency_first() -> None:
    made, x = Merging(2, 1e-5), torch.arange(32.0).view(1, 4, 4, 2)
    made.norm = torch.nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        made.reduce.weight.copy_(torch.eye(8)[[0, 2, 4, 6]])
    merged = made(x)
    assert merged.shape == (1, 2, 2, 4)
    corner = [x[0, row, column, 0] for row, column in ((0, 2), (1, 2), (0, 3), (1, 3))]
    assert merged[0, 0, 1].tolist() == [float(value) for value in corner]


@pytest.mark.parametrize("shift", [0, 4], ids=["plain", "shifted"])
@pytest.mark.parametrize("size", [(16, 32), (8, 16), (4, 8)], ids=str)
def test_layers_and_mergings_are_those_of_a_well_known_library(size: tuple[int, int], shift: int) -> None:
    """Given the window and the shift that are chosen here."""
    swin = pytest.importorskip("transformers.models.swin.modeling_swin")
    from transformers import SwinConfig

    made, merging, x = layer(size, 8, shifted=bool(shift)), Merging(SMALL.dim, 1e-5), grid(2, size)
    config = SwinConfig(window_size=made.window, mlp_ratio=2.0, layer_norm_eps=1e-5)
    theirs = swin.SwinLayer(config, SMALL.dim, size, SMALL.num_heads, shift_size=made.shift).eval()
    query, key, value = zip(*(part.chunk(3) for part in made.attention.qkv.parameters()), strict=True)
    own = theirs.attention.self
    parts = {
        theirs.layernorm_before: made.norm1, theirs.layernorm_after: made.norm2, theirs.output.dense: made.fc2,
        theirs.attention.output.dense: made.attention.out, theirs.intermediate.dense: made.fc1,
    }  # fmt: skip
    with torch.no_grad():
        for part, ours in parts.items():
            part.load_state_dict(ours.state_dict())
        for part, (weight, bias) in zip((own.query, own.key, own.value), (query, key, value), strict=True):
            part.load_state_dict({"weight": weight, "bias": bias})
        own.relative_position_bias_table.copy_(made.bias_table)
        expected = theirs(x.flatten(1, 2), size)[0].view_as(x)
        torch.testing.assert_close(made(x), expected, rtol=1e-5, atol=1e-5)
        merge = swin.SwinPatchMerging(size, SMALL.dim)
        merge.reduction.load_state_dict(merging.reduce.state_dict())
        merged = merge(x.flatten(1, 2), size)
    torch.testing.assert_close(merging(x).flatten(1, 2), merged)
