"""Tables between the names of a published checkpoint and ours, used in both directions.

A row is (their pattern or patterns, our pattern or patterns) and, where tensors also change their form, the `Change`
between them. ``{}`` stands for one part of a name. Several patterns on their side and one on ours say that our tensor
is theirs stacked along the first dimension. Loading, exporting and comparing gradients all read the same table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]
Patterns = str | tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """How the tensors of a row become ours and back; each function takes and gives as many as the row names."""

    to_ours: Callable[..., Tensors]
    to_theirs: Callable[..., Tensors]


@dataclass(frozen=True)
class NameTable:
    """Rows of (their patterns, our patterns[, change]), and patterns of their names that have no counterpart here.

    ``optional_prefix`` may stand before their names in a file; the table is written without, and so is what it gives.
    """

    rows: Sequence[tuple[Patterns, Patterns] | tuple[Patterns, Patterns, Change]]
    unused: Sequence[str] = ()
    optional_prefix: str = ""

    @cached_property
    def _rows(self) -> list[tuple[tuple[str, ...], tuple[str, ...], Change]]:
        rows = []
        for theirs, ours, *change in self.rows:
            sources, targets = _tuple(theirs), _tuple(ours)
            rows.append((sources, targets, change[0] if change else _stacking(len(sources))))
        return rows

    def is_unused(self, name: str) -> bool:
        """Whether ``name`` is one of theirs without a counterpart here."""
        bare = name.removeprefix(self.optional_prefix)
        return any(_match(pattern, bare) is not None for pattern in self.unused)

    def to_ours(self, theirs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Rename and change ``theirs``; returns our tensors and the names that no row knows."""
        theirs = {name.removeprefix(self.optional_prefix): tensor for name, tensor in theirs.items()}
        used: set[str] = {name for name in theirs if self.is_unused(name)}
        ours: dict[str, Tensor] = {}
        for sources, targets, change in self._rows:
            for names, wanted in _found(sources, targets, theirs):
                ours.update(zip(wanted, change.to_ours(*(theirs[name] for name in names)), strict=True))
                used.update(names)
        return ours, [name for name in theirs if name not in used]

    def to_theirs(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Undo :meth:`to_ours` for every tensor that a row knows."""
        theirs: dict[str, Tensor] = {}
        for sources, targets, change in self._rows:
            for names, wanted in _found(targets, sources, ours):
                theirs.update(zip(wanted, change.to_theirs(*(ours[name] for name in names)), strict=True))
        return theirs


def _tuple(patterns: Patterns) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else patterns


def _stacking(count: int) -> Change:
    """As many tensors stacked along the first dimension; one stays as it is."""
    if count == 1:
        return Change(lambda tensor: (tensor,), lambda tensor: (tensor,))
    return Change(lambda *parts: (torch.cat(parts),), lambda whole: whole.chunk(count))


def _found(
    here: tuple[str, ...], there: tuple[str, ...], tensors: Mapping[str, Tensor]
) -> list[tuple[list[str], list[str]]]:
    """Names in ``tensors`` that fit the patterns ``here``, all of a row together, with their names ``there``."""
    found = []
    for name in tensors:
        parts = _match(here[0], name)
        if parts is not None:
            names = [_fill(pattern, parts) for pattern in here]
            if all(each in tensors for each in names):
                found.append((names, [_fill(pattern, parts) for pattern in there]))
    return found


def _match(pattern: str, name: str) -> tuple[str, ...] | None:
    expression = re.escape(pattern).replace(r"\{\}", r"([^.]+)")
    found = re.fullmatch(expression, name)
    return found.groups() if found else None


def _fill(pattern: str, parts: tuple[str, ...]) -> str:
    return pattern.format(*parts)
