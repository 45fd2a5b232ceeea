"""MAE-AST: Masked Autoencoding Audio Spectrogram Transformer (Baade, Peng, Harwath 2022, https://arxiv.org/abs/2203.16691).

The schema's defaults are this method's values. The implementation follows the published code rather than the paper
where they differ: one global normalisation times 0.5, post-norm layers with a norm on the stack's input, InfoNCE
without temperature, positions by flattened token index, and retained counts truncated in float arithmetic.
``docs/methods/mae_ast.md`` says more.
"""

from __future__ import annotations

from mae_ast_plugin.methods.method import Method, trained_with
from mae_ast_plugin.methods.names import NameTable


def _layer_rows(stack: str) -> list[tuple[str | tuple[str, ...], str]]:
    theirs, ours = f"{stack}.layers.{{}}", f"{stack}.layers.{{}}"
    rows: list[tuple[str | tuple[str, ...], str]] = []
    for kind in ("weight", "bias"):
        projections = tuple(f"{theirs}.self_attn.{letter}_proj.{kind}" for letter in "qkv")
        rows += [
            (projections, f"{ours}.attention.qkv.{kind}"),
            (f"{theirs}.self_attn.out_proj.{kind}", f"{ours}.attention.out.{kind}"),
            (f"{theirs}.self_attn_layer_norm.{kind}", f"{ours}.norm1.{kind}"),
            (f"{theirs}.final_layer_norm.{kind}", f"{ours}.norm2.{kind}"),
            (f"{theirs}.fc1.{kind}", f"{ours}.fc1.{kind}"),
            (f"{theirs}.fc2.{kind}", f"{ours}.fc2.{kind}"),
            (f"{stack}.layer_norm.{kind}", f"{stack}.norm.{kind}"),
        ]
    return rows


def _position_rows(short: str, ours: str) -> list[tuple[str | tuple[str, ...], str]]:
    conv = f"{short}_conv_pos_embed.pos_conv.0"
    return [
        (f"{conv}.bias", f"{ours}.conv.conv.bias"),
        (f"{conv}.weight_g", f"{ours}.conv.conv.parametrizations.weight.original0"),
        (f"{conv}.weight_v", f"{ours}.conv.conv.parametrizations.weight.original1"),
        (f"{short}_sine_pos_embed.pe", f"{ours}.sinusoid.table"),
    ]


NAMES = NameTable(
    rows=[
        ("encoder_mask_emb", "encoder_mask_token"),
        ("decoder_mask_emb", "decoder_mask_token"),
        ("post_extract_proj.{}", "embed.{}"),
        ("post_enc_proj.{}", "bridge.{}"),
        ("final_proj_reconstruction.{}", "reconstruct.{}"),
        ("final_proj_classification.{}", "classify.{}"),
        ("batch_norm.{}", "norm.{}"),
        *_layer_rows("encoder"),
        *_layer_rows("decoder"),
        *_position_rows("enc", "encoder_positions"),
        *_position_rows("dec", "decoder_positions"),
    ],
    unused=["layer_norm.{}"],  # built by the original, never used by it
)

METHOD = Method(
    title="MAE-AST",
    recognises=lambda found: found.has("post_extract_proj.weight"),
    settings=trained_with,
    names=lambda model, task: NAMES,
)
