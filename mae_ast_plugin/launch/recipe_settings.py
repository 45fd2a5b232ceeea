"""The settings of a recipe without a run: for what measures data or time beforehand. Does not load the trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch.recipes import find_config, recipe_folder
from mae_ast_plugin.methods.limits import check
from mae_ast_plugin.methods.settings import CriterionSettings, ModelSettings, TaskSettings, from_mapping

ENGINE = "fairseq_config"  # the trainer's own defaults, which the sections below do not depend on
BATCHES = ("max_tokens", "batch_size", "required_batch_size_multiple", "num_workers")  # of ``dataset.*``
SECTIONS = {"model": ModelSettings, "task": TaskSettings, "criterion": CriterionSettings}


class Recipe(NamedTuple):
    """What a run would be made of; ``dataset`` as it is written."""

    model: ModelSettings
    task: TaskSettings
    criterion: CriterionSettings
    dataset: Mapping[str, Any]


def recipe_settings(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by name, changed by overrides such as ``model.encoder_layers=2``.

    PlainError for a recipe or setting that there is none of, and for settings that cannot work.
    """
    for override in overrides:
        _check_override(override)
    try:
        content: Any = OmegaConf.merge(_composed(name), OmegaConf.from_dotlist(list(overrides)))
        values = {section: _plain(content.get(section, {})) for section in (*SECTIONS, "dataset")}
    except OmegaConfBaseException as error:
        raise PlainError(f"the settings of {name} cannot be read: {str(error).splitlines()[0]}") from error
    recipe = Recipe(
        from_mapping(ModelSettings, values["model"]),
        from_mapping(TaskSettings, values["task"]),
        from_mapping(CriterionSettings, values["criterion"]),
        values["dataset"],
    )
    check(recipe.model, recipe.task, recipe.criterion)
    return recipe


def _plain(section: Any) -> Any:
    return OmegaConf.to_container(section, resolve=True) if isinstance(section, DictConfig) else section


def _composed(name: str) -> DictConfig:
    """A recipe upon those it begins with; the trainer's groups, such as the optimiser, are not among the sections."""
    own = OmegaConf.load(find_config(name, [recipe_folder()]))
    assert isinstance(own, DictConfig), "recipes are mappings"
    bases = [entry for entry in own.pop("defaults", []) if isinstance(entry, str) and entry not in ("_self_", ENGINE)]
    whole = OmegaConf.merge(*(_composed(base) for base in bases), own)
    assert isinstance(whole, DictConfig)
    return whole


def _check_override(override: str) -> None:
    name, equals, _ = override.partition("=")
    section, _, setting = name.partition(".")
    known = {entry.name for entry in fields(SECTIONS[section])} if section in SECTIONS else set[str]()
    if not equals or setting not in (BATCHES if section == "dataset" else known):
        raise PlainError(
            f"{override!r} is no setting that matters here: write model.NAME=VALUE, or the same of task or criterion, "
            f"or of dataset {', '.join(BATCHES)}"
        )
