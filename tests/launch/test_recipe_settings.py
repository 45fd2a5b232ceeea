"""The settings of a recipe that are read without the trainer are those that the trainer would compose."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("omegaconf")

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch.recipe_settings import recipe_settings
from mae_ast_plugin.launch.recipes import recipe_folder, recipe_names
from mae_ast_plugin.methods.settings import CriterionSettings, ModelSettings, TaskSettings, from_mapping


def test_every_recipe_is_read_as_the_trainer_composes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = pytest.importorskip("fairseq.dataclass.configs")
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    import mae_ast_plugin.models.mae_ast
    import mae_ast_plugin.tasks.mae_ast_pretraining  # noqa: F401 (registers)

    ConfigStore.instance().store(name="fairseq_config", node=configs.FairseqConfig)
    overrides = ["task.data=x", "model.dropout=0.25"]
    GlobalHydra.instance().clear()  # another test of this process may have left its own
    monkeypatch.setattr(sys, "argv", ["compose"])  # where the trainer is loaded, our Hydra plugin reads its arguments
    with hydra.initialize_config_dir(str(recipe_folder()), version_base=None):
        for name in recipe_names([recipe_folder()]):
            composed, found = hydra.compose(name, overrides), recipe_settings(name, overrides)
            for kind, section in ((ModelSettings, "model"), (TaskSettings, "task"), (CriterionSettings, "criterion")):
                values = OmegaConf.to_container(composed[section])
                assert getattr(found, section) == from_mapping(kind, values), f"{section} of {name}"
            for key in ("max_tokens", "batch_size", "num_workers"):
                assert found.dataset.get(key) == composed.dataset[key], f"dataset.{key} of {name}"
            assert found.model.dropout == 0.25


@pytest.mark.parametrize(
    "override", ["model", "model=2", "encoder_layers=2", "model.absent=2", "optimizer.lr=1", "dataset.x=1", "=1"]
)
def test_an_override_of_nothing_is_refused(override: str) -> None:
    with pytest.raises(PlainError, match=r"is no setting that matters here: write model\.NAME=VALUE"):
        recipe_settings("mae_ast", [override])


def test_settings_that_cannot_work_are_refused_together() -> None:
    with pytest.raises(PlainError, match=r"model.encoder_layers is 0.*task.max_unreadable is 2"):
        recipe_settings("mae_ast", ["model.encoder_layers=0", "task.max_unreadable=2"])
