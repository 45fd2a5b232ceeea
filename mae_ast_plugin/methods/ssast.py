"""SSAST: Self-Supervised Audio Spectrogram Transformer (Gong, Lai, Chung, Glass 2022, https://arxiv.org/abs/2110.09784).

A ViT encoder with two class tokens sees mask tokens in place of hidden patches; two heads reconstruct and classify
those, each in a pass with a mask of its own. No decoder. ``docs/methods/ssast.md`` says more.
"""

from __future__ import annotations

from mae_ast_plugin.methods.method import Foreign, Method
from mae_ast_plugin.methods.names import NameTable
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings
from mae_ast_plugin.methods.vit import VECTOR as MASK_TOKEN
from mae_ast_plugin.methods.vit import Row, block_rows, convolution, joined_tokens, patch_values, position_table

MEAN, STD = -4.2677393, 4.5689974  # of the log-mel of AudioSet
HEAD_WIDTH = 64
HIDDEN = 400 / 512  # of the patches of 1024 frames, in most published files; it is not stored
PREFIX = "module."


def settings(found: Foreign) -> tuple[ModelSettings, TaskSettings]:
    """Read sizes off the shapes; heads are 64 wide, as in all published files."""
    tensors = found.tensors
    width, _, kernel_chan, kernel_time = tensors[f"{PREFIX}v.patch_embed.proj.weight"].shape
    num_bins = int(tensors[f"{PREFIX}p_input_fdim"])
    frames = int(tensors[f"{PREFIX}p_input_tdim"])
    is_frame = kernel_chan == num_bins
    columns = (frames - kernel_time) // kernel_time + 1
    model = ModelSettings(
        ast_kernel_size_chan=kernel_chan,
        ast_kernel_size_time=kernel_time,
        ast_kernel_stride_chan=kernel_chan,
        ast_kernel_stride_time=kernel_time,
        encoder_layers=found.count(f"{PREFIX}v.blocks"),
        encoder_embed_dim=width,
        encoder_ffn_embed_dim=tensors[f"{PREFIX}v.blocks.0.mlp.fc1.bias"].shape[0],
        encoder_attention_heads=max(1, width // HEAD_WIDTH),
        layer_norm_first=True,
        norm_eps=1e-6,
        decoder_layers=0,
        decoder_embed_dim=width,
        class_tokens=2,
        hide_in_encoder=True,
        enc_sine_pos=False,
        dec_sine_pos=False,
        enc_table_pos="learned",
        max_columns=columns,
        window_columns=columns,
        input_norm="fixed",
        input_mean=MEAN,
        input_std=2 * STD,
        hidden_layer_in_heads=True,
        two_passes=True,
        random_mask_prob=HIDDEN,
        dropout=0.0,
        attention_dropout=0.0,
    )
    mask = "random_mask" if is_frame else "cluster_mask"
    return model, TaskSettings(feature_type="hanning_fbank", feature_dim=num_bins, mask_type=mask)


def names(model: ModelSettings, task: TaskSettings) -> NameTable:
    """The published names, with the prefix that DataParallel put before all of them."""
    kernel = (model.ast_kernel_size_time, model.ast_kernel_size_chan)
    num_chan = (task.feature_dim - model.ast_kernel_size_chan) // model.ast_kernel_stride_chan + 1
    rows: list[Row] = [
        ("v.patch_embed.proj.weight", "embed.weight", convolution(*kernel)),
        ("v.patch_embed.proj.bias", "embed.bias"),
        (("v.cls_token", "v.dist_token"), "class_tokens", joined_tokens(2)),
        (
            "v.pos_embed",
            ("encoder_positions.grid.table", "encoder_positions.grid.class_rows"),
            position_table(num_chan, model.class_tokens),
        ),
        ("mask_embed", "encoder_mask_token", MASK_TOKEN),
        *block_rows("v.blocks", "encoder.layers"),
        ("v.norm.{}", "encoder.norm.{}"),
    ]
    for theirs, ours in (("cpredlayer", "classify"), ("gpredlayer", "reconstruct")):
        rows += [(f"{theirs}.0.{{}}", f"{ours}.0.{{}}")]
        rows += [(f"{theirs}.2.{kind}", f"{ours}.2.{kind}", patch_values(*kernel)) for kind in ("weight", "bias")]
    return NameTable(
        rows=[(_prefixed(row[0]), *row[1:]) for row in rows],  # type: ignore[misc]
        unused=[f"{PREFIX}{name}" for name in ("v.head.{}", "v.head_dist.{}", "p_input_fdim", "p_input_tdim")]
        + [f"{PREFIX}mask_correct"],
    )


def _prefixed(patterns: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if isinstance(patterns, str):
        return PREFIX + patterns
    return tuple(PREFIX + pattern for pattern in patterns)


METHOD = Method(
    title="SSAST",
    recognises=lambda found: found.has(f"{PREFIX}v.dist_token", f"{PREFIX}p_input_fdim", f"{PREFIX}mask_embed"),
    settings=settings,
    names=names,
)
