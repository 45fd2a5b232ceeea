"""Make the parts of the machine from settings and put them together."""

from __future__ import annotations

from torch import nn

from mae_ast_plugin.audio.frontend import FrontEnd, make_frontend
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings
from mae_ast_plugin.nn.autoencoder import MaskedAutoencoder, Positions
from mae_ast_plugin.nn.masking import MaskSettings
from mae_ast_plugin.nn.normalization import InputNorm
from mae_ast_plugin.nn.positions import ConvPositions, SinusoidPositions
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


def _stack(model: ModelSettings, num_layers: int, dim: int, layer_drop: float) -> Transformer:
    return Transformer(
        TransformerSettings(
            num_layers=num_layers,
            dim=dim,
            ffn_dim=model.encoder_ffn_embed_dim,
            num_heads=model.encoder_attention_heads,
            activation=model.activation_fn,
            pre_norm=model.layer_norm_first,
            dropout=model.dropout,
            attention_dropout=model.attention_dropout,
            activation_dropout=model.activation_dropout,
            layer_drop=layer_drop,
            recompute=model.checkpoint_activations,
        )
    )


def _positions(model: ModelSettings, dim: int, sinusoid: bool, conv: bool) -> Positions:
    return Positions(
        SinusoidPositions(dim) if sinusoid else None,
        ConvPositions(dim, model.conv_pos, model.conv_pos_groups) if conv else None,
    )


def autoencoder_of(model: ModelSettings, num_features: int) -> MaskedAutoencoder:
    """Build the network that ``model`` describes for spectrograms of ``num_features`` columns."""
    encoder_dim, decoder_dim = model.encoder_embed_dim, model.decoder_embed_dim
    return MaskedAutoencoder(
        tokens=tokens_of(model, num_features),
        norm=InputNorm(),
        encoder=_stack(model, model.encoder_layers, encoder_dim, model.encoder_layerdrop),
        decoder=_stack(model, model.decoder_layers, decoder_dim, model.decoder_layerdrop),
        encoder_positions=_positions(model, encoder_dim, model.enc_sine_pos, model.enc_conv_pos),
        decoder_positions=_positions(model, decoder_dim, model.dec_sine_pos, model.dec_conv_pos),
        bridge=nn.Linear(encoder_dim, decoder_dim) if model.use_post_enc_proj else None,
        input_dropout=model.dropout_input,
        count_partial=model.count_partial_patches,
    )
