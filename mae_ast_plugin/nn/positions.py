"""Positions of tokens: a fixed sinusoid and a convolution over neighbours. Both count tokens in the flattened
sequence.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations


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
