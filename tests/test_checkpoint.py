"""Checkpoints: the published layout and ours come back whole; whatever is no checkpoint is refused with the reason."""

from __future__ import annotations

import argparse
import json
import pickle
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mae_ast_plugin import load_model
from mae_ast_plugin.checkpoint import (
    OUR_PREFIX,
    Checkpoint,
    CheckpointError,
    build_network,
    load_checkpoint,
    save_checkpoint,
)
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.methods.mae_ast import NAMES
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings
from mae_ast_plugin.nn.autoencoder import MaskedAutoencoder
from mae_ast_plugin.nn.positions import sinusoid_table

MODEL = ModelSettings(
    ast_kernel_size_chan=4, ast_kernel_size_time=3, ast_kernel_stride_chan=4, ast_kernel_stride_time=3,
    encoder_layers=3, encoder_embed_dim=8, encoder_ffn_embed_dim=20, encoder_attention_heads=2, decoder_embed_dim=8,
    decoder_layers=1, enc_conv_pos=True, conv_pos=4, conv_pos_groups=2, layer_norm_first=True,
)  # fmt: skip
TASK = TaskSettings(feature_dim=12, mask_type="chunk_mask")
NUM_ROWS = 31


def network() -> MaskedAutoencoder:
    torch.manual_seed(0)
    made = autoencoder_of(MODEL, TASK.feature_dim).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    made.norm.running_mean.fill_(-8.0)
    return made


def half_precision_table() -> Tensor:
    return sinusoid_table(NUM_ROWS, 8).half().float()


