"""Make the parts of the machine from settings and put them together."""

from __future__ import annotations

import torch
from torch import nn

from mae_ast_plugin.audio.frontend import FrontEnd, make_frontend
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings, layers_of_stages
from mae_ast_plugin.methods.statistics import TABLES, read_statistics
from mae_ast_plugin.nn.autoencoder import MaskedAutoencoder, Positions
from mae_ast_plugin.nn.initialization import INITIALIZATIONS
from mae_ast_plugin.nn.masking import MaskSettings
from mae_ast_plugin.nn.normalization import ClipNorm, FixedNorm, InputNorm
from mae_ast_plugin.nn.positions import AxisPositions, ConvPositions, GridPositions, SinusoidPositions
from mae_ast_plugin.nn.staged import StagedAutoencoder
from mae_ast_plugin.nn.stages import StagedTransformer, StageSettings
from mae_ast_plugin.nn.tokens import PatchTokens
from mae_ast_plugin.nn.transformer import Transformer, TransformerSettings


def frontend_of(task: TaskSettings) -> FrontEnd:
    """Make the front end that ``task`` describes."""
    return make_frontend(task.feature_type, task.feature_dim, task.sample_rate, task.deltas)


def tokens_of(model: ModelSettings, num_features: int) -> PatchTokens:
    """Make the token grid over ``num_features`` mel bins."""
    return PatchTokens(
        num_mel_bins=num_features,
        kernel_time=model.ast_kernel_size_time,
        kernel_chan=model.ast_kernel_size_chan,
        stride_time=model.ast_kernel_stride_time,
        stride_chan=model.ast_kernel_stride_chan,
    )


def mask_settings_of(model: ModelSettings) -> MaskSettings:
    """Collect what a masker needs."""
    return MaskSettings(
        ratio=model.random_mask_prob,
        span_length=model.mask_length,
        span_law=model.mask_selection,
        span_other=model.mask_other,
        no_overlap=model.no_mask_overlap,
        min_space=model.mask_min_space,
    )


def _stack_settings(
    model: ModelSettings,
    num_layers: int,
    dim: int,
    ffn_dim: int,
    num_heads: int,
    layer_drop: float,
    outer_norm: bool = True,
) -> TransformerSettings:
    return TransformerSettings(
        num_layers=num_layers,
        dim=dim,
        ffn_dim=ffn_dim,
        num_heads=num_heads,
        activation=model.activation_fn,
        pre_norm=model.layer_norm_first,
        dropout=model.dropout,
        attention_dropout=model.attention_dropout,
        activation_dropout=model.activation_dropout,
        layer_drop=layer_drop,
        norm_eps=model.norm_eps,
        layer_scale=model.layer_scale,
        outer_norm=outer_norm,
        recompute=model.checkpoint_activations,
    )


def _encoder(model: ModelSettings, num_chan: int) -> Transformer | StagedTransformer:
    sizes = (model.encoder_layers, model.encoder_embed_dim, model.encoder_ffn_embed_dim, model.encoder_attention_heads)
    settings = _stack_settings(model, *sizes, model.encoder_layerdrop, model.encoder_norm)
    if not model.stage_layers:
        return Transformer(settings)
    stages = StageSettings(
        num_layers=layers_of_stages(model),
        size=(num_chan, model.window_columns),
        window=model.attention_window,
        drop_path=model.drop_path,
    )
    return StagedTransformer(settings, stages)


def _decoder(model: ModelSettings) -> Transformer | None:
    if not model.decoder_layers or model.embeds_only:
        return None
    ffn_dim, heads = model.decoder_ffn_embed_dim, model.decoder_attention_heads
    settings = _stack_settings(
        model,
        model.decoder_layers,
        model.decoder_embed_dim,
        model.encoder_ffn_embed_dim if ffn_dim is None else ffn_dim,
        model.encoder_attention_heads if heads is None else heads,
        model.decoder_layerdrop,
    )
    return Transformer(settings)


def _positions(model: ModelSettings, num_chan: int, dim: int, sinusoid: bool, conv: bool, table: str) -> Positions:
    grid: GridPositions | AxisPositions | None = None
    if table == "axes":
        grid = AxisPositions(model.max_columns, num_chan, dim, model.class_tokens)
    elif table != "none":
        grid = GridPositions(table, model.max_columns, num_chan, dim, model.class_tokens)
    return Positions(
        SinusoidPositions(dim) if sinusoid else None,
        ConvPositions(dim, model.conv_pos, model.conv_pos_groups) if conv else None,
        grid,
    )


def _norm(model: ModelSettings, num_features: int) -> InputNorm | FixedNorm | ClipNorm:
    if model.input_norm == "clip":
        return ClipNorm()
    if model.input_norm == "fixed":
        if model.input_statistics in TABLES:
            return FixedNorm(*read_statistics(model.input_statistics, num_features))
        return FixedNorm(torch.full((num_features,), model.input_mean), torch.full((num_features,), model.input_std))
    if model.input_norm == "bins":
        return InputNorm(scale=1.0, momentum=0.01, num_bins=num_features, affine=True)
    return InputNorm()


def autoencoder_of(model: ModelSettings, num_features: int) -> MaskedAutoencoder:
    """Build the network that ``model`` describes for spectrograms of ``num_features`` columns."""
    encoder_dim, decoder_dim = model.encoder_embed_dim, model.decoder_embed_dim
    tokens = tokens_of(model, num_features)
    grid, decoder = tokens.num_chan, _decoder(model)
    kind: type[MaskedAutoencoder] = StagedAutoencoder if model.stage_layers else MaskedAutoencoder
    network = kind(
        tokens=tokens,
        norm=_norm(model, num_features),
        encoder=_encoder(model, grid),
        decoder=decoder,
        encoder_positions=_positions(
            model, grid, encoder_dim, model.enc_sine_pos, model.enc_conv_pos, model.enc_table_pos
        ),
        decoder_positions=_positions(
            model, grid, decoder_dim, model.dec_sine_pos, model.dec_conv_pos, model.dec_table_pos
        )
        if decoder
        else None,
        bridge=nn.Linear(encoder_dim, decoder_dim) if decoder and model.use_post_enc_proj else None,
        input_dropout=model.dropout_input,
        count_partial=model.count_partial_patches,
        num_class=model.class_tokens,
        hide_in_encoder=model.hide_in_encoder,
        hidden_layer_in_heads=model.hidden_layer_in_heads,
        two_heads=model.two_heads,
        raw_targets=model.raw_targets,
        standard_targets=model.standard_targets,
        standard_bins=model.standard_bins,
        norm_patches=model.norm_patches,
        window_columns=model.window_columns,
        fill_windows=model.fill_windows,
        embeds_only=model.embeds_only,
    )
    INITIALIZATIONS[model.weight_init](network)
    return network
