"""MaskSpec: Masked Spectrogram Prediction (Chong, Wang, Zhou, Zeng 2023, https://arxiv.org/abs/2204.12768).

The image MAE on 32 kHz log-mel spectrograms: the encoder sees a quarter of the patches, a narrower decoder predicts
each hidden one, brought to mean 0 and variance 1. Pretrained files are read, and of classifiers the encoder. Its other
variant is in ``maskspec_swin.py``; ``docs/methods/maskspec.md`` says more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.method import Foreign, Method
from mae_ast_plugin.methods.names import NameTable
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings
from mae_ast_plugin.methods.statistics import TABLES
from mae_ast_plugin.methods.vit import VECTOR as MASK_TOKEN
from mae_ast_plugin.methods.vit import (
    Row,
    block_rows,
    convolution,
    embeds_spectrograms,
    joined_tokens,
    patch_settings,
    patch_values,
    position_table,
)
from mae_ast_plugin.nn.positions import sincos_grid

SAMPLE_RATE = 32000
HEAD_WIDTH, DECODER_HEAD_WIDTH = 64, 32
NUM_BINS = 128  # of every published ViT; no file stores it
ALIKE = 0.9
# The files hold no statistics of the input, and are of no use without: a table of the published ones comes with the
# program. They were measured on MP3, in which nothing is left above 11 kHz, and no other sound may be there either.
STATISTICS = "audioset_32khz_{}"
FEATURES = "emphasised_mel_11khz"


def settings(found: Foreign) -> tuple[ModelSettings, TaskSettings]:
    """Read sizes off the shapes; heads are 64 wide, those of a decoder 32, as in all published files."""
    num_bins = _num_bins(found)
    if STATISTICS.format(num_bins) not in TABLES:
        raise PlainError(f"its patches are of {num_bins} mel bins, of which no published mean and deviation are known")
    return settings_for(found, num_bins)


def settings_for(found: Foreign, num_bins: int) -> tuple[ModelSettings, TaskSettings]:
    """Settings of a file whose number of mel bins is known."""
    tensors = found.tensors
    patches = patch_settings(tensors["patch_embed.proj.weight"])
    columns = (tensors["pos_embed"].shape[1] - 1) // (num_bins // patches.ast_kernel_size_chan)
    statistics = STATISTICS.format(num_bins)
    model = replace(
        patches,
        encoder_layers=found.count("blocks"),
        encoder_ffn_embed_dim=tensors["blocks.0.mlp.fc1.bias"].shape[0],
        encoder_attention_heads=max(1, patches.encoder_embed_dim // HEAD_WIDTH),
        layer_norm_first=True,
        norm_eps=1e-6,
        weight_init="xavier",
        class_tokens=1,
        enc_sine_pos=False,
        dec_sine_pos=False,
        max_columns=columns,
        window_columns=columns,
        input_norm="fixed",
        input_statistics=statistics if statistics in TABLES else "",
        two_heads=False,
        dropout=0.0,
        attention_dropout=0.0,
    )
    task = TaskSettings(sample_rate=SAMPLE_RATE, feature_type=FEATURES, feature_dim=num_bins, mask_type="random_mask")
    return (_with_decoder(model, found) if found.has("decoder_embed.weight") else _encoder_alone(model, found)), task


def _with_decoder(model: ModelSettings, found: Foreign) -> ModelSettings:
    width = found.tensors["decoder_embed.weight"].shape[0]
    norm_pix_loss = argument(found, "norm_pix_loss")
    return replace(
        model,
        use_post_enc_proj=True,
        decoder_layers=found.count("decoder_blocks"),
        decoder_embed_dim=width,
        decoder_ffn_embed_dim=found.tensors["decoder_blocks.0.mlp.fc1.bias"].shape[0],
        decoder_attention_heads=max(1, width // DECODER_HEAD_WIDTH),
        enc_table_pos="sincos",
        dec_table_pos="sincos",
        standard_targets=True if norm_pix_loss is None else bool(norm_pix_loss),
        random_mask_prob=argument(found, "mask_ratio") or 0.75,
    )


def _encoder_alone(model: ModelSettings, found: Foreign) -> ModelSettings:
    """A classifier: its positions were trained on; one that averages tokens has its norm behind the average."""
    return replace(
        model,
        embeds_only=True,
        decoder_layers=0,
        decoder_embed_dim=model.encoder_embed_dim,
        enc_table_pos="learned",
        encoder_norm=found.has("norm.weight"),
    )


def argument(found: Foreign, name: str) -> Any:
    """An option of the training that wrote the file, where it is stored."""
    arguments = found.rest.get("args")
    return arguments.get(name) if isinstance(arguments, Mapping) else getattr(arguments, name, None)


def _num_bins(found: Foreign) -> int:
    """Tell the mel bins by the positions: the grid whose sine-cosine table they are, or were before fine-tuning."""
    table, kernel_chan = found.tensors["pos_embed"][0, 1:].float(), found.tensors["patch_embed.proj.weight"].shape[2]
    rows = [rows for rows in range(1, len(table) + 1) if len(table) % rows == 0]
    likeness, best = max(((_likeness(table, count), count) for count in rows), default=(0.0, 0))
    if likeness > ALIKE:
        return best * kernel_chan
    if NUM_BINS // kernel_chan in rows:
        return NUM_BINS
    raise PlainError(f"its {len(table)} positions are no grid of patches of {NUM_BINS} mel bins")


def _likeness(table: Tensor, num_chan: int) -> float:
    """Cosine of a table (N, D), row of frequency by row of frequency, and the sine-cosine table of such a grid."""
    if table.shape[1] % 4:
        return 0.0
    expected = sincos_grid(len(table) // num_chan, num_chan, table.shape[1]).transpose(0, 1)
    return float(torch.cosine_similarity(expected.flatten(), table.flatten(), dim=0))


def names(model: ModelSettings, task: TaskSettings) -> NameTable:
    """The published names; what a classifier has behind its encoder has no counterpart."""
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
            *block_rows("blocks", "encoder.layers"),
            ("norm.{}", "encoder.norm.{}"),
            ("decoder_embed.{}", "bridge.{}"),
            *block_rows("decoder_blocks", "decoder.layers"),
            ("decoder_norm.{}", "decoder.norm.{}"),
            ("decoder_pred.weight", "reconstruct.weight", patch_values(*kernel)),
            ("decoder_pred.bias", "reconstruct.bias", patch_values(*kernel)),
        ],
        unused=["fc_norm.{}", "head.{}"] if model.embeds_only else [],
    )


def _recognises(found: Foreign) -> bool:
    if not embeds_spectrograms(found.tensors.get("patch_embed.proj.weight")):
        return False
    pretrained = found.has("decoder_pos_embed", "decoder_blocks.0.attn.qkv.bias")
    classifier = found.has("head.weight") and (found.has("fc_norm.weight") or found.has("norm.weight"))
    return found.has("cls_token", "pos_embed", "blocks.0.attn.qkv.bias") and (pretrained or classifier)


METHOD = Method(title="MaskSpec", recognises=_recognises, settings=settings, names=names)
