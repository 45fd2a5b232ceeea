"""Gets fairseq's command line ready before Hydra composes the configuration.

Called by the Hydra plugin: adds the recipes to the search path, imports the plugin so that its fields are known and
typed, and puts the checks of ``preflight`` before the training.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from fairseq.dataclass.configs import FairseqConfig
from fairseq_cli import hydra_train
from hydra._internal import hydra as hydra_runner
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch.continuation import Finished
from mae_ast_plugin.launch.endings import AGAIN, INTERRUPTED, plain_sentence
from mae_ast_plugin.launch.preflight import preflight
from mae_ast_plugin.launch.recipes import extends_another, find_config, recipe_folder
from mae_ast_plugin.launch.saving import system_error, unwritable
from mae_ast_plugin.launch.stopping import listening

SCHEMA = "fairseq_config"
OUR_TASK = "mae_ast_pretraining"

logger = logging.getLogger(__name__)
REGISTERING_MODULES = ("mae_ast_plugin.tasks.mae_ast_pretraining", "mae_ast_plugin.models.mae_ast")


def prepare(search_path: ConfigSearchPath) -> None:
    """Make this process's fairseq-hydra-train know the plugin."""
    search_path.append(provider="mae_ast_plugin", path=f"file://{recipe_folder()}")
    arguments = get_args_parser().parse_args(sys.argv[1:])
    if arguments.config_name:
        try:
            _choose_schema(arguments.config_name, _config_folders(arguments.config_dir, arguments.config_path))
        except PlainError as error:
            raise SystemExit(f"error: {error}") from None
    for module in REGISTERING_MODULES:
        importlib.import_module(module)
    utils = hydra_train.distributed_utils
    if not hasattr(utils.call_main, "checked"):
        utils.call_main = checked(utils.call_main)
    if not hasattr(hydra_runner.run_job, "plain"):
        hydra_runner.run_job = plain_output(hydra_runner.run_job)


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


def checked(call_main: Callable[..., None]) -> Callable[..., None]:
    """Put the checks before ``call_main``; turn every mistake a user can mend into one sentence and exit status 1."""

    @wraps(call_main)
    def run(cfg: Any, main: Callable[..., None], **kwargs: Any) -> None:
        if (cfg.task or {}).get("_name") != OUR_TASK:  # another program's run in the same environment
            return call_main(cfg, main, **kwargs)
        try:
            with listening():
                preflight(cfg)
                call_main(cfg, main, **kwargs)
        except Finished as done:
            print(done, flush=True)
        except KeyboardInterrupt:
            print(f"interrupted; {AGAIN}", flush=True)
            raise SystemExit(INTERRUPTED) from None
        except Exception as error:
            sentence = plain_sentence(error)
            if sentence is None:
                raise
            logger.error(sentence)
            raise SystemExit(f"error: {sentence}") from None
        return None

    run.checked = True  # type: ignore[attr-defined]
    return run


def plain_output(run_job: Callable[..., Any]) -> Callable[..., Any]:
    """Say in one sentence that the run's folder cannot be written; Hydra makes it before any check of ours."""

    @wraps(run_job)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return run_job(*args, **kwargs)
        except (OSError, ValueError) as error:  # of the folder or of the log in it; the training's own are kept inside
            cause = system_error(error)
            if cause is None:
                raise
            sentence = unwritable(cause, str(cause.filename or "the run's folder"), "so the run cannot begin")
            raise SystemExit(f"error: {sentence}") from None

    run.plain = True  # type: ignore[attr-defined]
    return run
