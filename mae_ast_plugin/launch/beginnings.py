"""A new run that begins with the weights of another network: one trained here, exported, or published."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mae_ast_plugin.checkpoint import Checkpoint, load_checkpoint, load_state
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.nn.autoencoder import MaskedAutoencoder
from mae_ast_plugin.nn.normalization import FixedNorm

logger = logging.getLogger(__name__)

# What a network is made of: no run changes it on its way, and weights fit no other.
ENCODER = (
    "ast_kernel_size_chan",
    "ast_kernel_size_time",
    "ast_kernel_stride_chan",
    "ast_kernel_stride_time",
    "encoder_layers",
    "encoder_embed_dim",
    "encoder_ffn_embed_dim",
    "encoder_attention_heads",
    "activation_fn",
    "layer_norm_first",
    "layer_scale",
    "enc_sine_pos",
    "enc_conv_pos",
    "enc_table_pos",
    "max_columns",
    "class_tokens",
    "input_norm",
    "stage_layers",
    "attention_window",
    "norm_patches",
)
BEHIND = (
    "encoder_norm",
    "decoder_embed_dim",
    "decoder_layers",
    "decoder_ffn_embed_dim",
    "decoder_attention_heads",
    "use_post_enc_proj",
    "dec_sine_pos",
    "dec_conv_pos",
    "dec_table_pos",
    "hide_in_encoder",
    "hidden_layer_in_heads",
    "two_heads",
)
FEATURES = ("feature_type", "feature_dim", "deltas", "sample_rate")


def differing(
    stored: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Mapping[str, Any]], names: tuple[str, ...]
) -> tuple[str, Any, Any] | None:
    """The first of a network's settings that two runs do not share: its name, stored and wanted; None: all are."""
    for section, of_section in (("model", names), ("task", FEATURES)):
        before, now = stored.get(section) or {}, wanted[section]
        for name in of_section:
            if name in before and before[name] != now[name] and not _means_the_same(name, before, now):
                return f"{section}.{name}", before[name], now[name]
    return None


def _means_the_same(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Null stands for the encoder's value in some settings of the decoder."""
    of_encoder = name.replace("decoder_", "encoder_")
    values = (settings.get(of_encoder) if settings[name] is None else settings[name] for settings in (before, now))
    return len(set(values)) == 1


def check_beginning(path: str, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    """PlainError where weights cannot be read, or are of another network than the one asked for."""
    if not os.path.exists(path):
        raise PlainError(f"checkpoint.finetune_from_model is {path}: there is no such file")
    found = load_checkpoint(path)
    names = ENCODER if found.model.embeds_only else ENCODER + BEHIND
    difference = differing({"model": asdict(found.model), "task": asdict(found.task)}, wanted, names)
    if difference is not None:
        name, theirs, ours = difference
        raise PlainError(
            f"checkpoint.finetune_from_model is {path}, a network with {name}={theirs}, but {name}={ours} is asked "
            f"for; set {name}={theirs}, or choose other weights"
        )


def begin_with(network: MaskedAutoencoder, path: str) -> None:
    """Fill a network with the weights of a file or folder; of an encoder alone, what stands behind it stays new.

    A fixed mean and deviation of the input are settings, not weights: the run keeps its own.
    """
    found = load_checkpoint(path)
    state = dict(found.state)
    if isinstance(network.norm, FixedNorm):
        state = {name: tensor for name, tensor in state.items() if not name.startswith("norm.")}
    load_state(network, {**network.state_dict(), **state} if found.model.embeds_only else state, path)
    logger.info(f"beginning with the weights of {path} ({_described(found)})")


def _described(found: Checkpoint) -> str:
    parts = "its encoder; what stands behind it begins anew" if found.model.embeds_only else "the whole network"
    return f"{found.origin}, {parts}"
