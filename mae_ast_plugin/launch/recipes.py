"""Where the recipes lie and which there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mae_ast_plugin.errors import PlainError


def recipe_folder() -> Path:
    """The folder ``config/``: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    return next(folder for folder in (package / "config", package.parent / "config") if folder.is_dir())


def recipe_names(folders: Iterable[Path]) -> list[str]:
    """Names of the YAML files in ``folders``."""
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def find_config(name: str, folders: Sequence[Path]) -> Path:
    """The YAML file of a config name; PlainError where no folder has it: the engine would run bare defaults."""
    wanted = name.removesuffix(".yaml")
    for folder in folders:
        if (folder / f"{wanted}.yaml").is_file():
            return folder / f"{wanted}.yaml"
    raise PlainError(f"there is no recipe {wanted!r}; --config-name must be one of {', '.join(recipe_names(folders))}")


def extends_another(config: Path) -> bool:
    """Whether a config builds on another whole config, such as a recipe or the engine's schema."""
    content = OmegaConf.load(config)
    defaults = content.get("defaults", []) if isinstance(content, DictConfig) else []
    return any(isinstance(entry, str) and entry != "_self_" for entry in defaults)
