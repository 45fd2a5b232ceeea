"""Positions of tokens: a fixed sinusoid and a convolution over neighbours, which count tokens in the flattened
sequence, and tables that know the grid of patches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from mae_ast_plugin.errors import PlainError


def sinusoid_frequencies(dim: int) -> Tensor:
    """Compute w_k = 10000^(-2k / dim) in float32 as the original did: (dim / 2,)."""
    return torch.exp(torch.arange(0, dim, 2, dtype=torch.float32) * (-math.log(10000.0) / dim))


def sinusoid_rows(position: Tensor, frequency: Tensor) -> Tensor:
    """Compute sin in even and cos in odd columns: float32 positions (N,), frequencies (dim / 2,) -> (N, dim)."""
    angles = position[:, None] * frequency
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def sinusoid_table(num_positions: int, dim: int) -> Tensor:
    """Compute the sinusoid of the first ``num_positions`` tokens: (N, dim)."""
    return sinusoid_rows(torch.arange(num_positions, dtype=torch.float32), sinusoid_frequencies(dim))


class SinusoidPositions(nn.Module):
    """A sinusoid by token index, grown on demand; zero at padded tokens.

    A table that came with a checkpoint may differ from the computed one by its half-precision rounding; once loaded
    through :meth:`load_table` it is used, and saved with the model.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.table: Tensor
        self.register_buffer("table", sinusoid_table(1024, dim), persistent=False)

    def load_table(self, table: Tensor) -> None:
        """Use a stored ``table`` (N, dim) as far as it goes."""
        self.register_buffer("table", table.to(self.table.device, torch.float32).clone(), persistent=True)

    def forward(self, num_tokens: int, padding: Tensor | None = None) -> Tensor:
        """Positions of ``num_tokens`` tokens: (1, N, dim), or (B, N, dim) where ``padding`` (B, N) is given."""
        if num_tokens > self.table.shape[0]:
            longer = sinusoid_table(2 * num_tokens, self.dim).to(self.table)
            longer[: self.table.shape[0]] = self.table
            self.table = longer
        positions = self.table[None, :num_tokens]
        return positions if padding is None else positions.masked_fill(padding[..., None], 0.0)


class ConvPositions(nn.Module):
    """Positions from a grouped, weight-normed convolution over the token sequence: (B, N, dim) -> (B, N, dim)."""

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)
        nn.init.normal_(conv.weight, mean=0.0, std=math.sqrt(4.0 / (kernel * dim)))
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.conv = parametrizations.weight_norm(conv, name="weight", dim=2)
        self.surplus = 1 - kernel % 2

    def forward(self, tokens: Tensor) -> Tensor:
        positions = self.conv(tokens.transpose(1, 2))
        if self.surplus:
            positions = positions[..., : -self.surplus]
        return F.gelu(positions).transpose(1, 2)


