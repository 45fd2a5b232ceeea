"""A run that begins with weights from elsewhere: its own kind, an exported folder, a published file, an encoder."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mae_ast_plugin.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch.beginnings import begin_with, check_beginning
from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.nn.autoencoder import MaskedAutoencoder

from ..methods.test_msm_mae import published
from .conftest import Command, Run


def new_network(like: Checkpoint, **changes: Any) -> MaskedAutoencoder:
    torch.manual_seed(99)
    return autoencoder_of(replace(like.model, **changes), like.task.feature_dim)


def wanted(like: Checkpoint, **changes: Any) -> dict[str, dict[str, Any]]:
    """Settings of a run whose network is that of a checkpoint, but for ``changes``."""
    return {"model": {**asdict(like.model), **changes}, "task": asdict(like.task)}


def assert_same(network: MaskedAutoencoder, state: dict[str, Tensor]) -> None:
    found = network.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items() if name in found)


@pytest.fixture
def own(finished: Run) -> Path:
    return finished.checkpoints / "checkpoint_last.pt"


@pytest.fixture(params=["checkpoint", "exported", "published"])
def weights(request: pytest.FixtureRequest, own: Path, tmp_path: Path) -> Path:
    if request.param == "exported":
        save_checkpoint(load_checkpoint(own), tmp_path / "exported")
        return tmp_path / "exported"
    if request.param == "published":
        folder = tmp_path / "80x64p16x16_toy"
        folder.mkdir()
        torch.save({"model": published()}, folder / "checkpoint-100.pth")
        return folder / "checkpoint-100.pth"
    return own


def test_a_new_network_takes_all_of_them(weights: Path) -> None:
    found = load_checkpoint(weights)
    check_beginning(str(weights), wanted(found))
    network = new_network(found)
    begin_with(network, str(weights))
    assert_same(network, found.state)


def test_a_run_begins_with_an_exported_folder(run: Command, finished: Run, own: Path, tmp_path: Path) -> None:
    save_checkpoint(load_checkpoint(own), tmp_path / "exported")
    ended = run(
        f"checkpoint.finetune_from_model={tmp_path / 'exported'}", "optimization.lr=[0.0]", "optimization.max_update=1"
    )
    assert "the whole network" in ended.output
    before, after = finished.weights(), ended.weights()
    trained = [name for name in after if "norm.running" not in name and "norm.num_batches" not in name]
    assert trained
    for name in trained:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0)


def test_of_an_encoder_alone_what_stands_behind_it_stays_new(own: Path, tmp_path: Path) -> None:
    whole = load_checkpoint(own)
    kept = {n: t for n, t in whole.state.items() if n.startswith(("encoder.", "encoder_positions.", "embed.", "norm."))}
    model = replace(whole.model, embeds_only=True, decoder_layers=0)
    save_checkpoint(replace(whole, model=model, state=kept), tmp_path / "encoder")
    check_beginning(str(tmp_path / "encoder"), wanted(whole))
    network = new_network(whole)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    begin_with(network, str(tmp_path / "encoder"))
    assert_same(network, kept)
    behind = [name for name in before if name.startswith(("decoder", "reconstruct", "classify"))]
    assert behind
    assert_same(network, {name: before[name] for name in behind})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"class_tokens": 1}, "a network with model.class_tokens=0, but model.class_tokens=1 is asked for"),
        ({"encoder_layers": 5}, "a network with model.encoder_layers=2, but model.encoder_layers=5 is asked for"),
        ({"two_heads": False}, "set model.two_heads=True, or choose other weights"),
    ],
)
def test_weights_of_another_network_are_refused_by_the_setting(own: Path, changes: Any, sentence: str) -> None:
    with pytest.raises(PlainError, match=sentence):
        check_beginning(str(own), wanted(load_checkpoint(own), **changes))


def test_a_decoders_null_is_the_encoders_value(own: Path) -> None:
    found = load_checkpoint(own)
    heads = found.model.encoder_attention_heads
    check_beginning(str(own), wanted(found, decoder_attention_heads=None))
    assert found.model.decoder_attention_heads == heads
    with pytest.raises(PlainError, match="decoder_layers"):
        check_beginning(str(own), wanted(found, decoder_layers=0))


def test_a_run_that_has_begun_needs_the_weights_no_longer(
    run: Command, finished: Run, own: Path, tmp_path: Path
) -> None:
    save_checkpoint(load_checkpoint(own), tmp_path / "exported")
    begun = run(f"checkpoint.finetune_from_model={tmp_path / 'exported'}", "optimization.max_update=1")
    again = run(
        "checkpoint.finetune_from_model=no/such/folder", "optimization.max_update=2", f"hydra.run.dir={begun.folder}"
    )
    assert again.num_updates() == 2


def test_the_settings_say_what_a_fixed_input_norm_is(own: Path, tmp_path: Path) -> None:
    whole = load_checkpoint(own)
    model = replace(whole.model, input_norm="fixed", input_mean=3.0)
    network = new_network(whole, input_norm="fixed", input_mean=3.0)
    save_checkpoint(replace(whole, model=model, state=network.state_dict()), tmp_path / "fixed")
    other = new_network(whole, input_norm="fixed", input_mean=-5.0)
    before = {name: tensor.clone() for name, tensor in other.norm.state_dict().items()}
    begin_with(other, str(tmp_path / "fixed"))
    assert before
    assert all(torch.equal(before[name], tensor) for name, tensor in other.norm.state_dict().items())
    assert_same(other, {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("norm.")})


def test_what_holds_no_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlainError, match="there is no such file"):
        check_beginning("no/such.pt", {})
    torch.save({"optimizer": {}}, tmp_path / "none.pt")
    with pytest.raises(PlainError, match="it has no model in it"):
        check_beginning(str(tmp_path / "none.pt"), {"model": {}, "task": {}})
