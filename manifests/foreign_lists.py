"""Lists of clips of any system, as items with a place in their list, a path and a label; and what roots they share.

What one system's list looks like is its own module's business.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mae_ast_plugin.audio.manifest import Manifest
from mae_ast_plugin.errors import PlainError


class Item(NamedTuple):
    """A clip of a list: where it stands there ("line 3"), its path as it stands there, its label if it has any."""

    where: str
    path: str
    label: str | None


class ListFormat(NamedTuple):
    """A system's list: its name for people, how it is read and written, and the options of `convert` it heeds.

    ``read`` takes the list and the options. ``write`` takes the target, the root folder of the clips, items with
    absolute paths and the options, and gives sentences about what the list does not hold.
    """

    name: str
    read: Callable[[Path, argparse.Namespace], Iterator[Item]]
    write: Callable[[Path, str, Sequence[Item], argparse.Namespace], list[str]]
    options: tuple[str, ...]


def manifest_items(path: Path) -> Iterator[Item]:
    """Give the rows of a manifest with absolute paths."""
    for index, row in enumerate(Manifest.load(path)):
        yield Item(f"line {index + 2}", row.path, row.label or None)


def choose_root(given: str | None, listing: Path, items: Sequence[Item]) -> str:
    """Give the folder that paths are relative to: the given one, the one that absolute paths share, or the list's."""
    if given is not None:
        if not os.path.isdir(given):
            raise PlainError(f"--root {given} is not a folder: give the folder that the paths of {listing} begin in")
        return os.path.abspath(given)
    if all(os.path.isabs(item.path) for item in items):
        return os.path.commonpath({os.path.dirname(item.path) for item in items})
    return os.path.dirname(os.path.abspath(listing))


def below(root: str, path: str) -> str:
    """Give a path relative to ``root`` where it lies below it, otherwise as it is."""
    return path.removeprefix(os.path.join(root, "")).removeprefix("./")
