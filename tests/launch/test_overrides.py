"""Misspelt settings and wrong types on the command line: one sentence that names the setting, and what was meant."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fairseq")

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch.overrides import GRAMMAR, check_added, plain_overrides, setting_names


@dataclass
class Model:
    dropout: float = 0.1
    layers: int = 2
    kind: str = "plain"
    wide: bool = False


@dataclass
class Whole:
    model: Model = field(default_factory=Model)
    linked: Any = "${absent}"
    optimizer_of_overrides: Any = None


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compose settings as the command line does."""
    GlobalHydra.instance().clear()
    monkeypatch.setattr("sys.argv", ["compose"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", plain_overrides(ConfigLoaderImpl.load_configuration))
    ConfigStore.instance().store(name="of_overrides", node=Whole)
    ConfigStore.instance().store(group="optimizer_of_overrides", name="adam", node={"betas": 1})
    with initialize_config_dir(str(tmp_path), version_base=None):
        yield lambda *overrides: compose("of_overrides", list(overrides))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.droput=0.3", "there is no setting model.droput; did you mean model.dropout?"),
        ("modle.dropout=0.3", "there is no setting modle.dropout; did you mean model.dropout?"),
        ("~model.droput", "there is no setting model.droput; did you mean model.dropout?"),
        ("modl=1", "there is no setting modl; did you mean model?"),
        ("model.zzz=1", "there is no setting model.zzz; --cfg job lists those there are"),
        ("model.dropout=abc", "model.dropout is 'abc'; it must be a number"),
        ("model.layers=2.5", "model.layers is '2.5'; it must be a whole number"),
        ("model.wide=much", "model.wide is 'much'; it must be true or false"),
        ("model.kind=null", "model.kind is null; it must have a value"),
        (
            "model.kind=[1]",
            "model.kind=[1] is refused: Cannot convert 'list' to string: '[1]'",
        ),
        ("model.dropout", f"'model.dropout' cannot be read; missing EQUAL at '<EOF>'; {GRAMMAR}"),
        ("model.kind=a=b", f"'model.kind=a=b' cannot be read; mismatched input '=' expecting <EOF>; {GRAMMAR}"),
        (
            "+optimizer_of_overrides=adm",
            "there is no optimizer_of_overrides/adm; it must be one of adam",
        ),
    ],
)
def test_what_cannot_be_composed_is_one_sentence(override: str, sentence: str, load: Any) -> None:
    with pytest.raises(SystemExit) as end:
        load(override)
    assert end.value.code == f"error: {sentence}"


def test_settings_can_be_added(load: Any) -> None:
    assert load("+extra=1").extra == 1
    assert load("+optimizer_of_overrides=adam").optimizer_of_overrides.betas == 1
    assert load("++model.dropout=0.5").model.dropout == 0.5


def test_the_whole_trace_can_be_asked_for(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(Exception, match=r"Could not override 'model\.droput'"):
        load("model.droput=1")


def test_an_added_setting_that_nothing_knows_is_named_with_its_section() -> None:
    import mae_ast_plugin.models.mae_ast  # noqa: F401 (registers)

    config = OmegaConf.create({"task": {"data": ""}, "model": {"_name": "mae_ast", "dropout": 0.2}})
    check_added(config)
    config.model.droput = 0.3
    with pytest.raises(PlainError, match=r"^there is no setting model.droput; did you mean model.dropout\?$"):
        check_added(config)


def test_names_are_those_of_sections_and_settings() -> None:
    names = ["model", "model.dropout", "model.layers", "model.kind", "model.wide", "linked", "optimizer_of_overrides"]
    assert list(setting_names(OmegaConf.structured(Whole))) == names
