"""MaskSpec's other variant: a Swin transformer, pretrained as SimMIM (https://arxiv.org/abs/2204.12768, its code).

On 64 mel bins: hidden patches of 4 x 4 are mask tokens in an encoder of four stages, and from each token of the last
stage a linear layer (a convolution of 1 x 1 and a pixel shuffle, in the original) predicts its cell of 32 x 32 values.
Pretrained files are read, and of classifiers the encoder. ``docs/methods/maskspec.md`` says more.
"""

from __future__ import annotations

from dataclasses import replace
from math import isqrt

from torch import Tensor

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.maskspec import FEATURES, SAMPLE_RATE, STATISTICS, argument
from mae_ast_plugin.methods.method import Foreign, Method
from mae_ast_plugin.methods.names import Change, NameTable
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings
from mae_ast_plugin.methods.statistics import TABLES
from mae_ast_plugin.methods.vit import VECTOR, block_rows, convolution, embeds_spectrograms, patch_settings

NUM_BINS, NUM_FRAMES = 64, 1024  # of every published one; no file says so
BIAS_TABLE = "layers.{}.blocks.0.attn.relative_position_bias_table"  # (2 sides of a window - 1)² distances x heads
MATRIX = Change(lambda weight: (weight.flatten(1),), lambda weight: (weight[..., None, None],))
"""A convolution of 1 x 1 (P, D, 1, 1), and the matrix that it is."""


def settings(found: Foreign) -> tuple[ModelSettings, TaskSettings]:
    """Read sizes off the shapes; the spectrogram is of 64 mel bins, as in all published files."""
    return settings_for(found, NUM_BINS)


def settings_for(found: Foreign, num_bins: int) -> tuple[ModelSettings, TaskSettings]:
    """Settings of a file whose number of mel bins is known; PlainError where its patches are no grid of them."""
    tensors = found.tensors
    num_layers = [found.count(f"layers.{stage}.blocks") for stage in range(found.count("layers"))]
    patches = patch_settings(tensors["patch_embed.proj.weight"])
    distances, heads = tensors[BIAS_TABLE.format(0)].shape
    for stage in range(len(num_layers)):
        table = tensors.get(BIAS_TABLE.format(stage))
        if table is None or table.shape[1:] != (heads << stage,):
            raise PlainError(f"stage {stage + 1} of its Swin transformer has not {heads << stage} heads")
    statistics = STATISTICS.format(num_bins)
    model = replace(
        patches,
        stage_layers="-".join(map(str, num_layers)),
        attention_window=(isqrt(distances) + 1) // 2,
        encoder_layers=sum(num_layers),
        encoder_ffn_embed_dim=tensors["layers.0.blocks.0.mlp.fc1.bias"].shape[0],
        encoder_attention_heads=heads,
        decoder_layers=0,
        decoder_embed_dim=patches.encoder_embed_dim,
        layer_norm_first=True,
        drop_path=0.1,
        norm_patches=True,
        weight_init="normal_throughout",
        hide_in_encoder=True,
        enc_sine_pos=False,
        dec_sine_pos=False,
        window_columns=_num_columns(
            found, num_bins // patches.ast_kernel_size_chan, NUM_FRAMES // patches.ast_kernel_size_time
        ),
        fill_windows=True,
        input_norm="fixed",
        input_statistics=statistics if statistics in TABLES else "",
        two_heads=False,
        dropout=0.0,
        attention_dropout=0.0,
        embeds_only=not found.has("mask_token"),
    )
    if not model.embeds_only:
        norm_pix_loss = argument(found, "norm_pix_loss")
        model = replace(
            model,
            standard_bins=True if norm_pix_loss is None else bool(norm_pix_loss),
            random_mask_prob=argument(found, "mask_ratio") or 0.75,
        )
    task = TaskSettings(sample_rate=SAMPLE_RATE, feature_type=FEATURES, feature_dim=num_bins, mask_type="random_mask")
    return model, task


def _num_columns(found: Foreign, rows: int, otherwise: int) -> int:
    """Columns of patches: as many as the mask of the first stage's windows has tokens for, where it is stored."""
    mask: Tensor | None = found.tensors.get("layers.0.blocks.1.attn_mask")
    if mask is None:  # no windows are shifted
        return otherwise
    num_tokens = mask.shape[0] * mask.shape[1]
    if num_tokens % rows:
        raise PlainError(f"its windows hold {num_tokens} patches, which are no columns of {rows}")
    return num_tokens // rows


def names(model: ModelSettings, task: TaskSettings) -> NameTable:
    """The published names; what the sizes give, and what a classifier has behind its encoder, has no counterpart."""
    layers, stages = "layers.{}.blocks", "encoder.stages.{}.layers"
    return NameTable(
        rows=[
            ("patch_embed.proj.weight", "embed.weight", convolution(*_kernel(model))),
            ("patch_embed.proj.bias", "embed.bias"),
            ("patch_embed.norm.{}", "embed_norm.{}"),
            ("mask_token", "encoder_mask_token", VECTOR),
            *block_rows(layers, stages),
            (f"{layers}.{{}}.attn.relative_position_bias_table", f"{stages}.{{}}.bias_table"),
            ("layers.{}.downsample.norm.{}", "encoder.stages.{}.merge.norm.{}"),
            ("layers.{}.downsample.reduction.weight", "encoder.stages.{}.merge.reduce.weight"),
            ("norm.{}", "encoder.norm.{}"),
            ("decoder.0.weight", "reconstruct.weight", MATRIX),
            ("decoder.0.bias", "reconstruct.bias"),
        ],
        unused=[f"{layers}.{{}}.attn.relative_position_index", f"{layers}.{{}}.attn_mask", "head.{}"],
    )


def _kernel(model: ModelSettings) -> tuple[int, int]:
    return model.ast_kernel_size_time, model.ast_kernel_size_chan


def _recognises(found: Foreign) -> bool:
    if not embeds_spectrograms(found.tensors.get("patch_embed.proj.weight")):
        return False
    pretrained = found.has("mask_token", "decoder.0.weight")
    windowed = found.has("patch_embed.norm.weight", BIAS_TABLE.format(0))
    return windowed and (pretrained or found.has("norm.weight", "head.weight"))


METHOD = Method(title="MaskSpec's Swin variant", recognises=_recognises, settings=settings, names=names)
