"""What a method is: values for the machine, and how its published files are told and read.

Each file of this folder that defines ``METHOD`` is one published system. Nothing else names them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor

import mae_ast_plugin.methods as folder
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.names import NameTable
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings, from_mapping


@dataclass(frozen=True)
class Foreign:
    """A file of another program: its path, its named tensors, and whatever else it held."""

    path: str
    tensors: Mapping[str, Tensor]
    rest: Mapping[str, Any] = field(default_factory=dict)

    def has(self, *names: str) -> bool:
        """Whether all these tensors are there."""
        return all(name in self.tensors for name in names)

    def count(self, stack: str) -> int:
        """Count the numbered parts under a name: ``blocks`` counts ``blocks.0...``, ``blocks.1...``."""
        prefix = f"{stack}."
        numbers = {name.removeprefix(prefix).split(".")[0] for name in self.tensors if name.startswith(prefix)}
        return len({number for number in numbers if number.isdigit()})


@dataclass(frozen=True)
class Method:
    """One published system.

    ``recognises`` tells its files by their contents; ``settings`` reads off a file what its numbers follow from (a
    PlainError says what is missing); ``names`` is the table between its tensors and ours for such settings.
    """

    title: str
    recognises: Callable[[Foreign], bool]
    settings: Callable[[Foreign], tuple[ModelSettings, TaskSettings]]
    names: Callable[[ModelSettings, TaskSettings], NameTable]


def trained_with(found: Foreign) -> tuple[ModelSettings, TaskSettings]:
    """Settings from the configuration that fairseq writes into its checkpoints; PlainError where there is none."""
    cfg = found.rest.get("cfg")
    model, task = (cfg.get("model"), cfg.get("task")) if isinstance(cfg, Mapping) else (None, None)
    if not isinstance(model, Mapping) or not isinstance(task, Mapping):
        raise PlainError("it has no configuration (cfg.model, cfg.task), so its network cannot be rebuilt")
    return from_mapping(ModelSettings, model), from_mapping(TaskSettings, task)


@cache
def methods() -> dict[str, Method]:
    """All methods by the name of their file."""
    found = {}
    for module in sorted(pkgutil.iter_modules(folder.__path__), key=lambda module: module.name):
        method = getattr(importlib.import_module(f"{folder.__name__}.{module.name}"), "METHOD", None)
        if isinstance(method, Method):
            found[module.name] = method
    return found
