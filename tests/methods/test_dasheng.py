"""Dasheng's published layouts: told by their contents, read off shapes and configuration, given back as they were."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mae_ast_plugin import load_model
from mae_ast_plugin.checkpoint import CheckpointError
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.methods.dasheng import METHOD
from mae_ast_plugin.methods.limits import network_problems, problems
from mae_ast_plugin.methods.method import Foreign, methods
from mae_ast_plugin.nn.masking import MaskRequest, MaskSettings, group_mask

Shapes = dict[str, tuple[int, ...]]
WIDTH, COLUMNS, BINS = 24, 30, 64
SAID = {"embed_dim": WIDTH, "depth": 2, "num_heads": 3, "target_length": 4 * COLUMNS}
# width, layers, heads, parameters, those of the decoder (width, heads, parameters)
SIZES: dict[str, tuple[int, int, int, int, tuple[int, int, int] | None]] = {
    "base": (768, 12, 12, 85_447_808, (512, 16, 25_875_200)),
    "0.6B": (1280, 32, 16, 630_333_568, None),
    "1.2B": (1536, 40, 24, 1_134_047_360, (768, 24, 58_276_864)),
    "06B of the training script": (1536, 24, 24, 680_743_040, (512, 16, 26_268_416)),
}


def blocks(prefix: str, width: int, layers: int, scaled: bool = False) -> Shapes:
    shapes: Shapes = {}
    for number in range(layers):
        block = f"{prefix}blocks.{number}"
        shapes |= {f"{block}.{norm}.{kind}": (width,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
        for part, rows, columns in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            shapes |= {f"{block}.{part}.weight": (rows, columns), f"{block}.{part}.bias": (rows,)}
        if scaled:
            shapes |= {f"{block}.ls{half}.gamma": (width,) for half in (1, 2)}
    return shapes | {f"{prefix}norm.weight": (width,), f"{prefix}norm.bias": (width,)}


def encoder(
    width: int = WIDTH,
    layers: int = 2,
    columns: int = COLUMNS,
    patch: tuple[int, int] = (BINS, 4),
    is_token: bool = False,
    front_end: bool = True,
) -> Shapes:
    """Names and shapes of an encoder as released; ``patch`` is (frequency, time)."""
    shapes: Shapes = {
        "time_pos_embed": (1, width, 1, columns),
        "freq_pos_embed": (1, width, BINS // patch[0], 1),
        "patch_embed.proj.weight": (width, 1, *patch),
        "patch_embed.proj.bias": (width,),
        "init_bn.1.num_batches_tracked": (),
        **{f"init_bn.1.{name}": (BINS,) for name in ("weight", "bias", "running_mean", "running_var")},
        **blocks("", width, layers, scaled=is_token),
    }
    if is_token:
        shapes |= {"cls_token": (1, 1, width), "token_pos_embed": (1, width)}
    if front_end:
        shapes |= {"front_end.0.spectrogram.window": (512,), "front_end.0.mel_scale.fb": (257, BINS)}
    return shapes


def whole_module(
    width: int = WIDTH, layers: int = 2, columns: int = COLUMNS, decoder: int = 32, decoder_layers: int = 1
) -> Shapes:
    """Names and shapes of encoder and decoder of the training module."""
    return {
        **{f"encoder.{name}": shape for name, shape in encoder(width, layers, columns).items()},
        "decoder.input_proj.weight": (decoder, width),
        "decoder.input_proj.bias": (decoder,),
        "decoder.mask_token": (1, 1, decoder),
        "decoder.pos_embed": (1, columns + 1, decoder),
        **blocks("decoder.", decoder, decoder_layers),
        "decoder.outputlayer.weight": (4 * BINS, decoder),
        "decoder.outputlayer.bias": (4 * BINS,),
    }


def tensors_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name in made:
        if name.endswith("num_batches_tracked"):
            made[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            made[name] = made[name].abs() + 90.0
        elif name.endswith("decoder.pos_embed"):
            made[name][:, -1] = 0.0
    return made


def found(tensors: Mapping[str, Tensor], rest: Mapping[str, Any] | None = None) -> Foreign:
    return Foreign("/somewhere/dasheng.pt", tensors, {"config": SAID} if rest is None else rest)


def prefixed(shapes: Shapes) -> Shapes:
    return {f"encoder.{name}": shape for name, shape in shapes.items()}


LAYOUTS: dict[str, Shapes] = {
    "released": encoder(),
    "hugging face": prefixed(encoder(front_end=False)),
    "hugging face with classes": {**prefixed(encoder(front_end=False)), "outputlayer.0.weight": (WIDTH,)},
    "class token": encoder(is_token=True),
    "two rows": encoder(patch=(32, 8)),
    "whole module": whole_module(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_this_method_recognises_its_files(layout: str) -> None:
    file = found(tensors_of(LAYOUTS[layout]))
    assert {name for name, method in methods().items() if method.recognises(file)} == {"dasheng"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_import_fits_the_network_and_export_is_the_identity(layout: str) -> None:
    theirs = tensors_of(LAYOUTS[layout])
    model, task = METHOD.settings(found(theirs))
    names = METHOD.names(model, task)
    ours, unknown = names.to_ours(theirs)
    assert unknown == []
    network = autoencoder_of(model, task.feature_dim).state_dict()
    network.pop("encoder_mask_token", None)  # which a file has none of
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: t.shape for name, t in network.items()}
    kept = {name.removeprefix(names.optional_prefix): t for name, t in theirs.items() if not names.is_unused(name)}
    back = names.to_theirs(ours)
    assert sorted(back) == sorted(kept)
    assert all(torch.equal(back[name], kept[name]) for name in kept)


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes_have_as_many_parameters_as_published(size: str) -> None:
    width, layers, heads, total, decoder = SIZES[size]
    with torch.device("meta"):
        tensors = {name: torch.empty(shape) for name, shape in encoder(width, layers, 252).items()}
        model, task = METHOD.settings(found(tensors, {}))
        network = autoencoder_of(model, task.feature_dim)
        assert sum(p.numel() for p in network.parameters()) == total
        assert (model.encoder_attention_heads, model.embeds_only) == (heads, True)
        if decoder is None:
            return
        tensors = {name: torch.empty(shape) for name, shape in whole_module(width, layers, 252, decoder[0], 8).items()}
        model, task = METHOD.settings(found(tensors, {}))
        network = autoencoder_of(model, task.feature_dim)
    trained = METHOD.names(model, task).to_theirs(dict(network.named_parameters()))
    assert sum(t.numel() for name, t in trained.items() if name.startswith("decoder.")) == decoder[2]
    assert sum(t.numel() for name, t in trained.items() if name.startswith("encoder.")) == total
    assert model.decoder_attention_heads == decoder[1]


@pytest.mark.parametrize("recipe", ["dasheng_base", "dasheng_06b", "dasheng_12b"])
def test_the_recipes_are_the_published_networks(recipe: str) -> None:
    from omegaconf import OmegaConf

    from mae_ast_plugin.launch.recipes import recipe_folder
    from mae_ast_plugin.methods.settings import ModelSettings

    size = SIZES[{"dasheng_base": "base", "dasheng_06b": "0.6B", "dasheng_12b": "1.2B"}[recipe]]
    shapes = whole_module(size[0], size[1], 252, *(size[4] or SIZES["base"][4] or ())[:1], 8)
    with torch.device("meta"):
        published = {name: torch.empty(shape) for name, shape in shapes.items()}
    wanted, wanted_task = METHOD.settings(found(published, {"config": {"model_args": {"group_masking": True}}}))
    files = [recipe_folder() / f"{name}.yaml" for name in ("mae_ast", "dasheng_base", recipe)]
    merged = OmegaConf.merge(*(OmegaConf.load(file) for file in files))
    assert ModelSettings(**merged.model) == wanted
    assert {name: merged.task[name] for name in ("feature_type", "feature_dim", "mask_type")} == {
        name: getattr(wanted_task, name) for name in ("feature_type", "feature_dim", "mask_type")
    }


# ---- what shapes do not tell


@pytest.mark.parametrize(
    ("rest", "heads"),
    [
        ({"config": {"num_heads": 8}}, 8),
        ({"config": {"model": "dasheng_base", "model_args": {"num_heads": 6}}}, 6),
        ({"config": {"model": "dasheng_06B", "model_args": {"group_masking": True}}}, 24),
        ({"config": {"encoder": {"num_heads": 4}, "decoder": {"num_heads": 2}}}, 4),
        ({"model_type": "dasheng", "encoder_kwargs": {"num_heads": 12}}, 12),
    ],
    ids=str,
)
def test_the_number_of_heads_is_read_wherever_a_file_has_it(rest: dict[str, Any], heads: int) -> None:
    """The original's loader takes 8 where it is nested, and computes something else without a word."""
    model, _ = METHOD.settings(found(tensors_of(encoder()), rest))
    assert model.encoder_attention_heads == heads


