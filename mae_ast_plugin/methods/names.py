"""Tables between the names of a published checkpoint and ours, used in both directions.

A table row is a pair of patterns. ``{}`` stands for one part of a name; a row whose left side lists several names says
that our tensor is those tensors stacked along the first dimension. Loading, exporting and comparing gradients all read
the same table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NameTable:
    """Rows of (their pattern or patterns, our pattern), and patterns of their names that have no counterpart here."""

    rows: Sequence[tuple[str | tuple[str, ...], str]]
    unused: Sequence[str] = ()

    def is_unused(self, name: str) -> bool:
        """Whether ``name`` is one of theirs without a counterpart here."""
        return any(_match(pattern, name) is not None for pattern in self.unused)

    def to_ours(self, theirs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Rename and stack ``theirs``; returns our tensors and the names that no row knows."""
        ours: dict[str, Tensor] = {}
        used: set[str] = {name for name in theirs if self.is_unused(name)}
        for sources, target in self.rows:
            patterns = (sources,) if isinstance(sources, str) else sources
            for name in theirs:
                found = _match(patterns[0], name)
                if found is None:
                    continue
                names = [_fill(pattern, found) for pattern in patterns]
                if all(each in theirs for each in names):
                    parts = [theirs[each] for each in names]
                    ours[_fill(target, found)] = parts[0] if len(parts) == 1 else torch.cat(parts)
                    used.update(names)
        return ours, [name for name in theirs if name not in used]

    def to_theirs(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Undo :meth:`to_ours` for every tensor that a row knows."""
        theirs: dict[str, Tensor] = {}
        for sources, target in self.rows:
            patterns = (sources,) if isinstance(sources, str) else sources
            for name, tensor in ours.items():
                found = _match(target, name)
                if found is not None:
                    parts = (tensor,) if len(patterns) == 1 else tensor.chunk(len(patterns))
                    for pattern, part in zip(patterns, parts, strict=True):
                        theirs[_fill(pattern, found)] = part
        return theirs


def _match(pattern: str, name: str) -> tuple[str, ...] | None:
    expression = re.escape(pattern).replace(r"\{\}", r"([^.]+)")
    found = re.fullmatch(expression, name)
    return found.groups() if found else None


def _fill(pattern: str, parts: tuple[str, ...]) -> str:
    return pattern.format(*parts)
