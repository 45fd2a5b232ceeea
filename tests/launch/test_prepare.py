"""The checks before a run: wired into the command, told together, and each end said once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fairseq_cli.hydra_train")

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import OmegaConf

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch import entry, preflight, prepare


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """The root of all loggers, without handlers."""
    logger = logging.getLogger()
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logging.WARNING)
    return logger


def test_the_command_ends_in_sentences_and_does_not_debug(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", lambda *_: None)
    monkeypatch.setattr(root, "level", logging.DEBUG)  # as one of the engine's models sets it
    prepare._speak_plainly()
    once = ConfigLoaderImpl.load_configuration
    assert hasattr(once, "plain")
    assert root.level == logging.INFO
    prepare._speak_plainly()
    assert ConfigLoaderImpl.load_configuration is once


def test_mistakes_in_the_settings_of_the_plugin_and_of_the_trainer_are_told_together() -> None:
    config = OmegaConf.create(
        {"task": {}, "criterion": {}, "model": {"dropout": 2.0}, "optimization": {"lr": [-1.0]}, "common": {"seed": -1}}
    )
    with pytest.raises(PlainError) as refused:
        preflight._check_settings(config)
    told = ("model.dropout is 2.0", "optimization.lr is -1.0", "common.seed is -1")
    assert all(f"{part}; it must be" in str(refused.value) for part in told)


def test_a_run_says_once_on_the_terminal_why_it_ends_and_writes_it_to_the_log(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(cfg: Any) -> None:
        raise PlainError("there is nothing to learn from")

    monkeypatch.setattr(entry, "preflight", refuse)
    log = logging.FileHandler(tmp_path / "log")
    root.handlers[:] = [logging.StreamHandler(), log]
    config = OmegaConf.create({"task": {"_name": entry.OUR_TASK}})
    with pytest.raises(SystemExit, match=r"^error: there is nothing to learn from$"):
        entry.checked(lambda *_: None)(config, refuse)
    log.close()
    assert (tmp_path / "log").read_text() == "there is nothing to learn from\n"
    assert "".join(capfd.readouterr()) == ""
