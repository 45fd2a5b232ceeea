"""Gets fairseq's command line ready before Hydra composes the configuration.

Called by the Hydra plugin: adds the recipes to the search path, imports the plugin so that its fields are known and
typed, and puts the checks of ``entry`` before the training.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from fairseq.dataclass.configs import FairseqConfig
from fairseq_cli import hydra_train
from hydra._internal import hydra as hydra_runner
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch.entry import check_runs, import_plugin, plain_output, portable
from mae_ast_plugin.launch.overrides import plain_overrides
from mae_ast_plugin.launch.recipes import extends_another, find_config, recipe_folder
from mae_ast_plugin.launch.stopping import end_when_asked

SCHEMA = "fairseq_config"
PROGRAMS = ("fairseq-hydra-train", "hydra_train.py")


def prepare(search_path: ConfigSearchPath) -> None:
    """Make this process's fairseq-hydra-train know the plugin."""
    if Path(sys.argv[0]).name in PROGRAMS:  # not somebody else's, who only composes a configuration
        end_when_asked()
        _speak_plainly()
    search_path.append(provider="mae_ast_plugin", path=f"file://{recipe_folder()}")
    arguments = get_args_parser().parse_args(sys.argv[1:])
    if arguments.config_name:
        try:
            _choose_schema(arguments.config_name, _config_folders(arguments.config_dir, arguments.config_path))
        except PlainError as error:
            raise SystemExit(f"error: {error}") from None
    import_plugin()
    check_runs()
    if not hasattr(hydra_runner.run_job, "plain"):
        hydra_runner.run_job = plain_output(hydra_runner.run_job)
    if not hasattr(hydra_runner.Hydra.multirun, "portable"):
        hydra_runner.Hydra.multirun = portable(hydra_runner.Hydra.multirun)  # type: ignore[method-assign]


def _speak_plainly() -> None:
    """One sentence for settings that cannot be; nothing of the debugging that one of the engine's models turns on."""
    root = logging.getLogger()
    root.setLevel(max(root.level, logging.INFO))  # Hydra sets what is asked for once the settings are known
    if not hasattr(ConfigLoaderImpl.load_configuration, "plain"):
        ConfigLoaderImpl.load_configuration = plain_overrides(  # type: ignore[method-assign]
            ConfigLoaderImpl.load_configuration
        )


def _config_folders(*own: str | None) -> list[Path]:
    engine = Path(hydra_train.__file__).resolve().parent.parent / "fairseq" / "config"
    return [*(Path(folder) for folder in own if folder), recipe_folder(), engine]


def _choose_schema(config_name: str, folders: list[Path]) -> None:
    """Let a config that builds on another take its types from there.

    The engine stores its schema under the name of every config it is started with; merged at that place, the schema's
    defaults would wipe out what the config inherits. Recipes begin with the schema instead, under the name
    ``fairseq_config``.
    """
    config = find_config(config_name, folders)
    store = ConfigStore.instance()
    store.store(name=SCHEMA, node=FairseqConfig)
    if extends_another(config):
        store.repo.pop(f"{config_name}.yaml", None)
