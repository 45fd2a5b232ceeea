"""MSM-MAE's published layout: told by its contents, read off shapes and folder names, given back as it was."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mae_ast_plugin import load_model
from mae_ast_plugin.checkpoint import CheckpointError, load_checkpoint
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.methods.method import Foreign, methods
from mae_ast_plugin.methods.msm_mae import METHOD
from mae_ast_plugin.nn.positions import sincos_grid, sinusoid_grid

WIDTH, DECODER_WIDTH = 64, 16
PUBLISHED = {"width": 768, "layers": 12, "decoder_width": 384, "decoder_layers": 4}


def layout(
    columns: int = 4,
    rows: int = 5,
    kernel: tuple[int, int] = (16, 16),
    has_class: bool = True,
    width: int = WIDTH,
    layers: int = 2,
    decoder_width: int = DECODER_WIDTH,
    decoder_layers: int = 1,
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published file; ``kernel`` is (frequency, time)."""
    height, length = kernel
    tokens, values = rows * columns + has_class, height * length
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, tokens, width),
        "mask_token": (1, 1, decoder_width),
        "decoder_pos_embed": (1, tokens, decoder_width),
        "patch_embed.proj.weight": (width, 1, height, length),
        "patch_embed.proj.bias": (width,),
        "decoder_embed.weight": (decoder_width, width),
        "decoder_embed.bias": (decoder_width,),
        "decoder_pred.weight": (values, decoder_width),
        "decoder_pred.bias": (values,),
    }
    if has_class:
        shapes["cls_token"] = (1, 1, width)
    for prefix, dim, count in (("", width, layers), ("decoder_", decoder_width, decoder_layers)):
        shapes |= {f"{prefix}norm.{kind}": (dim,) for kind in ("weight", "bias")}
        for number in range(count):
            block = f"{prefix}blocks.{number}"
            shapes |= {f"{block}.{norm}.{kind}": (dim,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
            shapes |= {f"{block}.attn.{letter}_bias": (dim,) for letter in "qv"}
            shapes |= {
                f"{block}.attn.qkv.weight": (3 * dim, dim),
                f"{block}.attn.proj.weight": (dim, dim),
                f"{block}.attn.proj.bias": (dim,),
                f"{block}.mlp.fc1.weight": (4 * dim, dim),
                f"{block}.mlp.fc1.bias": (4 * dim,),
                f"{block}.mlp.fc2.weight": (dim, 4 * dim),
                f"{block}.mlp.fc2.bias": (dim,),
            }
    return shapes


def published(device: str = "cpu", **sizes: object) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = layout(**sizes)  # type: ignore[arg-type]
    if device == "meta":
        return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return {name: 0.05 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def found(tensors: dict[str, Tensor], folder: str = "80x64p16x16_toy", **rest: object) -> Foreign:
    return Foreign(f"/somewhere/{folder}/checkpoint-100.pth", tensors, rest)


def test_only_this_method_recognises_its_files() -> None:
    for has_class in (True, False):
        by_contents = {
            name for name, method in methods().items() if method.recognises(found(published(has_class=has_class)))
        }
        assert by_contents == {"msm_mae"}


def test_it_recognises_no_other_vision_transformer() -> None:
    tensors = published()
    fused = {name: tensor for name, tensor in tensors.items() if not name.endswith(("q_bias", "v_bias"))}
    fused |= {f"blocks.{number}.attn.qkv.bias": torch.zeros(3 * WIDTH) for number in range(2)}
    assert not METHOD.recognises(found(fused))


@pytest.mark.parametrize(
    ("sizes", "folder"),
    [
        ({}, "80x64p16x16_toy"),
        ({"has_class": False}, "80x64p16x16_toy"),
        ({"kernel": (8, 16), "rows": 10}, "80x64p8x16_toy"),
        ({"kernel": (80, 4), "rows": 1, "columns": 7}, "80x28p80x4"),
        ({"rows": 8, "columns": 3}, "128x48p16x16p32k_toy"),
    ],
    ids=str,
)
def test_import_fits_the_network_and_export_is_the_identity(sizes: dict[str, object], folder: str) -> None:
    theirs = published(**sizes)
    model, task = METHOD.settings(found(theirs, folder))
    names = METHOD.names(model, task)
    ours, unknown = names.to_ours(theirs)
    assert unknown == []
    network = autoencoder_of(model, task.feature_dim).state_dict()
    unused = network.pop("encoder_mask_token")  # which a file has none of
    assert unused.shape == (WIDTH,)
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: t.shape for name, t in network.items()}
    back = names.to_theirs(ours)
    assert sorted(back) == sorted(theirs)
    assert all(torch.equal(back[name], theirs[name]) for name in theirs)


def test_keys_have_no_offset() -> None:
    theirs = published()
    ours, _ = METHOD.names(*METHOD.settings(found(theirs))).to_ours(theirs)
    query, key, value = ours["encoder.layers.1.attention.qkv.bias"].chunk(3)
    assert torch.equal(query, theirs["blocks.1.attn.q_bias"])
    assert torch.equal(value, theirs["blocks.1.attn.v_bias"])
    assert not key.any()


@pytest.mark.parametrize(("columns", "total"), [(13, 92_812_288), (32, 92_812_288 + 95 * (768 + 384))])
def test_published_sizes_have_as_many_parameters_as_published(columns: int, total: int) -> None:
    theirs = published("meta", rows=5, columns=columns, **PUBLISHED)
    assert len(theirs) == 222
    model, task = METHOD.settings(
        found({**theirs, "decoder_pos_embed": torch.zeros(theirs["decoder_pos_embed"].shape)}, "published")
    )
    with torch.device("meta"):
        network = autoencoder_of(model, task.feature_dim)
    names = METHOD.names(model, task)
    back = names.to_theirs(network.state_dict())
    assert {name: tensor.shape for name, tensor in back.items()} == {name: t.shape for name, t in theirs.items()}
    assert sum(tensor.numel() for tensor in back.values()) == total
    trained = names.to_theirs({name: p for name, p in network.named_parameters() if p.requires_grad})
    assert sum(tensor.numel() for tensor in trained.values()) == 92_736_256
    assert (model.encoder_attention_heads, model.decoder_attention_heads) == (12, 6)
    assert (model.window_columns, model.fill_windows) == (columns, True)


# ---- what shapes do not tell


def test_the_name_of_the_folder_tells_the_grid() -> None:
    """24 patches of 16 x 16 are 8 rows of 3, of a folder for 128 bins, and no grid of 80 bins."""
    tensors = published(rows=8, columns=3)
    model, task = METHOD.settings(found(tensors, "128x48p16x16_toy"))
    assert (task.feature_dim, model.max_columns) == (128, 3)
    with pytest.raises(PlainError, match="80x208p16x16_name"):
        METHOD.settings(found(tensors, "renamed"))


@pytest.mark.parametrize("folder", ["renamed", "80x208p16x16_of_another_model", "80x64p8x16_toy"])
def test_a_folder_whose_name_does_not_fit_is_no_guide(folder: str) -> None:
    model, task = METHOD.settings(found(published(), folder))
    assert (task.feature_dim, model.max_columns) == (80, 4)


@pytest.mark.parametrize("kind", [dict, argparse.Namespace])
def test_stored_arguments_tell_the_rest(kind: type) -> None:
    arguments = kind(input_size=[128, 48], norm_pix_loss=True, mask_ratio=0.6)
    model, task = METHOD.settings(found(published(rows=8, columns=3), "renamed", args=arguments))
    assert (task.feature_dim, model.max_columns) == (128, 3)
    assert model.standard_targets and model.random_mask_prob == 0.6


@pytest.mark.parametrize(("kind", "grid"), [("sincos", sincos_grid), ("sinusoid", sinusoid_grid)])
def test_the_decoders_table_tells_its_rule(kind: str, grid: object) -> None:
    table = grid(4, 5, DECODER_WIDTH).transpose(0, 1).flatten(0, 1)  # type: ignore[operator]
    stored = torch.cat([torch.zeros(1, DECODER_WIDTH), table])[None]
    model, _ = METHOD.settings(found({**published(), "decoder_pos_embed": stored}))
    assert model.dec_table_pos == kind


# ---- as files


@pytest.mark.parametrize("is_bare", [False, True])
def test_a_file_loads_and_embeds(is_bare: bool, tmp_path: Path) -> None:
    path = tmp_path / "80x64p16x16_toy" / "checkpoint-100.pth"
    path.parent.mkdir()
    tensors = published()
    container = {"model": tensors, "optimizer": {}, "epoch": 100, "scaler": {}}
    torch.save(tensors if is_bare else {**container, "args": argparse.Namespace(input_size=[80, 64])}, path)
    assert load_checkpoint(path).origin == "published MSM-MAE"
    encoder = load_model(path)
    clip = 0.1 * torch.randn(20000)  # 126 frames: two windows of 64
    with torch.no_grad():
        embedded = encoder([clip, torch.randn(5000)])
        alone = encoder([clip])
    assert embedded.frames.shape == (2, 8, 5 * WIDTH)
    torch.testing.assert_close(embedded.frames[:1], alone.frames)


def test_a_file_with_more_in_it_is_refused(tmp_path: Path) -> None:
    torch.save(published() | {"decoder_head.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"decoder_head\.weight"):
        load_checkpoint(tmp_path / "weights.pth")