def test_an_unknown_number_of_heads_is_refused() -> None:
    with pytest.raises(PlainError, match="how many attention heads its encoder of width 24 has"):
        METHOD.settings(found(tensors_of(encoder()), {}))


@pytest.mark.parametrize(("said", "wanted"), [(True, ("group_mask", 2)), (5, ("group_mask", 5)), (False, None)])
def test_grouped_masking_is_read_off_the_configuration(said: object, wanted: tuple[str, int] | None) -> None:
    config = {"mask_ratio": 0.8, "model_args": {**SAID, "group_masking": said}}
    model, task = METHOD.settings(found(tensors_of(encoder()), {"config": config}))
    assert model.random_mask_prob == 0.8
    assert (task.mask_type, model.mask_length) == (wanted or ("random_mask", 10))


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"hop_size": 320}, "its front end has hop_size=320; only hop_size=160 is known"),
        ({"patch_stride": 4}, "its patch_stride is 4"),
        ({"num_heads": "twelve"}, "encoder_attention_heads is 'twelve'"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_refused_in_a_sentence(said: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PlainError, match=sentence):
        METHOD.settings(found(tensors_of(encoder()), {"config": {**SAID, **said}}))


# ---- files


def written(folder: Path, layout: str) -> Path:
    tensors = tensors_of(LAYOUTS[layout])
    if layout.startswith("hugging face"):
        save_file(tensors, folder / "model.safetensors")
        kwargs = {**SAID, "patch_size": [64, 4], "patch_stride": [64, 4]}
        (folder / "config.json").write_text(json.dumps({"model_type": "dasheng", "encoder_kwargs": kwargs}))
        return folder
    torch.save(
        {"model": tensors, "config": {"encoder": SAID} if "decoder.mask_token" in tensors else SAID}, folder / "a.pt"
    )
    return folder / "a.pt"


@pytest.mark.parametrize("layout", ["released", "hugging face", "whole module"])
def test_load_model_embeds_long_clips_in_windows_of_the_table(layout: str, tmp_path: Path) -> None:
    model = load_model(written(tmp_path, layout))
    clip = 0.1 * torch.randn(40000, generator=torch.Generator().manual_seed(1))  # 251 frames, 62 columns
    out = model([clip, clip[:479]], 16000)
    assert out.lengths.tolist() == [62, 1]  # too short for a token: padded to one
    spectrogram, network = model.frontend(clip[None]), model.network
    for first in (0, COLUMNS, 2 * COLUMNS):  # each window alone, the last as long as it is
        clips = network.cut(spectrogram[:, 4 * first : 4 * (first + COLUMNS)])
        window = network.features(clips).stack.last[0]
        torch.testing.assert_close(out.frames[0, first : first + len(window)], window, atol=1e-5, rtol=1e-5)
    assert out.step_seconds == 0.04


def test_an_encoder_alone_cannot_predict(tmp_path: Path) -> None:
    network = load_model(written(tmp_path, "released")).network
    clips = network.cut(torch.randn(1, 40, BINS))
    mask = group_mask(MaskRequest(torch.tensor([1]), 1, [10], 10), MaskSettings(span_length=2))
    with pytest.raises(PlainError, match="holds an encoder alone"):
        network(clips, mask)


def test_a_damaged_file_is_refused_with_the_name_that_is_missing(tmp_path: Path) -> None:
    tensors = tensors_of(encoder())
    del tensors["blocks.1.norm2.bias"]
    torch.save({"model": tensors, "config": SAID}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"without encoder\.layers\.1\.norm2\.bias"):
        load_model(tmp_path / "a.pt")


def test_a_run_with_an_encoder_alone_is_refused_before_it_begins() -> None:
    model, task = METHOD.settings(found(tensors_of(encoder())))
    assert list(network_problems(model, task)) == []
    assert [sentence for sentence in problems(model, task) if "nothing to be pretrained with" in sentence]