def sincos_rows(position: Tensor, dim: int) -> Tensor:
    """Compute sines, then cosines, of positions (N,) at frequencies 10000^(-2k / dim): (N, dim), float64."""
    frequency = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = position.double()[:, None] * frequency
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_grid(num_time: int, num_chan: int, dim: int) -> Tensor:
    """Fixed positions in two dimensions: time in the first half of the width, frequency in the second: (T, C, dim)."""
    time = sincos_rows(torch.arange(num_time), dim // 2)[:, None].expand(-1, num_chan, -1)
    chan = sincos_rows(torch.arange(num_chan), dim // 2)[None].expand(num_time, -1, -1)
    return torch.cat([time, chan], dim=2).float()


def sinusoid_grid(num_time: int, num_chan: int, dim: int) -> Tensor:
    """The interleaved sinusoid of patches counted row of frequency by row of frequency: (T, C, dim)."""
    index = torch.arange(num_time * num_chan, dtype=torch.float64).view(num_chan, num_time).t().flatten()
    frequency = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = index[:, None] * frequency
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).view(num_time, num_chan, dim).float()


def learned_grid(num_time: int, num_chan: int, dim: int) -> Tensor:
    """Where a learned table begins: normal noise of deviation 0.02, (T, C, dim)."""
    return nn.init.trunc_normal_(torch.empty(num_time, num_chan, dim), std=0.02)


class GridPositions(nn.Module):
    """A table of positions by column of time and row of frequency: ``table`` (T, C, dim), ``class_rows`` (K, dim).

    The tokens of a shorter clip take the first columns. ``kind`` is a name of `GRIDS`; only a learned one has
    gradients.
    """

    def __init__(self, kind: str, num_time: int, num_chan: int, dim: int, num_class: int = 0) -> None:
        super().__init__()
        table, class_rows = GRIDS[kind](num_time, num_chan, dim), torch.zeros(num_class, dim)
        self.table: Tensor
        self.class_rows: Tensor
        if kind == "learned":
            self.table = nn.Parameter(table)
            # without rows nothing is trained: a parameter without gradients is one that processes would wait for
            self.class_rows = nn.Parameter(nn.init.trunc_normal_(class_rows, std=0.02), requires_grad=num_class > 0)
        else:
            self.register_buffer("table", table)
            self.register_buffer("class_rows", class_rows)

    @property
    def num_time(self) -> int:
        """Columns that the table has."""
        return self.table.shape[0]

    def forward(self, num_tokens: int) -> Tensor:
        """Positions of the first ``num_tokens`` tokens, time-major: (1, N, dim)."""
        _check_columns(num_tokens // self.table.shape[1], self.num_time)
        return self.table.flatten(0, 1)[None, :num_tokens]


class AxisPositions(nn.Module):
    """Learned positions of time and of frequency that are added: ``time`` (T, dim), ``chan`` (C, dim), class rows."""

    def __init__(self, num_time: int, num_chan: int, dim: int, num_class: int = 0) -> None:
        super().__init__()
        self.time = nn.Parameter(0.02 * torch.randn(num_time, dim))
        self.chan = nn.Parameter(0.02 * torch.randn(num_chan, dim))
        self.class_rows = nn.Parameter(0.02 * torch.randn(num_class, dim), requires_grad=num_class > 0)

    @property
    def num_time(self) -> int:
        """Columns that the table has."""
        return self.time.shape[0]

    def forward(self, num_tokens: int) -> Tensor:
        """Positions of the first ``num_tokens`` tokens, time-major: (1, N, dim)."""
        columns = num_tokens // self.chan.shape[0]
        _check_columns(columns, self.num_time)
        return (self.time[:columns, None] + self.chan).flatten(0, 1)[None]


def _check_columns(wanted: int, there: int) -> None:
    if wanted > there:
        raise PlainError(
            f"a clip has {wanted} columns of patches and the network positions for {there}; crop clips to "
            "task.max_sample_size, embed in shorter windows or set model.max_columns higher"
        )


def resize_grid(table: Tensor, num_time: int, num_chan: int) -> Tensor:
    """Fit a table (T, C, dim) to another grid: the middle of what is longer, interpolation of what is shorter."""
    first = max(0, table.shape[0] // 2 - num_time // 2) if num_time < table.shape[0] else 0
    table = table[first : first + num_time]
    first = max(0, table.shape[1] // 2 - num_chan // 2) if num_chan < table.shape[1] else 0
    table = table[:, first : first + num_chan]
    if table.shape[:2] == (num_time, num_chan):
        return table
    image = table.permute(2, 0, 1)[None]
    resized = F.interpolate(image, size=(num_time, num_chan), mode="bilinear", align_corners=False)
    return resized[0].permute(1, 2, 0)


def resize_axis(table: Tensor, num_rows: int) -> Tensor:
    """Fit a table of one axis (T, dim) to another length: its first rows where it is longer, else interpolation."""
    if num_rows <= table.shape[0]:
        return table[:num_rows]
    return F.interpolate(table.t()[None], size=num_rows, mode="linear", align_corners=False)[0].t()


GRIDS = {"learned": learned_grid, "sincos": sincos_grid, "sinusoid": sinusoid_grid}