def container(tensors: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A checkpoint as fairseq writes it, with fields that only the authors know."""
    return {
        "args": None,
        "cfg": {
            "_name": None,
            "common": {"seed": 1337},
            "model": {**asdict(MODEL), "_name": "mae_ast", "private_field": 3},
            "task": {**asdict(TASK), "_name": "mae_ast_pretraining"},
        },
        "model": tensors,
        "criterion": None,
        "optimizer_history": [{"num_updates": 3}, {"num_updates": 550000}],
        "extra_state": {"train_iterator": {"epoch": 1}},
        **changes,
    }


def published_tensors() -> dict[str, Tensor]:
    # the one tensor without a dimension is named here by hand
    state = {name: tensor for name, tensor in network().state_dict().items() if tensor.dim()}
    return {
        **NAMES.to_theirs(state),
        "batch_norm.num_batches_tracked": torch.tensor(7),
        "enc_sine_pos_embed.pe": half_precision_table()[None],
        "dec_sine_pos_embed.pe": half_precision_table()[None],
        "layer_norm.weight": torch.ones(12),
        "layer_norm.bias": torch.zeros(12),
    }


def our_tensors() -> dict[str, Tensor]:
    return {f"{OUR_PREFIX}{name}": tensor for name, tensor in network().state_dict().items()}


def saved(path: Path, content: object, **how: Any) -> Path:
    torch.save(content, path, **how)
    return path


def last_features(net: MaskedAutoencoder) -> Tensor:
    x = torch.randn(2, 17, 12, generator=torch.Generator().manual_seed(0))
    return net.features(net.cut(x, [17, 7]), with_decoder=True).stack.last


# --------------------------------------------------------------------------------------------- what is accepted


def test_a_published_checkpoint_is_the_network_it_was_made_from(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(saved(tmp_path / "published.pt", container(published_tensors())))
    assert checkpoint.origin == "published MAE-AST"
    assert (checkpoint.model, checkpoint.task, checkpoint.num_updates) == (MODEL, TASK, 550000)
    original = network()
    for positions in (original.encoder_positions, original.decoder_positions):
        assert positions.sinusoid is not None
        positions.sinusoid.load_table(half_precision_table())
    assert torch.equal(last_features(build_network(checkpoint)), last_features(original))


def test_a_published_checkpoint_comes_back_with_every_tensor(tmp_path: Path) -> None:
    theirs = published_tensors()
    built = build_network(load_checkpoint(saved(tmp_path / "published.pt", container(theirs))))
    state = built.state_dict()
    assert int(state.pop("norm.num_batches_tracked")) == int(theirs.pop("batch_norm.num_batches_tracked"))
    back = NAMES.to_theirs(state)
    assert sorted(back) == sorted(name for name in theirs if not name.startswith("layer_norm."))
    assert all(torch.equal(tensor, theirs[name].reshape(tensor.shape)) for name, tensor in back.items())


def test_stored_position_tables_are_used_as_far_as_they_go(tmp_path: Path) -> None:
    built = build_network(load_checkpoint(saved(tmp_path / "published.pt", container(published_tensors()))))
    sinusoid = built.decoder_positions.sinusoid
    assert sinusoid is not None
    assert torch.equal(sinusoid(NUM_ROWS)[0], half_precision_table())
    assert torch.equal(sinusoid(2 * NUM_ROWS)[0, NUM_ROWS:], sinusoid_table(2 * NUM_ROWS, 8)[NUM_ROWS:])


def test_our_own_checkpoint_is_the_network_it_was_made_from(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(saved(tmp_path / "ours.pt", container(our_tensors())))
    assert checkpoint.origin == "mae_ast_plugin"
    built, original = build_network(checkpoint), network()
    assert not built.training
    torch.testing.assert_close(built.state_dict(), original.state_dict(), rtol=0, atol=0)
    assert torch.equal(last_features(built), last_features(original))


def test_half_precision_tensors_become_float32(tmp_path: Path) -> None:
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in our_tensors().items()}
    built = build_network(load_checkpoint(saved(tmp_path / "half.pt", container(halved))))
    assert {parameter.dtype for parameter in built.parameters()} == {torch.float32}


def test_a_checkpoint_in_the_older_format_of_torch_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "old.pt", container(our_tensors()), _use_new_zipfile_serialization=False)
    torch.testing.assert_close(load_checkpoint(path).state, dict(network().state_dict()), rtol=0, atol=0)


def test_a_checkpoint_without_a_history_has_no_updates(tmp_path: Path) -> None:
    assert load_checkpoint(saved(tmp_path / "new.pt", container(our_tensors(), optimizer_history=[]))).num_updates == 0


# --------------------------------------------------------------------------------------------- what is refused


def reason(path: Path) -> str:
    """Why ``path`` is refused: one sentence that begins with the path."""
    with pytest.raises(CheckpointError) as caught:
        build_network(load_checkpoint(path))
    assert isinstance(caught.value, PlainError)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: ") and "\n" not in sentence
    return sentence


def test_a_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    assert "no such file" in reason(tmp_path / "nothing.pt")


@pytest.mark.parametrize("newer", [True, False])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, newer: bool, share: float) -> None:
    path = saved(tmp_path / "cut.pt", container(our_tensors()), _use_new_zipfile_serialization=newer)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "truncated" in reason(path) or "damaged" in reason(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"<html>404</html>",
        b"GLOBAL warming\n",
        b"version https://git-lfs.github.com/spec/v1\n",
        bytes(1000),
    ],
    ids=["empty", "newline", "html", "a word of the pickle format", "git-lfs pointer", "zeros"],
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    assert "not a checkpoint" in reason(path)


class Code:
    """What a checkpoint must not hold: opening it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("way", ["zip", "older", "pickle"])
@pytest.mark.parametrize("place", ["alone", "beside the tensors"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, way: str, place: str) -> None:
    path, made = tmp_path / "code.pt", tmp_path / "made"
    content = Code(made) if place == "alone" else container(our_tensors(), args=Code(made))
    if way == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        saved(path, content, _use_new_zipfile_serialization=way == "zip")
    refused = reason(path)
    assert not made.exists()
    assert "code" in refused


def test_a_record_of_options_beside_the_tensors_is_data(tmp_path: Path) -> None:
    path = saved(tmp_path / "args.pt", container(our_tensors(), args=argparse.Namespace(arch="mae_ast")))
    assert load_checkpoint(path).origin == "mae_ast_plugin"


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), "text"], ids=["list", "tensor", "text"])
def test_data_that_is_no_dictionary_is_refused_by_its_type(tmp_path: Path, content: object) -> None:
    assert f"holds a {type(content).__name__}, not the dictionary" in reason(saved(tmp_path / "data.pt", content))


@pytest.mark.parametrize(
    "content", [{}, {"state_dict": {}, "epoch": 3}, {"model": {}, "cfg": {}}, {"model": None}], ids=str
)
def test_a_file_without_a_model_is_refused_with_what_it_has(tmp_path: Path, content: dict[str, object]) -> None:
    refused = reason(saved(tmp_path / "none.pt", content))
    assert "no model in it" in refused and all(name in refused for name in content)


