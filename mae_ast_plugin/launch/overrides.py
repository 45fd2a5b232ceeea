"""What is said of settings on the command line that there are none of, or that are of the wrong type: one sentence.

Hydra refuses them before any check of ours, in several lines that advise to add the misspelt setting with ``+``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from difflib import get_close_matches
from functools import wraps
from typing import Any

from fairseq.dataclass.initialize import add_defaults
from hydra.errors import CompactHydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from mae_ast_plugin.errors import PlainError

_UNKNOWN = re.compile(r"Could not override '([^']+)'|Could not delete from config\. '([^']+)' does not exist")
_CONVERTED = re.compile(r"Value .* (?:could not be converted to|is not a valid) (\w+)")
KINDS = {"Float": "a number", "Integer": "a whole number", "bool": "true or false"}
GRAMMAR = """settings are written NAME=VALUE, and 'NAME="VALUE"' where a value has signs such as ="""
LIST = "--cfg job lists those there are"


def plain_overrides(load_configuration: Callable[..., Any]) -> Callable[..., Any]:
    """End the program in one sentence where the command line cannot be composed."""

    @wraps(load_configuration)
    def load(loader: Any, config_name: str | None, overrides: list[str], *args: Any, **kwargs: Any) -> Any:
        try:
            return load_configuration(loader, config_name, overrides, *args, **kwargs)
        except CompactHydraException as error:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise

            def known() -> list[str]:
                return list(setting_names(load_configuration(loader, config_name, [], *args, **kwargs)))

            raise SystemExit(f"error: {override_sentence(error, known)}") from None

    load.plain = True  # type: ignore[attr-defined]
    return load


def check_added(config: DictConfig) -> None:
    """Refuse what was added to a section (``+model.new=1``) that no part of the run knows; PlainError names it."""
    try:
        add_defaults(deepcopy(config))  # as the engine does once training begins
    except ConfigKeyError as error:
        sections = [section for section in map(str, config) if isinstance(config._get_node(section), DictConfig)]
        name = next((f"{section}.{error.key}" for section in sections if error.key in config[section]), str(error.key))
        raise PlainError(_unknown(name, [each for each in setting_names(config) if each != name])) from None


def override_sentence(error: CompactHydraException, known: Callable[[], list[str]]) -> str:
    """Say what is wrong; ``known`` gives the names of all settings, asked for where one is misspelt."""
    lines = [line.strip().removesuffix(".") for line in str(error).splitlines() if line.strip()]
    cause = error.__cause__
    if isinstance(error, OverrideParseException):
        reasons = [line for line in lines if not line.startswith(("Error parsing override", "See http"))]
        return "; ".join([f"{error.override!r} cannot be read", *reasons, GRAMMAR])
    if isinstance(error, MissingConfigException) and error.options:
        return f"there is no {error.missing_cfg_file}; it must be one of {', '.join(error.options)}"
    if unknown := _UNKNOWN.match(str(error)):
        return _unknown(unknown[1] or unknown[2], known())
    if isinstance(cause, OmegaConfBaseException):
        return _refused(lines[0] if lines else "the settings cannot be read", cause)
    return "; ".join(lines)


def _unknown(name: str, known: list[str]) -> str:
    depth = [each for each in known if each.count(".") == name.count(".")]
    nearest = get_close_matches(name, depth, n=1, cutoff=0.75)
    return f"there is no setting {name}; " + (f"did you mean {nearest[0]}?" if nearest else LIST)


def _refused(first: str, cause: OmegaConfBaseException) -> str:
    reason = str(cause).splitlines()[0]
    override = first.removeprefix("Error merging override ")
    name, _, value = override.lstrip("+").partition("=")
    wanted = _CONVERTED.match(reason)
    if wanted and wanted[1] in KINDS:
        return f"{name} is {value!r}; it must be {KINDS[wanted[1]]}"
    if reason.endswith("is not Optional"):
        return f"{name} is null; it must have a value"
    return f"{override} is refused: {reason}" if override != first else f"{first}: {reason}"


def setting_names(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """The names of all sections and settings of a configuration, such as ``model`` and ``model.dropout``."""
    for key in map(str, config):
        yield f"{prefix}{key}"
        child = config._get_node(key)  # as it is written: what refers to others is not looked up
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_missing() or child._is_interpolation()):
            yield from setting_names(child, f"{prefix}{key}.")
