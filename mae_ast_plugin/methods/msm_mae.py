"""MSM-MAE: Masked Spectrogram Modeling using Masked Autoencoders (Niizumi, Takeuchi, Ohishi, Harada, Kashino 2022,
https://arxiv.org/abs/2204.12260).

The image MAE on log-mel spectrograms: a ViT sees the visible quarter of the patches, a narrow decoder reconstructs the
rest. Sizes that the tensors do not tell stand in the name of the folder that a published file lies in.
``docs/methods/msm_mae.md`` says more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.method import Foreign, Method
from mae_ast_plugin.methods.names import Change, NameTable
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings
from mae_ast_plugin.methods.vit import VECTOR as MASK_TOKEN
from mae_ast_plugin.methods.vit import Row, block_rows, convolution, joined_tokens, patch_values, position_table
from mae_ast_plugin.nn.positions import sincos_grid

HEAD_WIDTH = 64
NUM_BINS = 80  # of every published file
RUN_NAME = re.compile(r"(\d+)x(\d+)p(\d+)x(\d+)(?:p[^_]*)?(?:_.*)?")
"""``80x208p16x16_anything``: mel bins x frames p height x width of a patch; a third part was never used."""


def settings(found: Foreign) -> tuple[ModelSettings, TaskSettings]:
    """Read sizes off the shapes, the folder's name and the stored arguments; heads are 64 wide, as in all published
    files.
    """
    tensors = found.tensors
    width, _, kernel_chan, kernel_time = tensors["patch_embed.proj.weight"].shape
    decoder_width = tensors["decoder_embed.weight"].shape[0]
    num_class = int(found.has("cls_token"))
    num_bins, columns = _grid(found, tensors["pos_embed"].shape[1] - num_class, kernel_chan, kernel_time)
    model = ModelSettings(
        ast_kernel_size_chan=kernel_chan,
        ast_kernel_size_time=kernel_time,
        ast_kernel_stride_chan=kernel_chan,
        ast_kernel_stride_time=kernel_time,
        encoder_layers=found.count("blocks"),
        encoder_embed_dim=width,
        encoder_ffn_embed_dim=tensors["blocks.0.mlp.fc1.bias"].shape[0],
        encoder_attention_heads=max(1, width // HEAD_WIDTH),
        use_post_enc_proj=True,
        decoder_layers=found.count("decoder_blocks"),
        decoder_embed_dim=decoder_width,
        decoder_ffn_embed_dim=tensors["decoder_blocks.0.mlp.fc1.bias"].shape[0],
        decoder_attention_heads=max(1, decoder_width // HEAD_WIDTH),
        layer_norm_first=True,
        norm_eps=1e-6,
        weight_init="xavier",
        class_tokens=num_class,
        enc_sine_pos=False,
        dec_sine_pos=False,
        enc_table_pos="sincos",
        dec_table_pos=_decoder_positions(tensors["decoder_pos_embed"], num_bins // kernel_chan, num_class),
        max_columns=columns,
        input_norm="clip",
        two_heads=False,
        standard_targets=bool(_argument(found, "norm_pix_loss")),
        window_columns=columns,
        fill_windows=True,
        random_mask_prob=_argument(found, "mask_ratio") or 0.75,
        dropout=0.0,
        attention_dropout=0.0,
    )
    return model, TaskSettings(feature_type="slaney_mel", feature_dim=num_bins, mask_type="random_mask")


def _grid(found: Foreign, num_tokens: int, kernel_chan: int, kernel_time: int) -> tuple[int, int]:
    """Mel bins and columns of patches; a PlainError where nothing that is known fits the number of positions."""
    for num_bins, columns in _candidates(found, num_tokens, kernel_chan, kernel_time):
        if num_bins % kernel_chan == 0 and num_bins // kernel_chan * columns == num_tokens:
            return num_bins, columns
    raise PlainError(
        f"its {num_tokens} positions are no grid of patches of {NUM_BINS} mel bins; "
        f"let it lie in a folder named like the original's run, for example 80x208p{kernel_chan}x{kernel_time}_name"
    )


def _candidates(found: Foreign, num_tokens: int, kernel_chan: int, kernel_time: int) -> Iterator[tuple[int, int]]:
    """What the folder is called, what the stored arguments say, what is usual."""
    named = RUN_NAME.fullmatch(Path(found.path).absolute().parent.name)
    if named and (int(named[3]), int(named[4])) == (kernel_chan, kernel_time):
        yield int(named[1]), int(named[2]) // kernel_time
    match _argument(found, "input_size"):
        case [int(num_bins), int(num_frames)]:
            yield num_bins, num_frames // kernel_time
    if kernel_chan <= NUM_BINS:
        yield NUM_BINS, num_tokens // (NUM_BINS // kernel_chan)


def _argument(found: Foreign, name: str) -> Any:
    """An option of the training that wrote the file, where it is stored."""
    arguments = found.rest.get("args")
    return arguments.get(name) if isinstance(arguments, Mapping) else getattr(arguments, name, None)


def _decoder_positions(stored: Tensor, num_chan: int, num_class: int) -> str:
    """Which table the decoder has; it is used as it is stored, and only a new training asks for its rule."""
    table, _ = position_table(num_chan, num_class).to_ours(stored)
    is_grid = table.shape[2] % 4 == 0 and torch.allclose(table.float(), sincos_grid(*table.shape), atol=1e-2)
    return "sincos" if is_grid else "sinusoid"


BIAS_WITHOUT_KEYS = Change(
    lambda query, value: (torch.cat([query, torch.zeros_like(query), value]),),
    lambda bias: (bias.chunk(3)[0], bias.chunk(3)[2]),
)
"""Offsets of queries and of values, and ours of queries, keys and values: one of keys never changes the attention."""


def _block_rows(theirs: str, ours: str) -> list[Row]:
    rows = [row for row in block_rows(theirs, ours) if "attn.qkv" not in row[0]]
    biases = (f"{theirs}.{{}}.attn.q_bias", f"{theirs}.{{}}.attn.v_bias")
    return [
        *rows,
        (f"{theirs}.{{}}.attn.qkv.weight", f"{ours}.{{}}.attention.qkv.weight"),
        (biases, f"{ours}.{{}}.attention.qkv.bias", BIAS_WITHOUT_KEYS),
    ]


def names(model: ModelSettings, task: TaskSettings) -> NameTable:
    """The published names."""
    kernel = (model.ast_kernel_size_time, model.ast_kernel_size_chan)
    table = position_table(task.feature_dim // model.ast_kernel_size_chan, model.class_tokens)
    tables: list[Row] = [
        (theirs, (f"{ours}.grid.table", f"{ours}.grid.class_rows"), table)
        for theirs, ours in (("pos_embed", "encoder_positions"), ("decoder_pos_embed", "decoder_positions"))
    ]
    return NameTable(
        rows=[
            ("patch_embed.proj.weight", "embed.weight", convolution(*kernel)),
            ("patch_embed.proj.bias", "embed.bias"),
            ("cls_token", "class_tokens", joined_tokens(1)),
            ("mask_token", "decoder_mask_token", MASK_TOKEN),
            *tables,
            *_block_rows("blocks", "encoder.layers"),
            ("norm.{}", "encoder.norm.{}"),
            ("decoder_embed.{}", "bridge.{}"),
            *_block_rows("decoder_blocks", "decoder.layers"),
            ("decoder_norm.{}", "decoder.norm.{}"),
            ("decoder_pred.weight", "reconstruct.weight", patch_values(*kernel)),
            ("decoder_pred.bias", "reconstruct.bias", patch_values(*kernel)),
        ]
    )


METHOD = Method(
    title="MSM-MAE",
    recognises=lambda found: found.has("blocks.0.attn.q_bias", "decoder_blocks.0.attn.q_bias", "decoder_pos_embed"),
    settings=settings,
    names=names,
)