@pytest.mark.parametrize("cfg", [None, {}, {"model": {}}, {"model": None, "task": {}}], ids=str)
def test_a_file_without_a_configuration_is_refused(tmp_path: Path, cfg: object) -> None:
    assert "no configuration" in reason(saved(tmp_path / "cfg.pt", container(our_tensors(), cfg=cfg)))


def test_tensors_of_another_method_are_refused_with_the_first_name(tmp_path: Path) -> None:
    foreign = {"feature_extractor.conv_layers.0.weight": torch.zeros(3), "mask_emb": torch.zeros(3)}
    refused = reason(saved(tmp_path / "foreign.pt", container(foreign)))
    assert "no known method" in refused and "feature_extractor.conv_layers.0.weight" in refused


def test_a_published_layout_with_more_than_it_should_have_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "more.pt", container({**published_tensors(), "label_embs_concat": torch.zeros(2)}))
    assert "label_embs_concat" in reason(path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoder_embed_dim": 16, "decoder_embed_dim": 16}, "size mismatch"),
        ({"encoder_layers": 4}, "encoder.layers.3."),
        ({"encoder_layers": 2}, "encoder.layers.2."),
        ({"ast_kernel_size_time": 2}, "embed.weight"),
        ({"dec_conv_pos": True}, "decoder_positions.conv."),
    ],
    ids=str,
)
@pytest.mark.parametrize("published", [True, False])
def test_tensors_that_do_not_fit_the_configuration_are_refused_by_name(
    tmp_path: Path, change: dict[str, object], named: str, published: bool
) -> None:
    content = container(published_tensors() if published else our_tensors())
    content["cfg"]["model"].update(change)
    refused = reason(saved(tmp_path / "unfit.pt", content))
    assert "do not fit its configuration" in refused and named in refused


def test_a_missing_and_a_surplus_tensor_are_refused_by_name(tmp_path: Path) -> None:
    tensors = our_tensors()
    last = tensors.pop(f"{OUR_PREFIX}classify.bias")
    assert "classify.bias" in reason(saved(tmp_path / "less.pt", container(tensors)))
    more = {**tensors, f"{OUR_PREFIX}classify.bias": last, f"{OUR_PREFIX}surplus.bias": last}
    assert "surplus.bias" in reason(saved(tmp_path / "more.pt", container(more)))


def test_a_position_table_of_another_width_is_refused_by_name(tmp_path: Path) -> None:
    tensors = {**published_tensors(), "dec_sine_pos_embed.pe": sinusoid_table(NUM_ROWS, 6)[None]}
    assert "decoder_positions.sinusoid.table" in reason(saved(tmp_path / "table.pt", container(tensors)))


