"""MaskSpec's Swin variant: its files told by their contents and given back, and what a network in stages gives."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mae_ast_plugin import AudioEncoder, load_model
from mae_ast_plugin.checkpoint import load_checkpoint, save_checkpoint
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.evaluation.baselines import random_twin
from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.methods.limits import idle_settings, network_problems, problems
from mae_ast_plugin.methods.maskspec_swin import METHOD
from mae_ast_plugin.methods.method import Foreign, methods
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings
from s3prl_upstream.expert import UpstreamExpert

CLASSES = 5
BASE: dict[str, Any] = {"width": 96, "depths": (2, 2, 6, 2), "heads": 4, "window": 8, "columns": 256}
# values of a published base model with 527 classes: pretrained, and as a classifier
PRETRAINED, CLASSIFIER = 28_696_455, 27_908_903


def layout(
    kind: str = "pretrained",
    width: int = 8,
    depths: tuple[int, ...] = (2, 2, 1),
    heads: int = 2,
    window: int = 4,
    columns: int = 16,
    classes: int = CLASSES,
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a file, of patches of 4 x 4 of 64 mel bins: ``pretrained`` or a ``classifier``."""
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (width, 1, 4, 4),
        **{f"patch_embed.{name}": (width,) for name in ("proj.bias", "norm.weight", "norm.bias")},
    }
    for stage, depth in enumerate(depths):
        dim, size = width << stage, (16 >> stage, columns >> stage)
        side = min(window, *size)
        for number in range(depth):
            block = f"layers.{stage}.blocks.{number}"
            for part, rows, values in (
                ("attn.qkv", 3 * dim, dim),
                ("attn.proj", dim, dim),
                ("mlp.fc1", 4 * dim, dim),
                ("mlp.fc2", dim, 4 * dim),
            ):
                shapes |= {f"{block}.{part}.weight": (rows, values), f"{block}.{part}.bias": (rows,)}
            for norm in ("norm1", "norm2"):
                shapes |= {f"{block}.{norm}.{part}": (dim,) for part in ("weight", "bias")}
            shapes[f"{block}.attn.relative_position_bias_table"] = ((2 * side - 1) ** 2, heads << stage)
            shapes[f"{block}.attn.relative_position_index"] = (side**2, side**2)
            if number % 2 and min(size) > window:
                shapes[f"{block}.attn_mask"] = (size[0] * size[1] // side**2, side**2, side**2)
        if stage + 1 < len(depths):
            merge = f"layers.{stage}.downsample"
            shapes |= {f"{merge}.norm.{part}": (4 * dim,) for part in ("weight", "bias")}
            shapes[f"{merge}.reduction.weight"] = (2 * dim, 4 * dim)
    last, side = width << (len(depths) - 1), 4 << (len(depths) - 1)
    shapes |= {f"norm.{part}": (last,) for part in ("weight", "bias")}
    shapes |= {"head.weight": (classes, last), "head.bias": (classes,)}
    if kind == "pretrained":
        decoder = {"decoder.0.weight": (side**2, last, 1, 1), "decoder.0.bias": (side**2,)}
        shapes |= {"mask_token": (1, 1, width), **decoder}
    return shapes


def published(device: str = "cpu", **sizes: Any) -> dict[str, Tensor]:
    shapes, generator = layout(**sizes), torch.Generator().manual_seed(0)
    if device == "meta":
        return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return {name: 0.05 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def values(tensors: dict[str, Tensor]) -> int:
    """Learned values: what the sizes give is stored as well."""
    stored = ("attn_mask", "relative_position_index")
    return sum(tensor.numel() for name, tensor in tensors.items() if not name.endswith(stored))


def found(tensors: dict[str, Tensor], **rest: object) -> Foreign:
    return Foreign("/somewhere/checkpoint-60.pth", tensors, rest)


def noise(*lengths: int) -> list[Tensor]:
    return [0.1 * torch.randn(length, generator=torch.Generator().manual_seed(length)) for length in lengths]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> AudioEncoder:
    """A pretrained file as an encoder: windows of 64 frames, 16 columns."""
    path = tmp_path_factory.mktemp("published") / "checkpoint-60.pth"
    container = {"model": published(), "optimizer": {}, "epoch": 60, "scaler": {}}
    torch.save({**container, "args": argparse.Namespace(mask_ratio=0.75)}, path)
    return load_model(path)


# ---- files


@pytest.mark.parametrize("kind", ["pretrained", "classifier"])
def test_only_this_method_recognises_its_files(kind: str) -> None:
    tensors = published(kind=kind)
    assert {name for name, method in methods().items() if method.recognises(found(tensors))} == {"maskspec_swin"}
    images = tensors | {"patch_embed.proj.weight": torch.zeros(8, 3, 4, 4)}
    assert not METHOD.recognises(found(images))


@pytest.mark.parametrize(
    "sizes", [{}, {"kind": "classifier"}, {"depths": (1, 2), "window": 8, "columns": 256}, BASE], ids=str
)
def test_import_fits_the_network_and_export_is_the_identity(sizes: dict[str, Any]) -> None:
    theirs = published(**sizes)
    model, task = METHOD.settings(found(theirs))
    names = METHOD.names(model, task)
    ours, unknown = names.to_ours(theirs)
    assert unknown == []
    network = autoencoder_of(model, task.feature_dim).state_dict()
    own = {"norm.mean", "norm.deviation", "decoder_mask_token"}
    assert {name: t.shape for name, t in ours.items()} == {n: t.shape for n, t in network.items() if n not in own}
    kept = {name: tensor for name, tensor in theirs.items() if not names.is_unused(name)}
    assert set(theirs) - set(kept) >= {"head.weight", "layers.0.blocks.0.attn.relative_position_index"}
    back = names.to_theirs(ours)
    assert sorted(back) == sorted(kept)
    assert all(torch.equal(back[name], kept[name]) for name in kept)


def test_the_published_base_model_has_as_many_parameters_as_published() -> None:
    theirs = published("meta", classes=527, **BASE)
    assert values(theirs) == PRETRAINED
    model, task = METHOD.settings(found(theirs))
    with torch.device("meta"):
        network = autoencoder_of(model, task.feature_dim)
    behind = 527 * 769  # its linear layer for classes, which pretraining does not use
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == PRETRAINED - behind
    assert (model.stage_layers, model.encoder_attention_heads, model.window_columns) == ("2-2-6-2", 4, 256)
    assert (task.feature_dim, task.sample_rate, model.input_statistics) == (64, 32000, "audioset_32khz_64")
    theirs = published("meta", kind="classifier", classes=527, **BASE)
    assert values(theirs) == CLASSIFIER
    with torch.device("meta"):
        encoder = autoencoder_of(METHOD.settings(found(theirs))[0], 64)
    assert sum(p.numel() for p in encoder.parameters()) == CLASSIFIER - behind


def test_the_length_of_a_window_is_told_where_windows_are_shifted() -> None:
    assert METHOD.settings(found(published(columns=32)))[0].window_columns == 32
    assert METHOD.settings(found(published(depths=(1, 2), columns=32)))[0].window_columns == 256  # the published one
    odd = published() | {"layers.0.blocks.1.attn_mask": torch.zeros(3, 15, 15)}
    with pytest.raises(PlainError, match="its windows hold 45 patches, which are no columns of 16"):
        METHOD.settings(found(odd))


def test_heads_that_do_not_double_are_refused() -> None:
    odd = published() | {"layers.1.blocks.0.attn.relative_position_bias_table": torch.zeros(49, 3)}
    with pytest.raises(PlainError, match="stage 2 of its Swin transformer has not 4 heads"):
        METHOD.settings(found(odd))


@pytest.mark.parametrize("kind", [dict, argparse.Namespace])
def test_stored_arguments_tell_the_rest(kind: type) -> None:
    model, _ = METHOD.settings(found(published(), args=kind(norm_pix_loss=False, mask_ratio=0.6)))
    assert not model.standard_bins and model.random_mask_prob == 0.6
    model, _ = METHOD.settings(found(published()))
    assert model.standard_bins and model.random_mask_prob == 0.75


# ---- what a network in stages gives


def test_a_file_embeds_clips_of_any_length_alike_in_any_company(encoder: AudioEncoder) -> None:
    clips = noise(32000, 11000)  # 100 frames and 35: 25 columns in two windows, and 9
    with torch.no_grad():
        embedded, alone = encoder(clips, 32000), encoder(clips[1:], 32000)
    assert embedded.lengths.tolist() == [25, 9] and embedded.step_seconds == 0.04
    shapes = {tuple(states.shape) for states in [embedded.frames, *embedded.hidden_states]}
    assert shapes == {(2, 25, 16 * 8)} and len(embedded.hidden_states) == 1 + 5
    torch.testing.assert_close(embedded.frames[1:, :9], alone.frames)
    assert bool(embedded.frames.isfinite().all())


def test_the_vector_of_a_clip_that_fills_the_window_is_the_average_of_the_last_tokens(encoder: AudioEncoder) -> None:
    (clip,) = noise(63 * 320 + 161)  # 64 frames
    network = encoder.network
    with torch.no_grad():
        tokens = network.encode(network.cut(encoder.frontend(clip[None]))).stack.last
        blocks = encoder([clip], 32000).clip.unflatten(1, (-1, tokens.shape[2]))
    torch.testing.assert_close(blocks.mean(dim=1), tokens.mean(dim=1))


def test_every_layer_can_be_had_alone(encoder: AudioEncoder) -> None:
    clips = noise(20000)
    with torch.no_grad():
        whole = encoder(clips, 32000)
        for layer, states in enumerate(whole.hidden_states):
            (one,) = encoder(clips, 32000, layers=(layer,)).hidden_states
            torch.testing.assert_close(one, states)


@pytest.mark.parametrize("columns", ["mean", "flat"])
def test_single_patches_have_no_states_to_choose(encoder: AudioEncoder, columns: str) -> None:
    with pytest.raises(PlainError, match=f"columns is '{columns}'; patches of this network are merged"):
        AudioEncoder(encoder.frontend, encoder.network, encoder.checkpoint, columns=columns)


def test_an_exported_folder_is_the_same_encoder(encoder: AudioEncoder, tmp_path: Path) -> None:
    checkpoint = replace(encoder.checkpoint, state=encoder.network.state_dict())  # type: ignore[type-var]
    save_checkpoint(checkpoint, tmp_path / "exported")
    again, clips = load_model(tmp_path / "exported"), noise(20000)
    with torch.no_grad():
        assert torch.equal(again(clips, 32000).frames, encoder(clips, 32000).frames)
        assert not torch.equal(random_twin(encoder)(clips, 32000).frames, again(clips, 32000).frames)


def test_s3prl_gets_layers_of_one_width_also_in_windows_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-60.pth"
    torch.save({"model": published()}, path)
    for options in ({}, {"window_seconds": 1.28}):  # of 32 columns
        expert = UpstreamExpert(path, **options).eval()
        with torch.no_grad():
            given = expert(noise(16000, 7000))
        assert expert.get_downsample_rates() == 640
        assert {tuple(states.shape) for states in given["hidden_states"]} == {(2, 25, 128)}
    with pytest.raises(PlainError, match="stride_time is 2; stages"):
        UpstreamExpert(path, stride_time=2)


def test_another_window_than_the_grid_allows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-60.pth"
    torch.save({"model": published()}, path)
    told = "leave the option out for its own windows of 0.64 s, or give {}, the nearest that fits"
    for seconds, fitting in ((0.01, 0.64), (0.28, 0.64), (0.32, 0.64), (1.1, 1.28)):
        with pytest.raises(PlainError, match=f"window_seconds is {seconds}, and its stages .*{told.format(fitting)}"):
            UpstreamExpert(path, window_seconds=seconds)
        UpstreamExpert(path, window_seconds=fitting)
    assert load_checkpoint(path).model.window_columns == 16


# ---- settings


GOOD, TASK = METHOD.settings(found(published(**BASE)))
SENTENCES: dict[str, dict[str, Any]] = {
    "model.stage_layers is '2-0'; it must be like 2-2-6-2": {"stage_layers": "2-0"},
    "model.stage_layers is '2,2'; it must be like 2-2-6-2": {"stage_layers": "2,2"},
    "model.stage_layers is 2-2 and model.encoder_layers 12; set it to 4": {"stage_layers": "2-2"},
    "model.attention_window is 0; stages": {"attention_window": 0},
    "model.drop_path is 1.0; it must be at least 0 and below 1": {"drop_path": 1.0},
    "model.decoder_layers is 2; stages (model.stage_layers) need 0": {"decoder_layers": 2},
    "model.layer_norm_first is false; stages (model.stage_layers) need true": {"layer_norm_first": False},
    "model.ast_kernel_stride_time is 2; stages (model.stage_layers) need the patch's 4": {"ast_kernel_stride_time": 2},
    "stage 2 of 4 cannot be cut into windows of 8 x 8 tokens": {"window_columns": 264},
    "is 8 x 125.5 there; choose other patches": {"window_columns": 251, "attention_window": 1},
    "model.attention_dropout is 0.1; stages (model.stage_layers) need 0.0": {"attention_dropout": 0.1},
    "model.standard_targets and model.standard_bins are both true": {"standard_targets": True},
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_settings_that_make_no_stages_are_refused(sentence: str) -> None:
    told = list(network_problems(replace(GOOD, **SENTENCES[sentence]), TASK))
    assert [each for each in told if sentence in each] and all("\n" not in each for each in told), told


@pytest.mark.parametrize(("samples", "fits"), [(None, False), (327681, False), (327680, True), (320000, True)])
def test_a_run_that_may_meet_longer_clips_than_the_window_is_refused(samples: int | None, fits: bool) -> None:
    told = list(problems(GOOD, replace(TASK, max_sample_size=samples)))
    said = "null" if samples is None else samples
    sentence = f"task.max_sample_size is {said}, and the network sees the 1024 frames of model.window_columns"
    assert told == ([] if fits else [f"{sentence}: 327680 samples at most"])


def test_the_published_settings_are_fine_and_their_parts_are_idle_without_stages() -> None:
    assert list(network_problems(GOOD, TASK)) == []
    plain = ModelSettings(attention_window=8, drop_path=0.1)
    idle = ["attention_window", "drop_path"]
    expected = [f"model.{name} has no effect with model.stage_layers empty" for name in idle]
    assert list(idle_settings(plain, TaskSettings())) == expected
