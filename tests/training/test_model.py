"""The network as the engine trains it: what its front end varies, and the statistics it begins with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mae_ast_plugin.methods.limits import problems
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings
from mae_ast_plugin.models.mae_ast import MaskedAutoencoderModel

MODEL = ModelSettings(
    encoder_layers=1, decoder_layers=1, encoder_embed_dim=16, decoder_embed_dim=16, encoder_ffn_embed_dim=32,
    encoder_attention_heads=2, input_norm="fixed",
)  # fmt: skip
TASK = TaskSettings(feature_type="emphasised_mel", feature_dim=32, vary_filters=True)
WAVES = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))


def normalized(model: MaskedAutoencoderModel, seed: int) -> torch.Tensor:
    return model.cut([8000, 8000], WAVES, seed=seed).normalized


def test_filters_vary_by_batch_in_training_and_never_else() -> None:
    model = MaskedAutoencoderModel(MODEL, TASK).train()
    assert torch.equal(normalized(model, 1), normalized(model, 1))
    assert not torch.allclose(normalized(model, 1), normalized(model, 2), atol=1e-3)
    model.eval()
    assert torch.equal(normalized(model, 1), normalized(model, 2))
    still = MaskedAutoencoderModel(MODEL, replace(TASK, vary_filters=False)).train()
    assert torch.equal(normalized(still, 1), normalized(model, 1))


def test_a_step_varies_the_filters_by_the_seed_of_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seeds = MaskedAutoencoderModel(MODEL, TASK).train(), []
    vary = model.frontend.convention.vary  # type: ignore[attr-defined]
    monkeypatch.setattr(model.frontend.convention, "vary", lambda w, n, seed: seeds.append(seed) or vary(w, n, seed))
    model(lengths=[8000, 8000], clip_seeds=torch.tensor([1, 2]), batch_seed=-77, waveforms=WAVES)
    assert seeds == [-77]


@pytest.mark.parametrize("changes", [{"feature_type": "fbank"}, {"features_on": "loader"}], ids=str)
def test_what_cannot_vary_is_refused(changes: dict[str, str]) -> None:
    found = list(problems(MODEL, replace(TASK, **changes)))  # type: ignore[arg-type]
    assert len(found) == 1 and found[0].startswith("task.vary_filters is true")


def test_statistics_of_a_file_are_in_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"mean": [0.5] * 32, "std": [2.0] * 32}))
    model = MaskedAutoencoderModel(replace(MODEL, input_statistics=str(path)), TASK)
    state = model.state_dict()
    assert state["autoencoder.norm.mean"].tolist() == [0.5] * 32
    assert state["autoencoder.norm.deviation"].tolist() == [2.0] * 32
