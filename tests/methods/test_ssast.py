"""Sizes of the published networks, against what the recipes build."""

from __future__ import annotations

import pytest
import torch

from mae_ast_plugin.launch.recipe_settings import recipe_settings
from mae_ast_plugin.methods.build import autoencoder_of

TINY = ("model.encoder_embed_dim=192", "model.decoder_embed_dim=192", "model.encoder_ffn_embed_dim=768")
SMALL = ("model.encoder_embed_dim=384", "model.decoder_embed_dim=384", "model.encoder_ffn_embed_dim=1536")


@pytest.mark.parametrize(
    ("recipe", "overrides", "published", "not_built"),
    [
        # the original also counts two whole numbers that it stores as parameters
        ("ssast_patch", (), 87_225_346, 2),
        ("ssast_patch", (*SMALL, "model.encoder_attention_heads=6"), 22_084_354, 2),
        ("ssast_patch", (*TINY, "model.encoder_attention_heads=3"), 5_660_290, 2),
        # and a norm of 128 bins that nothing uses
        ("mae_ast", (), 99_826_176, 256),
    ],
    ids=["SSAST base", "SSAST small", "SSAST tiny", "MAE-AST"],
)
def test_recipes_have_as_many_parameters_as_published(
    recipe: str, overrides: tuple[str, ...], published: int, not_built: int
) -> None:
    found = recipe_settings(recipe, overrides)
    with torch.device("meta"):
        network = autoencoder_of(found.model, found.task.feature_dim)
    counts = [parameter.numel() for parameter in network.parameters() if parameter.requires_grad]
    frozen = [parameter.numel() for parameter in network.parameters() if not parameter.requires_grad]
    counted = sum(counts) + (sum(frozen) if recipe == "mae_ast" else 0)
    assert counted == published - not_built
