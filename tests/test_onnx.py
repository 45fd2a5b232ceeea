"""ONNX files give what PyTorch gives, for clips of any number and length, and a file that does not is refused."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from mae_ast_plugin.encoder import AudioEncoder
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch.recipe_settings import recipe_settings
from mae_ast_plugin.launch.recipes import recipe_folder, recipe_names
from mae_ast_plugin.methods.build import autoencoder_of, frontend_of
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings
from mae_ast_plugin.nn.positions import sinusoid_table
from mae_ast_plugin.onnx import check_onnx, export_checked, export_onnx

REASON = 'the extra is not installed: pip install -e ".[onnx]"'
onnx = pytest.importorskip("onnx", reason=REASON)
pytest.importorskip("onnxscript", reason=REASON)
onnxruntime = pytest.importorskip("onnxruntime", reason=REASON)

SMALL: Mapping[str, Any] = {
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_embed_dim": 16,
    "decoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 32,
    "encoder_attention_heads": 2,
    "conv_pos": 9,
    "conv_pos_groups": 4,
}
NUM_STORED = 20  # rows of the table that comes with the patch network


@dataclass
class Exported:
    encoder: AudioEncoder
    path: Path


def patches() -> AudioEncoder:
    """16 x 16, post-norm, with a table of positions as a published checkpoint brings it."""
    task = TaskSettings()
    network = autoencoder_of(ModelSettings(**{**SMALL, "encoder_layers": 2}), 128)
    sinusoid = network.encoder_positions.sinusoid
    assert sinusoid is not None
    sinusoid.load_table(sinusoid_table(NUM_STORED, 16).half().float() + 0.01)
    return AudioEncoder(frontend_of(task), network)


def frames() -> AudioEncoder:
    """Frame tokens, pre-norm, convolutional positions beside the sinusoid."""
    kernel = {"ast_kernel_size_time": 2, "ast_kernel_stride_time": 2}
    height = {"ast_kernel_size_chan": 128, "ast_kernel_stride_chan": 128}
    task = TaskSettings()
    model = ModelSettings(**SMALL, **kernel, **height, layer_norm_first=True, enc_conv_pos=True)
    return AudioEncoder(frontend_of(task), autoencoder_of(model, 128), columns="mean")


def overlapping() -> AudioEncoder:
    """Overlapping patches of cepstra with differences at another rate, and a convolution of even width alone."""
    task = TaskSettings(feature_type="mfcc", feature_dim=13, deltas=True, sample_rate=8000)
    kernel = {"ast_kernel_size_time": 4, "ast_kernel_stride_time": 3}
    height = {"ast_kernel_size_chan": 15, "ast_kernel_stride_chan": 12}
    settings = {**SMALL, "conv_pos": 8}
    model = ModelSettings(**settings, **kernel, **height, enc_conv_pos=True, enc_sine_pos=False)
    return AudioEncoder(frontend_of(task), autoencoder_of(model, 39), columns="flat")


def spectrogram() -> AudioEncoder:
    task = TaskSettings(feature_type="spectrogram", feature_dim=256)
    return AudioEncoder(frontend_of(task), autoencoder_of(ModelSettings(**SMALL), 256))


def tables() -> AudioEncoder:
    """A learned table of positions, which limits the length of a clip."""
    model = ModelSettings(**SMALL, enc_sine_pos=False, enc_table_pos="learned", max_columns=40)
    return AudioEncoder(frontend_of(TaskSettings()), autoencoder_of(model, 128))


def windows() -> AudioEncoder:
    """Class tokens and windows that are filled up, also where a clip ends within a patch."""
    tables = {"enc_sine_pos": False, "enc_table_pos": "axes", "max_columns": 40, "class_tokens": 2}
    model = ModelSettings(**SMALL, **tables, window_columns=40, fill_windows=True)
    return AudioEncoder(frontend_of(TaskSettings()), autoencoder_of(model, 128), columns="flat")


def stages() -> AudioEncoder:
    """Attention in windows, shifted too, and patches that are merged; the whole is filled up."""
    sizes = {**SMALL, "encoder_layers": 3, "decoder_layers": 0, "stage_layers": "2-1", "attention_window": 4}
    kind = {"layer_norm_first": True, "hide_in_encoder": True, "two_heads": False}
    model = ModelSettings(**sizes, **kind, enc_sine_pos=False, window_columns=40, fill_windows=True)
    return AudioEncoder(frontend_of(TaskSettings()), autoencoder_of(model, 128))


SLOW = [pytest.param(network, marks=pytest.mark.slow) for network in (spectrogram, tables, windows, stages)]
NETWORKS = [patches, frames, overlapping, *SLOW]


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda network: network.__name__)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    encoder = request.param().eval()
    encoder.network.norm.running_mean.fill_(-6.0)
    encoder.network.norm.running_var.fill_(9.0)
    path = tmp_path_factory.mktemp("onnx") / "folder" / "model.onnx"
    export_onnx(encoder, path)
    return Exported(encoder, path)


def run(path: Path, clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    session = onnxruntime.InferenceSession(str(path))
    found, hidden = session.run(["frames", "hidden_states"], {"waveform": clips.numpy()})
    return torch.from_numpy(found), torch.from_numpy(hidden)


def test_the_check_finds_no_difference(exported: Exported) -> None:
    assert 0 < check_onnx(exported.encoder, exported.path) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize(("num_clips", "extra_samples"), [(1, 0), (4, 1), (2, 20011), (1, 80003)])
def test_the_file_gives_what_the_encoder_gives(exported: Exported, num_clips: int, extra_samples: int) -> None:
    encoder = exported.encoder
    clips = torch.rand(num_clips, encoder.shortest + extra_samples) - 0.5
    clips[:, 3000:5000] = 0  # silence, whose logarithm is the floor
    frames, hidden = run(exported.path, clips)
    expected = encoder(list(clips), encoder.sample_rate)
    assert frames.shape == (num_clips, encoder.num_steps(clips.shape[1]), encoder.dim)
    torch.testing.assert_close(frames, expected.frames, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(hidden, torch.stack(expected.hidden_states), atol=1e-4, rtol=1e-4)


def test_the_file_says_what_it_takes_and_gives_and_nothing_of_where_it_was_made(exported: Exported) -> None:
    session, encoder = onnxruntime.InferenceSession(str(exported.path)), exported.encoder
    assert [(each.name, each.shape) for each in session.get_inputs()] == [("waveform", ["clips", "samples"])]
    assert [(each.name, each.shape) for each in session.get_outputs()] == [
        ("frames", ["clips", "steps", encoder.dim]),
        ("hidden_states", [encoder.num_layers + 1, "clips", "steps", encoder.dim]),
    ]
    metadata = session.get_modelmeta().custom_metadata_map
    longest = metadata.pop("longest", None)
    assert longest is None or encoder.num_steps(int(longest)) == 40 * encoder.steps_per_column
    assert longest is None or encoder.num_steps(int(longest) + 1) == 41 * encoder.steps_per_column
    has_end = encoder.network.encoder_positions.grid is not None or encoder.network.window_columns > 0
    assert (longest is not None) == has_end
    assert metadata == {
        "sample_rate": str(encoder.sample_rate),
        "samples_per_step": str(encoder.samples_per_step),
        "shortest": str(encoder.shortest),
        "columns": encoder.columns,
        "origin": "",
    }
    assert [path.name for path in exported.path.parent.iterdir()] == ["model.onnx"]
    content = exported.path.read_bytes()
    assert b".py" not in content and b"site-packages" not in content


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [name for name in recipe_names([recipe_folder()]) if name.endswith("_tiny")])
def test_every_small_recipe_passes_the_check(recipe: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = recipe_settings(recipe)
    frontend = frontend_of(found.task)
    encoder = AudioEncoder(frontend, autoencoder_of(found.model, frontend.num_features)).eval()
    export_onnx(encoder, tmp_path / "model.onnx")
    assert 0 < check_onnx(encoder, tmp_path / "model.onnx") < 1e-3


def test_a_file_with_other_weights_is_refused(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported.path)
    (bias,) = [each for each in model.graph.initializer if each.name == "network.embed.bias"]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 0.1, bias.name))
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(PlainError, match=r"other.onnx: its (frames|hidden_states) differ from PyTorch's by 0\.\d+ .*"):
        check_onnx(exported.encoder, tmp_path / "other.onnx")


def test_a_file_that_the_check_refuses_is_not_there(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    with monkeypatch.context() as patch:
        patch.setattr("mae_ast_plugin.onnx.SHAKEN", 0.0)
        with pytest.raises(PlainError, match=rf"^{path} is not kept: its frames differ from PyTorch's by .*"):
            export_checked(exported.encoder, path, tolerance=0.0)
    assert list(tmp_path.iterdir()) == []
    assert 0 < export_checked(exported.encoder, path) < 1e-4
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


def test_what_is_no_onnx_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    encoder = patches().eval()
    with pytest.raises(PlainError, match="there is no such file"):
        check_onnx(encoder, tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(PlainError, match=r"text.onnx: onnxruntime cannot load it"):
        check_onnx(encoder, tmp_path / "text.onnx")
    with pytest.raises(PlainError, match="is a folder"):
        export_onnx(encoder, tmp_path)


def test_an_encoder_in_training_is_refused_and_stays_in_training(tmp_path: Path) -> None:
    encoder = patches().train()
    with pytest.raises(PlainError, match="training mode"):
        export_onnx(encoder, tmp_path / "model.onnx")
    assert encoder.network.encoder.training and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(
    package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PlainError, match=rf'package {package}: pip install "mae-ast-plugin\[onnx\]"'):
        (check_onnx if package == "onnxruntime" else export_onnx)(patches().eval(), tmp_path / "model.onnx")
