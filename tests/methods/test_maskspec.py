"""MaskSpec's published layouts: told by their contents, read off shapes and positions, given back as they were."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mae_ast_plugin import load_model
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.methods.maskspec import METHOD
from mae_ast_plugin.methods.method import Foreign, methods
from mae_ast_plugin.methods.statistics import TABLES, read_statistics
from mae_ast_plugin.nn.positions import sincos_grid

WIDTH, DECODER_WIDTH, CLASSES = 64, 32, 5
BASE = {"width": 768, "layers": 12, "decoder_width": 512, "decoder_layers": 8, "columns": 62}
# tensors of a published base model, their values without the tables of positions, and those of the tables
PRETRAINED, TABLED = 110_999_808, 497 * (768 + 512)
CLASSIFIER = 86_041_103  # of 527 classes


def _blocks(prefix: str, dim: int, count: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(count):
        for part, rows, columns in (
            ("attn.qkv", 3 * dim, dim),
            ("attn.proj", dim, dim),
            ("mlp.fc1", 4 * dim, dim),
            ("mlp.fc2", dim, 4 * dim),
        ):
            shapes[f"{prefix}.{number}.{part}.weight"] = (rows, columns)
            shapes[f"{prefix}.{number}.{part}.bias"] = (rows,)
        for norm in ("norm1", "norm2"):
            shapes |= {f"{prefix}.{number}.{norm}.{kind}": (dim,) for kind in ("weight", "bias")}
    return shapes


def layout(
    kind: str = "pretrained",
    rows: int = 8,
    columns: int = 3,
    width: int = WIDTH,
    layers: int = 2,
    decoder_width: int = DECODER_WIDTH,
    decoder_layers: int = 1,
    classes: int = CLASSES,
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a file: ``pretrained``, or a classifier by the ``mean`` of its tokens or the class token."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + rows * columns, width),
        "patch_embed.proj.weight": (width, 1, 16, 16),
        "patch_embed.proj.bias": (width,),
        **_blocks("blocks", width, layers),
    }
    norms = {"pretrained": {"norm": width, "decoder_norm": decoder_width}, "mean": {"fc_norm": width}}
    for norm, dim in norms.get(kind, {"norm": width}).items():
        shapes |= {f"{norm}.{part}": (dim,) for part in ("weight", "bias")}
    if kind != "pretrained":
        return {**shapes, "head.weight": (classes, width), "head.bias": (classes,)}
    return {
        **shapes,
        "mask_token": (1, 1, decoder_width),
        "decoder_pos_embed": (1, 1 + rows * columns, decoder_width),
        "decoder_embed.weight": (decoder_width, width),
        "decoder_embed.bias": (decoder_width,),
        **_blocks("decoder_blocks", decoder_width, decoder_layers),
        "decoder_pred.weight": (256, decoder_width),
        "decoder_pred.bias": (256,),
    }


def table(rows: int, columns: int, width: int) -> Tensor:
    positions = sincos_grid(columns, rows, width).transpose(0, 1).flatten(0, 1)
    return torch.cat([torch.zeros(1, width), positions])[None]


def published(device: str = "cpu", rows: int = 8, columns: int = 3, **sizes: object) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = layout(rows=rows, columns=columns, **sizes)  # type: ignore[arg-type]
    if device == "meta":
        tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    else:
        tensors = {name: 0.05 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tables = [name for name in shapes if name.endswith("pos_embed")]
    return tensors | {name: table(rows, columns, shapes[name][2]) for name in tables}


def found(tensors: dict[str, Tensor], **rest: object) -> Foreign:
    return Foreign("/somewhere/checkpoint-60.pth", tensors, rest)


@pytest.mark.parametrize("kind", ["pretrained", "mean", "class"])
def test_only_this_method_recognises_its_files(kind: str) -> None:
    by_contents = {name for name, method in methods().items() if method.recognises(found(published(kind=kind)))}
    assert by_contents == {"maskspec"}


@pytest.mark.parametrize("kind", ["pretrained", "mean", "class"])
def test_it_recognises_no_model_of_images(kind: str) -> None:
    tensors = published(kind=kind) | {"patch_embed.proj.weight": torch.zeros(WIDTH, 3, 16, 16)}
    assert not METHOD.recognises(found(tensors))


@pytest.mark.parametrize(
    "sizes",
    [{}, {"rows": 4, "columns": 5}, {"kind": "mean", "columns": 62}, {"kind": "class", "rows": 4, "columns": 6}],
    ids=str,
)
def test_import_fits_the_network_and_export_is_the_identity(sizes: dict[str, object]) -> None:
    theirs = published(**sizes)  # type: ignore[arg-type]
    model, task = METHOD.settings(found(theirs))
    names = METHOD.names(model, task)
    ours, unknown = names.to_ours(theirs)
    assert unknown == []
    network = autoencoder_of(model, task.feature_dim).state_dict()
    own = {name for name in network if name.startswith("norm.") or name == "encoder_mask_token"}
    assert {name: t.shape for name, t in ours.items()} == {n: t.shape for n, t in network.items() if n not in own}
    kept = {name: tensor for name, tensor in theirs.items() if not name.startswith(("fc_norm.", "head."))}
    back = names.to_theirs(ours)
    assert sorted(back) == sorted(kept)
    assert all(torch.equal(back[name], kept[name]) for name in kept)


def test_the_published_base_model_has_as_many_parameters_as_published() -> None:
    theirs = published("meta", **BASE)  # type: ignore[arg-type]
    assert len(theirs) == 254
    model, task = METHOD.settings(found(theirs))
    with torch.device("meta"):
        network = autoencoder_of(model, task.feature_dim)
    names = METHOD.names(model, task)
    back = names.to_theirs(network.state_dict())
    assert {name: tensor.shape for name, tensor in back.items()} == {name: t.shape for name, t in theirs.items()}
    assert sum(tensor.numel() for tensor in back.values()) == PRETRAINED + TABLED
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == PRETRAINED
    assert (model.encoder_attention_heads, model.decoder_attention_heads) == (12, 16)
    assert (task.feature_dim, model.max_columns, model.window_columns) == (128, 62, 62)


def test_the_published_classifier_has_as_many_parameters_as_published() -> None:
    theirs = published("meta", kind="mean", classes=527, **BASE)  # type: ignore[arg-type]
    assert len(theirs) == 152
    assert sum(tensor.numel() for tensor in theirs.values()) == CLASSIFIER
    model, task = METHOD.settings(found(theirs))
    with torch.device("meta"):
        network = autoencoder_of(model, task.feature_dim)
    behind = 2 * 768 + 527 * 769  # its last norm and its linear layer
    assert sum(p.numel() for p in network.parameters()) == CLASSIFIER - behind
    assert not model.encoder_norm and model.embeds_only


# ---- what shapes do not tell


@pytest.mark.parametrize(("rows", "columns"), [(8, 62), (4, 62), (8, 6), (4, 8), (8, 4)])
def test_positions_tell_the_mel_bins_also_when_they_were_trained_on(rows: int, columns: int) -> None:
    tensors = published(kind="mean", rows=rows, columns=columns)
    tensors["pos_embed"] += 0.1 * torch.randn(tensors["pos_embed"].shape, generator=torch.Generator().manual_seed(0))
    model, task = METHOD.settings(found(tensors))
    assert (task.feature_dim, model.max_columns) == (16 * rows, columns)


def test_positions_of_another_kind_are_those_of_128_bins() -> None:
    tensors = published(kind="mean")
    tensors["pos_embed"] = torch.randn(1, 1 + 16, WIDTH)
    model, task = METHOD.settings(found(tensors))
    assert (task.feature_dim, model.max_columns) == (128, 2)
    tensors["pos_embed"] = torch.randn(1, 1 + 15, WIDTH)
    with pytest.raises(PlainError, match="15 positions are no grid of patches of 128 mel bins"):
        METHOD.settings(found(tensors))


def test_bins_without_published_statistics_are_refused() -> None:
    with pytest.raises(PlainError, match="32 mel bins, of which no published mean"):
        METHOD.settings(found(published(rows=2, columns=5)))


@pytest.mark.parametrize("kind", [dict, argparse.Namespace])
def test_stored_arguments_tell_the_rest(kind: type) -> None:
    model, _ = METHOD.settings(found(published(), args=kind(norm_pix_loss=False, mask_ratio=0.8)))
    assert not model.standard_targets and model.random_mask_prob == 0.8
    model, _ = METHOD.settings(found(published()))
    assert model.standard_targets and model.random_mask_prob == 0.75


def test_the_published_statistics_are_in_the_network() -> None:
    model, task = METHOD.settings(found(published()))
    norm = autoencoder_of(model, task.feature_dim).norm
    mean, deviation = read_statistics("audioset_32khz_128", 128)
    assert torch.equal(norm.mean, mean) and torch.equal(norm.deviation, deviation)  # type: ignore[union-attr]
    assert set(TABLES) == {"audioset_32khz_128", "audioset_32khz_64"}


# ---- as files


@pytest.mark.parametrize("kind", ["pretrained", "mean", "class"])
def test_a_file_loads_and_embeds_longer_clips_in_windows(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-75.pth"
    container = {"model": published(kind=kind), "optimizer": {}, "epoch": 75, "scaler": {}}
    torch.save({**container, "args": argparse.Namespace(nb_classes=CLASSES)}, path)
    encoder = load_model(path)
    assert encoder.checkpoint is not None and encoder.checkpoint.origin == "published MaskSpec"
    assert encoder.sample_rate == 32000
    clips = [0.1 * torch.randn(length, generator=torch.Generator().manual_seed(length)) for length in (26000, 11000)]
    with torch.no_grad():  # 82 frames and 35: five columns in windows of three, and two
        embedded = encoder(clips, 32000)
        alone = encoder(clips[1:], 32000)
    assert embedded.lengths.tolist() == [5, 2]
    assert embedded.frames.shape == (2, 5, 8 * WIDTH)
    torch.testing.assert_close(embedded.frames[1:, :2], alone.frames)
    assert bool(embedded.frames.isfinite().all())


def test_what_a_published_network_never_heard_makes_no_difference(tmp_path: Path) -> None:
    """Its statistics are of sound that ends at 11 kHz: anything above would be 30 deviations away."""
    path = tmp_path / "checkpoint-60.pth"
    torch.save({"model": published()}, path)
    encoder = load_model(path)
    clip, time_s = 0.1 * torch.randn(16000), torch.arange(16000) / 32000
    hiss = 0.05 * torch.sin(2 * torch.pi * 14000 * time_s)
    features = [encoder.network.norm(encoder.frontend(wave[None])) for wave in (clip, clip + hiss)]
    assert float(features[0].abs().max()) < 8
    torch.testing.assert_close(features[1][..., 120:], features[0][..., 120:], rtol=0, atol=1e-3)
