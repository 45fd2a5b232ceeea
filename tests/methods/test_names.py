"""Tables of names in both directions, on a state dict laid out as the published ones are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.methods.mae_ast import NAMES
from mae_ast_plugin.methods.names import NameTable
from mae_ast_plugin.methods.settings import ModelSettings

DIM, FFN, PATCH, BINS, ROWS = 8, 20, 16, 12, 31
CONV = {"enc_conv_pos": True, "dec_conv_pos": True, "conv_pos": 4, "conv_pos_groups": 2}


def published_shapes(decoder_dim: int, extras: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published layout; ``extras`` are the bridge and the convolutional positions."""
    shapes: dict[str, tuple[int, ...]] = {
        "encoder_mask_emb": (DIM,),
        "decoder_mask_emb": (decoder_dim,),
        "post_extract_proj.weight": (DIM, PATCH),
        "post_extract_proj.bias": (DIM,),
        "layer_norm.weight": (BINS,),
        "layer_norm.bias": (BINS,),
        "batch_norm.running_mean": (1,),
        "batch_norm.running_var": (1,),
        "batch_norm.num_batches_tracked": (),
        "enc_sine_pos_embed.pe": (1, ROWS, DIM),
        "dec_sine_pos_embed.pe": (1, ROWS, decoder_dim),
    }
    for stack, width, layers in (("encoder", DIM, 11), ("decoder", decoder_dim, 2)):
        for layer in range(layers):
            for part, rows, columns in [
                *((f"self_attn.{letter}_proj", width, width) for letter in ("q", "k", "v", "out")),
                ("fc1", FFN, width),
                ("fc2", width, FFN),
            ]:
                shapes[f"{stack}.layers.{layer}.{part}.weight"] = (rows, columns)
                shapes[f"{stack}.layers.{layer}.{part}.bias"] = (rows,)
            for norm in ("self_attn_layer_norm", "final_layer_norm"):
                shapes |= {f"{stack}.layers.{layer}.{norm}.{kind}": (width,) for kind in ("weight", "bias")}
        shapes |= {f"{stack}.layer_norm.{kind}": (width,) for kind in ("weight", "bias")}
    for head in ("reconstruction", "classification"):
        shapes |= {f"final_proj_{head}.weight": (PATCH, decoder_dim), f"final_proj_{head}.bias": (PATCH,)}
    if extras:
        shapes |= {"post_enc_proj.weight": (decoder_dim, DIM), "post_enc_proj.bias": (decoder_dim,)}
        for side, width in (("enc", DIM), ("dec", decoder_dim)):
            conv = f"{side}_conv_pos_embed.pos_conv.0"
            shapes |= {
                f"{conv}.bias": (width,),
                f"{conv}.weight_g": (1, 1, 4),
                f"{conv}.weight_v": (width, width // 2, 4),
            }
    return shapes


def published_state(decoder_dim: int = DIM, extras: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(shape, generator=generator) for name, shape in published_shapes(decoder_dim, extras).items()
    }
    return state | {"batch_norm.num_batches_tracked": torch.tensor(7)}


def without_unused(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith("layer_norm.")}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert sorted(first) == sorted(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("decoder_dim", "extras"), [(DIM, False), (DIM, True), (4, True)])
def test_import_then_export_is_the_identity(decoder_dim: int, extras: bool) -> None:
    theirs = published_state(decoder_dim, extras)
    ours, unknown = NAMES.to_ours(theirs)
    assert unknown == []
    assert_same(NAMES.to_theirs(ours), without_unused(theirs))


@pytest.mark.parametrize(("decoder_dim", "extras"), [(DIM, False), (DIM, True), (4, True)])
def test_the_imported_names_and_shapes_are_those_of_the_network(decoder_dim: int, extras: bool) -> None:
    model = ModelSettings(
        ast_kernel_size_chan=4, ast_kernel_size_time=4, ast_kernel_stride_chan=4, ast_kernel_stride_time=4,
        encoder_layers=11, encoder_embed_dim=DIM, decoder_embed_dim=decoder_dim, encoder_ffn_embed_dim=FFN,
        encoder_attention_heads=2, use_post_enc_proj=extras, **(CONV if extras else {}),
    )  # fmt: skip
    network = {name: tensor.shape for name, tensor in autoencoder_of(model, BINS).state_dict().items()}
    ours, _ = NAMES.to_ours(published_state(decoder_dim, extras))
    imported = {name: tensor.shape for name, tensor in ours.items() if not name.endswith("sinusoid.table")}
    assert imported == network


def test_queries_keys_and_values_are_stacked_in_this_order() -> None:
    theirs = published_state()
    ours, _ = NAMES.to_ours(theirs)
    for kind in ("weight", "bias"):
        parts = [theirs[f"encoder.layers.10.self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
        assert torch.equal(ours[f"encoder.layers.10.attention.qkv.{kind}"], torch.cat(parts))


def test_the_order_of_the_names_does_not_matter() -> None:
    theirs = published_state()
    backwards = dict(reversed(theirs.items()))
    assert_same(NAMES.to_ours(backwards)[0], NAMES.to_ours(theirs)[0])


def test_unknown_names_are_reported() -> None:
    theirs = published_state() | {"label_embs_concat": torch.zeros(1), "encoder.layers.0.fc3.weight": torch.zeros(1)}
    ours, unknown = NAMES.to_ours(theirs)
    assert unknown == ["label_embs_concat", "encoder.layers.0.fc3.weight"]
    assert_same(ours, NAMES.to_ours(published_state())[0])


def test_parts_of_a_stack_that_is_not_whole_are_reported() -> None:
    theirs = published_state()
    del theirs["decoder.layers.1.self_attn.k_proj.weight"]
    ours, unknown = NAMES.to_ours(theirs)
    assert unknown == ["decoder.layers.1.self_attn.q_proj.weight", "decoder.layers.1.self_attn.v_proj.weight"]
    assert "decoder.layers.1.attention.qkv.weight" not in ours


def test_a_place_holder_stands_for_one_part_of_a_name_only() -> None:
    table = NameTable([("a.{}.w", "b.{}.w")], unused=["gone.{}"])
    tensors = {"a.1.w": torch.ones(1), "a.1.2.w": torch.ones(1), "xa.1.w": torch.ones(1), "a.1.wx": torch.ones(1)}
    ours, unknown = table.to_ours(tensors | {"gone.x": torch.ones(1)})
    assert list(ours) == ["b.1.w"]
    assert unknown == ["a.1.2.w", "xa.1.w", "a.1.wx"]


def test_a_dot_in_a_pattern_is_a_dot() -> None:
    assert NameTable([("a.b", "c")]).to_ours({"axb": torch.ones(1)}) == ({}, ["axb"])


def test_a_prefix_that_may_stand_before_all_names_is_left_out() -> None:
    table = NameTable([("a.{}", "b.{}")], unused=["gone"], optional_prefix="encoder.")
    bare, unknown = table.to_ours({"a.w": torch.ones(1), "gone": torch.ones(1)})
    prefixed, _ = table.to_ours({"encoder.a.w": torch.ones(1), "encoder.gone": torch.ones(1)})
    assert unknown == []
    assert_same(bare, prefixed)
    assert table.is_unused("encoder.gone") and table.is_unused("gone")
    assert list(table.to_theirs(prefixed)) == ["a.w"]
