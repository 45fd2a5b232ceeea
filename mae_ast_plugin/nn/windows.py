"""Attention within square windows of a grid of tokens, and the merging of 2 x 2 tokens into one.

The parts of a hierarchy (Liu et al. 2021, https://arxiv.org/abs/2103.14030). A layer is the transformer's own, run on
each window, with a learned bias for the distance of two tokens. Grids are (B, R, C, D): rows of frequency, columns of
time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mae_ast_plugin.nn.transformer import TransformerLayer, TransformerSettings

BIAS_STD = 0.02
APART = -100.0  # added to the scores of tokens that only the roll of the grid made neighbours


def distance_numbers(window: int) -> Tensor:
    """Number the distances (rows, columns) of the tokens of a window: (n, n) below (2 window - 1)², n = window²."""
    place = torch.arange(window)
    row, column = place.repeat_interleave(window), place.repeat(window)
    span = 2 * window - 1
    return (row[:, None] - row + window - 1) * span + column[:, None] - column + window - 1


def separation(size: tuple[int, int], window: int, shift: int) -> Tensor:
    """What is added to the scores of a grid rolled by ``shift``: 0 among old neighbours, else `APART`; (W, n, n)."""
    rows, columns = (_regions(side, window, shift) for side in size)
    parts = windows_of((3 * rows[:, None] + columns)[None, ..., None], window)[..., 0]
    return (parts[:, :, None] != parts[:, None, :]).float() * APART


def _regions(side: int, window: int, shift: int) -> Tensor:
    """What the roll leaves on one axis: 0 in whole windows, 1 and 2 in the two parts of the last one; (side,)."""
    place = torch.arange(side)
    return (place >= side - window).long() + (place >= side - shift).long()


def windows_of(grid: Tensor, window: int) -> Tensor:
    """Cut a grid (B, R, C, D) into windows (B W, n, D), row of windows by row of windows."""
    # (B, R / w, w, C / w, w, D) -> (B, R / w, C / w, w, w, D)
    cells = grid.unflatten(2, (-1, window)).unflatten(1, (-1, window)).transpose(2, 3)
    return cells.flatten(3, 4).flatten(0, 2)


def grid_of(windows: Tensor, size: tuple[int, int], window: int) -> Tensor:
    """Undo :func:`windows_of` for a grid of ``size`` (R, C)."""
    rows, columns = size[0] // window, size[1] // window
    cells = windows.unflatten(0, (-1, rows, columns)).unflatten(3, (window, window)).transpose(2, 3)
    return cells.flatten(3, 4).flatten(1, 2)


class WindowLayer(TransformerLayer):
    """A pre-norm layer whose tokens see those of their window: (B, R, C, D) -> (B, R, C, D).

    A window is as wide as the smaller side of the grid at most, and then none is ``shifted``: by half a window on both
    axes, so that the windows of two layers overlap. ``drop_path`` is the share of clips for which each half of the
    layer is left out in training.
    """

    def __init__(
        self, settings: TransformerSettings, size: tuple[int, int], window: int, shifted: bool, drop_path: float
    ) -> None:
        super().__init__(settings)
        self.size, self.window, self.drop_path = size, min(window, *size), drop_path
        self.shift = window // 2 if shifted and window < min(size) else 0
        self.bias_table = nn.Parameter(torch.empty((2 * self.window - 1) ** 2, settings.num_heads))
        nn.init.trunc_normal_(self.bias_table, std=BIAS_STD)
        self.distances: Tensor
        self.separation: Tensor | None
        self.register_buffer("distances", distance_numbers(self.window), persistent=False)
        apart = separation(size, self.window, self.shift) if self.shift else None
        self.register_buffer("separation", apart, persistent=False)

    def forward(self, grid: Tensor) -> Tensor:  # type: ignore[override]
        grid = grid + self._for_some(self._mix(self.norm1(grid)))
        return grid + self._for_some(self._feed_forward(self.norm2(grid)))

    def _mix(self, grid: Tensor) -> Tensor:
        rolled = grid.roll((-self.shift, -self.shift), (1, 2)) if self.shift else grid
        windows = windows_of(rolled, self.window)
        mixed = grid_of(self._attend(windows, self._bias(grid.shape[0]), None), self.size, self.window)
        return mixed.roll((self.shift, self.shift), (1, 2)) if self.shift else mixed

    def _bias(self, num_clips: int) -> Tensor:
        """What is added to the scores: (1, H, n, n), or (B W, H, n, n) where the windows differ."""
        bias = self.bias_table[self.distances].permute(2, 0, 1)[None]
        if self.separation is None:
            return bias
        return (bias + self.separation[:, None]).repeat(num_clips, 1, 1, 1)

    def _for_some(self, change: Tensor) -> Tensor:
        """Leave a change (B, ...) out for some clips, and enlarge it for the others by as much."""
        if not self.training or not self.drop_path:
            return change
        stays = torch.rand(change.shape[0], 1, 1, 1, device=change.device) >= self.drop_path
        return change * stays / (1 - self.drop_path)


class Merging(nn.Module):
    """Make one token of twice the width of each 2 x 2: (B, R, C, D) -> (B, R / 2, C / 2, 2 D)."""

    def __init__(self, dim: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, norm_eps)
        self.reduce = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, grid: Tensor) -> Tensor:
        # the rows of a column side by side, then the next column
        neighbours = [grid[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduce(self.norm(torch.cat(neighbours, dim=-1)))  # type: ignore[no-any-return]
