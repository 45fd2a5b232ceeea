"""Laws of the weights before training."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.methods.settings import ModelSettings
from mae_ast_plugin.nn.autoencoder import MaskedAutoencoder
from mae_ast_plugin.nn.initialization import INITIALIZATIONS


def network(weight_init: str, **more: Any) -> MaskedAutoencoder:
    torch.manual_seed(0)
    model = ModelSettings(
        ast_kernel_size_chan=8, ast_kernel_size_time=8, ast_kernel_stride_chan=8, ast_kernel_stride_time=8,
        encoder_layers=2, decoder_layers=1, encoder_embed_dim=128, decoder_embed_dim=64, encoder_ffn_embed_dim=256,
        encoder_attention_heads=2, use_post_enc_proj=True, class_tokens=1, weight_init=weight_init, **more,
    )  # fmt: skip
    return autoencoder_of(model, 16)


def matrices(made: MaskedAutoencoder) -> dict[str, nn.Linear]:
    return {name: module for name, module in made.named_modules() if isinstance(module, nn.Linear)}


def test_xavier_fills_every_matrix_up_to_its_bound() -> None:
    for name, layer in matrices(network("xavier")).items():
        bound = math.sqrt(6 / sum(layer.weight.shape))
        largest = float(layer.weight.detach().abs().max())
        assert 0.97 * bound < largest <= bound, name
        assert name == "embed" or not layer.bias.any(), name


@pytest.mark.parametrize("name", ["decoder_mask_token", "class_tokens"])
def test_xavier_draws_small_tokens(name: str) -> None:
    token = network("xavier").get_parameter(name).detach()
    assert 0.01 < float(token.std()) < 0.03
    assert abs(float(token.mean())) < 0.01


def test_normal_leaves_the_stacks_at_a_deviation_of_a_fiftieth() -> None:
    found = matrices(network("normal"))
    for name in ("encoder.layers.1.fc1", "decoder.layers.0.attention.qkv"):
        assert float(found[name].weight.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_xavier_encoder_leaves_what_is_behind_the_encoder_small() -> None:
    made = network("xavier_encoder", dec_table_pos="learned", max_columns=4)
    for name, layer in matrices(made).items():
        bound, largest = math.sqrt(6 / sum(layer.weight.shape)), float(layer.weight.abs().max())
        if name.startswith("encoder."):
            assert 0.97 * bound < largest <= bound, name
        elif name != "embed":
            assert float(layer.weight.std()) == pytest.approx(0.02, rel=0.1), name
        assert name == "embed" or not layer.bias.any(), name
    assert not made.get_parameter("decoder_positions.grid.table").any()
    assert 0.01 < float(made.get_parameter("decoder_mask_token").std()) < 0.03
    assert float(made.get_parameter("class_tokens").abs().max()) < 1e-5


def test_normal_throughout_leaves_all_but_the_embedding_small() -> None:
    made, plain = network("normal_throughout"), network("normal")
    for name, layer in matrices(made).items():
        if name != "embed":
            assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.1), name
            assert not layer.bias.any(), name
    assert float(matrices(made)["embed"].weight.detach().std()) == pytest.approx(
        float(matrices(plain)["embed"].weight.detach().std()), rel=0.1
    )
    for name in ("decoder_mask_token", "class_tokens"):
        assert 0.01 < float(made.get_parameter(name).detach().std()) < 0.03


@pytest.mark.parametrize("weight_init", INITIALIZATIONS)
def test_every_law_reaches_stages_whose_mergings_have_no_offset(weight_init: str) -> None:
    model = ModelSettings(
        ast_kernel_size_chan=4, ast_kernel_size_time=4, ast_kernel_stride_chan=4, ast_kernel_stride_time=4,
        encoder_layers=2, stage_layers="1-1", attention_window=4, window_columns=8, encoder_embed_dim=16,
        decoder_embed_dim=16, encoder_ffn_embed_dim=32, encoder_attention_heads=2, decoder_layers=0,
        layer_norm_first=True, hide_in_encoder=True, fill_windows=True, two_heads=False, enc_sine_pos=False,
        dec_sine_pos=False, attention_dropout=0.0, weight_init=weight_init,
    )  # fmt: skip
    made = autoencoder_of(model, 16)
    assert all(bool(parameter.isfinite().all()) for parameter in made.parameters())
    assert any(layer.bias is None for layer in matrices(made).values())
