"""A tiny checkpoint and a folder of clips, the same for all commands."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mae_ast_plugin.audio.manifest import write_manifest
from mae_ast_plugin.checkpoint import OUR_PREFIX
from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings

TINY = ModelSettings(
    encoder_layers=2, decoder_layers=1, encoder_embed_dim=16, decoder_embed_dim=16, encoder_ffn_embed_dim=32,
    encoder_attention_heads=2,
)  # fmt: skip
LENGTHS = {"a.wav": 16000, "b.wav": 9000, "c.wav": 700, "sub/d.wav": 20001, "sub/e.wav": 4000}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of this plugin's training, with random weights."""
    torch.manual_seed(0)
    state = {OUR_PREFIX + name: tensor for name, tensor in autoencoder_of(TINY, 128).state_dict().items()}
    path = tmp_path_factory.mktemp("run") / "checkpoint_best.pt"
    cfg = {"model": asdict(TINY), "task": asdict(TaskSettings())}
    torch.save({"cfg": cfg, "model": state, "optimizer_history": [{"num_updates": 77}]}, path)
    return path


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder of five short clips at two rates."""
    folder = tmp_path / "clips"
    (folder / "sub").mkdir(parents=True)
    for number, (name, length) in enumerate(LENGTHS.items()):
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, length)
        soundfile.write(folder / name, noise, 8000 if number == 1 else 16000)
    return folder


@pytest.fixture
def manifest(clips: Path) -> Path:
    """The same clips with a label each."""
    path = clips.parent / "labelled.tsv"
    write_manifest(path, clips, list(LENGTHS.items()), labels=["x", "y", "x", "y", "z"])
    return path
