"""Every network gives every parameter a gradient in every update, so that DistributedDataParallel need not search."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import distributed, nn

from mae_ast_plugin.criterions.mae_ast import MaskedPredictionCriterion
from mae_ast_plugin.launch.recipes import recipe_folder, recipe_names
from mae_ast_plugin.methods.settings import CriterionSettings, ModelSettings, TaskSettings, from_mapping
from mae_ast_plugin.models.mae_ast import MaskedAutoencoderModel

CLIPS = (12000, 9000)
SMALL = {
    "encoder_layers": 3,
    "decoder_layers": 1,
    "encoder_embed_dim": 32,
    "decoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "decoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
}
DROP = {"encoder_layerdrop": 0.5, "decoder_layerdrop": 0.5}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "as it is": ("", {}),
    "layers dropped": ("", DROP),
    "layers dropped and recomputed": ("mae_ast", {**DROP, "checkpoint_activations": True}),
    "positions by convolution": ("mae_ast", {"enc_conv_pos": True, "dec_conv_pos": True, "enc_sine_pos": False}),
    "mask tokens in the encoder, and a decoder": ("mae_ast", {"hide_in_encoder": True}),
    "in bfloat16": ("mae_ast", {**DROP, "precision": "bfloat16"}),
    "nothing classified": ("mae_ast", {"classification_weight": 0.0}),
    "nothing reconstructed": ("mae_ast", {"reconstruction_weight": 0.0}),
    "nothing reconstructed in one of two passes": ("ssast_patch", {"reconstruction_weight": 0.0}),
}


def cases() -> Iterator[Any]:
    names = [name for name in recipe_names([recipe_folder()]) if not name.endswith("_tiny")]
    for variant, (only, changes) in VARIANTS.items():
        for name in [only] if only else names:
            yield pytest.param(name, changes, id=f"{name}, {variant}")


@pytest.fixture(scope="module")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A group of one process: DistributedDataParallel keeps its books as it does for many."""
    meeting = tmp_path_factory.mktemp("group") / "meeting"
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def settings_of(composed: Any, changes: dict[str, Any]) -> tuple[ModelSettings, TaskSettings, CriterionSettings]:
    sections = {name: OmegaConf.to_container(composed[name]) for name in ("model", "task", "criterion")}
    sections["model"].update(SMALL | ({} if sections["model"]["decoder_layers"] else {"decoder_layers": 0}))
    for section in sections.values():
        section.update({name: value for name, value in changes.items() if name in section})
    kinds = {"model": ModelSettings, "task": TaskSettings, "criterion": CriterionSettings}
    return tuple(from_mapping(kinds[name], sections[name]) for name in kinds)  # type: ignore[return-value]


def batch(number: int, rate: int) -> dict[str, Any]:
    """Noise of two lengths; ``number`` decides on it and on what is hidden."""
    lengths = [length * rate // 16000 for length in CLIPS]
    draw = torch.Generator().manual_seed(number)
    waveforms = 0.1 * torch.randn(len(lengths), max(lengths), generator=draw)
    seeds = torch.tensor([number, number + 100])
    return {"waveforms": waveforms, "lengths": lengths, "clip_seeds": seeds, "batch_seed": number}


@pytest.mark.parametrize(("recipe", "changes"), cases())
def test_every_parameter_has_a_gradient_in_every_update(
    recipe: str, changes: dict[str, Any], compose_recipe: Callable[..., Any], process_group: None
) -> None:
    torch.manual_seed(1)
    model_settings, task, criterion_settings = settings_of(compose_recipe(recipe), changes)
    model = MaskedAutoencoderModel(model_settings, task).train()
    criterion = MaskedPredictionCriterion(criterion_settings)
    wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=False)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for number in range(4):  # the wrapper complains in the update after the one in which a parameter had none
        wrapped.zero_grad()
        reconstruction, classification = wrapped(**batch(number, task.sample_rate))
        loss, size, _ = criterion.losses(reconstruction, len(CLIPS), classification)
        (loss / size).backward()
        assert [name for name, parameter in trained.items() if parameter.grad is None] == []
        assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in trained.values())


RANK = """
import sys, torch
from torch import distributed, nn
from mae_ast_plugin.nn.transformer import Transformer, TransformerSettings

rank, meeting = int(sys.argv[1]), sys.argv[2]
torch.manual_seed(1)
stack = Transformer(TransformerSettings(num_layers=4, dim=8, ffn_dim=12, num_heads=2, layer_drop=0.5)).train()
inputs = torch.randn(3, 2, 2, 5, 8)  # of three updates, for two processes

class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.stack = stack
    def forward(self, x):
        return self.stack(x).last

def gradients(model, update, part):
    torch.manual_seed(10 * update + part)  # the processes drop different layers
    stack.zero_grad()
    model(inputs[update, part]).square().sum().backward()
    return [parameter.grad.clone() for parameter in stack.parameters()]

alone = [[gradients(Last(), update, part) for part in range(2)] for update in range(3)]
distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
wrapped = nn.parallel.DistributedDataParallel(Last(), find_unused_parameters=False)
for update in range(3):
    for found, one, other in zip(gradients(wrapped, update, rank), *alone[update]):
        torch.testing.assert_close(found, (one + other) / 2)
dropped = [[not any(g.any() for g in each[:12]) for each in update] for update in alone]
print(dropped)
"""


def test_two_processes_that_drop_different_layers_have_the_mean_of_their_gradients(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", RANK, str(rank), str(tmp_path / "meeting")],
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in started:
        output, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors[-3000:]
        assert "[True, False]" in output or "[False, True]" in output  # the first layer, in one process alone
