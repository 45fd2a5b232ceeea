"""What published systems built on timm's vision transformer share: names of its blocks, and forms of its tensors.

They count patches row of frequency by row of frequency and the values of a patch likewise; here both run along time
first, so tables, embeddings and heads change their order on the way in and out, and nothing else has to know.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mae_ast_plugin.methods.names import Change, Patterns
from mae_ast_plugin.methods.settings import ModelSettings

Row = tuple[Patterns, Patterns] | tuple[Patterns, Patterns, Change]


def block_rows(theirs: str, ours: str) -> list[Row]:
    """Rows of a stack of blocks, like ``blocks`` and ``encoder.layers``."""
    pairs = {
        "norm1": "norm1",
        "norm2": "norm2",
        "attn.qkv": "attention.qkv",
        "attn.proj": "attention.out",
        "mlp.fc1": "fc1",
        "mlp.fc2": "fc2",
    }
    rows: list[Row] = [(f"{theirs}.{{}}.{a}.{{}}", f"{ours}.{{}}.{b}.{{}}") for a, b in pairs.items()]
    rows += [(f"{theirs}.{{}}.ls{n}.gamma", f"{ours}.{{}}.scale{n}") for n in (1, 2)]
    return rows


def embeds_spectrograms(weight: Tensor | None) -> bool:
    """Whether this is a patch embedding (D, 1, frequency, time) of one channel, which image models have not."""
    return weight is not None and weight.dim() == 4 and weight.shape[1] == 1


def patch_settings(weight: Tensor) -> ModelSettings:
    """What a patch embedding tells: the encoder's width, and the size of patches that lie side by side."""
    width, _, kernel_chan, kernel_time = weight.shape
    return ModelSettings(
        ast_kernel_size_chan=kernel_chan,
        ast_kernel_size_time=kernel_time,
        ast_kernel_stride_chan=kernel_chan,
        ast_kernel_stride_time=kernel_time,
        encoder_embed_dim=width,
    )


def convolution(kernel_time: int, kernel_chan: int) -> Change:
    """The patch embedding: a convolution (D, 1, frequency, time) and a matrix (D, values of a patch)."""
    return Change(
        lambda weight: (weight.permute(0, 3, 2, 1).flatten(1),),
        lambda weight: (weight.unflatten(1, (kernel_time, kernel_chan)).transpose(1, 2)[:, None],),
    )


def patch_values(kernel_time: int, kernel_chan: int) -> Change:
    """A head's weight (values, D) or bias (values,): the values of a patch by frequency first, and by time first."""
    return Change(
        lambda tensor: (tensor.unflatten(0, (kernel_chan, kernel_time)).transpose(0, 1).flatten(0, 1),),
        lambda tensor: (tensor.unflatten(0, (kernel_time, kernel_chan)).transpose(0, 1).flatten(0, 1),),
    )


def position_table(num_chan: int, num_class: int) -> Change:
    """A table (1, K + C T, D) of class tokens, then patches; and ours (T, C, D) with the class tokens' rows (K, D)."""

    def to_ours(table: Tensor) -> tuple[Tensor, Tensor]:
        rows = table[0, num_class:].unflatten(0, (num_chan, -1)).transpose(0, 1)
        return rows.contiguous(), table[0, :num_class]

    def to_theirs(table: Tensor, class_rows: Tensor) -> tuple[Tensor]:
        return (torch.cat([class_rows, table.transpose(0, 1).flatten(0, 1)])[None],)

    return Change(to_ours, to_theirs)


def joined_tokens(count: int) -> Change:
    """Class tokens, (1, 1, D) each, and ours (K, D)."""
    return Change(
        lambda *tokens: (torch.cat([token.reshape(1, -1) for token in tokens]),),
        lambda tokens: tuple(token.reshape(1, 1, -1) for token in tokens),
    )


VECTOR = Change(lambda token: (token.flatten(),), lambda token: (token.reshape(1, 1, -1),))
"""A mask token (1, 1, D), and ours (D,)."""