@pytest.mark.parametrize(
    ("section", "change", "named"),
    [
        ("model", {"activation_fn": "glu"}, "activation_fn"),
        ("model", {"encoder_attention_heads": 3}, "encoder_attention_heads"),
        ("model", {"ast_kernel_stride_chan": 0}, "ast_kernel_stride_chan"),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_built_is_refused_by_its_field(
    tmp_path: Path, section: str, change: dict[str, object], named: str
) -> None:
    content = container(our_tensors())
    content["cfg"][section].update(change)
    assert named in reason(saved(tmp_path / "impossible.pt", content))


# ------------------------------------------------------------------------------------------ configurations by hand


@pytest.mark.parametrize(
    ("section", "field", "value", "kind"),
    [
        ("model", "encoder_layers", "3", "int"),
        ("model", "encoder_embed_dim", 8.5, "int"),
        ("model", "encoder_attention_heads", True, "int"),
        ("model", "layer_norm_first", "false", "bool"),
        ("model", "activation_fn", 3, "str"),
        ("model", "dropout", "0.1", "float"),
        ("task", "feature_dim", [12], "int"),
        ("task", "sample_rate", {}, "int"),
        ("task", "max_sample_size", "all", "int or null"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_its_field(
    tmp_path: Path, section: str, field: str, value: object, kind: str
) -> None:
    content = container(our_tensors())
    content["cfg"][section][field] = value
    assert f"{field} is {value!r}, not of the kind {kind}" in reason(saved(tmp_path / "kind.pt", content))


def test_a_whole_number_may_stand_for_a_share_and_null_for_no_limit(tmp_path: Path) -> None:
    content = container(our_tensors())
    content["cfg"]["model"]["dropout"] = 0
    content["cfg"]["task"]["max_sample_size"] = None
    checkpoint = load_checkpoint(saved(tmp_path / "whole.pt", content))
    assert (checkpoint.model.dropout, checkpoint.task.max_sample_size) == (0, None)


@pytest.mark.parametrize("history", [None, [], {}, "text", [None], [{"num_updates": "9"}], [{}]], ids=str)
def test_a_history_of_another_program_counts_no_updates(tmp_path: Path, history: object) -> None:
    path = saved(tmp_path / "history.pt", container(our_tensors(), optimizer_history=history))
    assert load_checkpoint(path).num_updates == 0


def test_a_model_whose_tensors_have_no_names_is_refused(tmp_path: Path) -> None:
    assert "no model in it" in reason(saved(tmp_path / "numbered.pt", container({0: torch.zeros(3)})))  # type: ignore[dict-item]


# ------------------------------------------------------------------------------------------------ exported folders

PATCH = {"ast_kernel_size_chan": 4, "ast_kernel_stride_chan": 4, "ast_kernel_size_time": 3, "ast_kernel_stride_time": 3}
TINY = {
    **PATCH,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_embed_dim": 8,
    "decoder_embed_dim": 8,
    "encoder_ffn_embed_dim": 16,
    "encoder_attention_heads": 2,
}
CONV = {"enc_conv_pos": True, "dec_conv_pos": True, "conv_pos": 4, "conv_pos_groups": 2}
BUILDS: dict[str, tuple[ModelSettings, TaskSettings]] = {
    "patch": (ModelSettings(**TINY), TaskSettings(feature_dim=12)),
    "overlap": (ModelSettings(**{**TINY, "ast_kernel_stride_time": 2}), TaskSettings(feature_dim=12)),
    "pre-norm": (ModelSettings(**TINY, layer_norm_first=True, dropout=0.3), TaskSettings(feature_dim=12)),
    "convolution": (ModelSettings(**TINY, **CONV, enc_sine_pos=False), TaskSettings(feature_dim=12)),
    "bridge": (
        ModelSettings(**{**TINY, "decoder_embed_dim": 4}, use_post_enc_proj=True, activation_fn="relu"),
        TaskSettings(feature_dim=12),
    ),
    "task": (
        ModelSettings(**TINY, count_partial_patches=True),
        TaskSettings(feature_dim=4, deltas=True, sample_rate=8000, resampler="sinc_hann", max_sample_size=None),
    ),
}


def checkpoint_of(build: str) -> Checkpoint:
    model, task = BUILDS[build]
    torch.manual_seed(0)
    made = autoencoder_of(model, task.feature_dim * (3 if task.deltas else 1))
    made.norm.running_mean.fill_(-8.0)
    state = {name: tensor + 0.1 if tensor.is_floating_point() else tensor for name, tensor in made.state_dict().items()}
    return Checkpoint("", "mae_ast_plugin", model, task, state, 550000)


def assert_same_outputs(one: Path, other: Path) -> None:
    """Both give the same numbers, to the last bit, also behind the decoder and at another rate."""
    waves = [torch.rand(length, generator=torch.Generator().manual_seed(length)) - 0.5 for length in (7000, 300, 4001)]
    rates = [16000, 16000, 11025]
    found = [load_model(path, window_seconds=0.3)(waves, rates, with_decoder=True) for path in (one, other)]
    for a, b in zip(*([out.frames, *out.hidden_states] for out in found), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(found[0].lengths, found[1].lengths)


@pytest.mark.parametrize("build", list(BUILDS))
def test_export_then_load_is_the_identity(tmp_path: Path, build: str) -> None:
    checkpoint = checkpoint_of(build)
    save_checkpoint(checkpoint, tmp_path / "model")
    back = load_checkpoint(tmp_path / "model")
    assert (back.model, back.task) == (checkpoint.model, checkpoint.task)
    assert (back.origin, back.num_updates, back.path) == ("mae_ast_plugin", 550000, str(tmp_path / "model"))
    assert back.state.keys() == checkpoint.state.keys()
    for name, tensor in checkpoint.state.items():
        assert back.state[name].dtype == tensor.dtype and torch.equal(back.state[name], tensor)
    save_checkpoint(back, tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


@pytest.mark.parametrize("build", list(BUILDS))
def test_an_exported_model_embeds_as_the_checkpoint_it_came_from(tmp_path: Path, build: str) -> None:
    checkpoint = checkpoint_of(build)
    content = {
        "cfg": {"model": asdict(checkpoint.model), "task": asdict(checkpoint.task)},
        "model": {OUR_PREFIX + name: tensor for name, tensor in checkpoint.state.items()},
    }
    path = saved(tmp_path / "checkpoint.pt", content)
    save_checkpoint(load_checkpoint(path), tmp_path / "model")
    assert_same_outputs(path, tmp_path / "model")


def test_a_published_model_embeds_the_same_after_export_and_keeps_its_position_tables(tmp_path: Path) -> None:
    path = saved(tmp_path / "published.pt", container(published_tensors()))
    save_checkpoint(load_checkpoint(path), tmp_path / "model")
    back = load_checkpoint(tmp_path / "model")
    assert (back.origin, back.num_updates) == ("published MAE-AST", 550000)
    assert torch.equal(back.state["decoder_positions.sinusoid.table"][0], half_precision_table())
    assert_same_outputs(path, tmp_path / "model")


def test_an_exported_model_holds_the_decoder_and_no_code(tmp_path: Path) -> None:
    save_checkpoint(checkpoint_of("patch"), tmp_path)
    names = set(load_checkpoint(tmp_path).state)
    assert names == set(checkpoint_of("patch").state)
    assert any(name.startswith("decoder.layers.0.") for name in names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    save_checkpoint(checkpoint_of("patch"), tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, **changes: object) -> Path:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **changes}))
    return folder


@pytest.mark.parametrize("version", [2, 0, None, "1"])
def test_a_folder_of_another_version_is_refused(exported: Path, version: object) -> None:
    assert f"in version {version} of the format" in reason(change(exported, version=version))


@pytest.mark.parametrize("foreign", [{"model_type": "wav2vec2"}, {}, {"format": "pt"}], ids=str)
def test_a_folder_of_another_program_is_refused(exported: Path, foreign: dict[str, object]) -> None:
    (exported / "config.json").write_text(json.dumps(foreign))
    assert "of no known method" in reason(exported)


@pytest.mark.parametrize("changes", [{"model": None}, {"task": []}, {"model": "base"}], ids=str)
def test_a_folder_without_settings_is_refused(exported: Path, changes: dict[str, object]) -> None:
    assert "has no model and task" in reason(change(exported, **changes))


@pytest.mark.parametrize("updates", [None, "many", 1.5])
def test_a_number_of_updates_that_is_none_is_refused(exported: Path, updates: object) -> None:
    assert f"num_updates is {updates!r}" in reason(change(exported, num_updates=updates))


def test_a_folder_whose_settings_are_of_the_wrong_kind_is_refused(exported: Path) -> None:
    model = {**asdict(checkpoint_of("patch").model), "encoder_layers": "two"}
    assert "encoder_layers is 'two', not of the kind int" in reason(change(exported, model=model))


def test_settings_that_do_not_fit_the_tensors_are_refused(exported: Path) -> None:
    model = {**asdict(checkpoint_of("patch").model), "encoder_layers": 3}
    assert "without encoder.layers.2." in reason(change(exported, model=model))


def test_a_folder_with_the_tensors_of_another_model_is_refused(exported: Path, tmp_path: Path) -> None:
    save_checkpoint(checkpoint_of("bridge"), tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(exported / "model.safetensors")
    assert "do not fit its configuration" in reason(exported)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_without_a_file_or_with_half_of_it_is_refused(exported: Path, name: str) -> None:
    data = (exported / name).read_bytes()
    (exported / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"truncated or damaged|not valid JSON"):
        load_checkpoint(exported)
    (exported / name).unlink()
    assert f"has no {name}" in reason(exported)


def test_an_empty_folder_is_refused_with_what_to_give(tmp_path: Path) -> None:
    assert "give a checkpoint file or such a folder" in reason(tmp_path)


def test_the_tensors_alone_are_refused_with_the_folder_to_give(exported: Path) -> None:
    assert "give the folder" in reason(exported / "model.safetensors")
    assert "no such file" in reason(exported / "absent.safetensors")


def test_another_programs_model_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2"}')
    with pytest.raises(CheckpointError, match=r"config.json of another program; give a new folder"):
        save_checkpoint(checkpoint_of("patch"), tmp_path)
    assert (tmp_path / "config.json").read_text() == '{"model_type": "wav2vec2"}'


def test_an_export_replaces_an_older_one(exported: Path) -> None:
    newer = replace(checkpoint_of("overlap"), num_updates=7)
    save_checkpoint(newer, exported)
    assert (load_checkpoint(exported).model, load_checkpoint(exported).num_updates) == (newer.model, 7)
