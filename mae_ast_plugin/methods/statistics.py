"""Means and deviations of mel bins that were measured beforehand: tables that come with the program, and files.

A table is a JSON object with ``mean`` and ``std``, a number for each mel bin.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from mae_ast_plugin.errors import PlainError

TABLES = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.json"))}
"""By name, those that come with the program."""


def read_statistics(name: str, num_bins: int) -> tuple[Tensor, Tensor]:
    """Read mean and deviation, (num_bins,) each, from a table's ``name`` or a file's; PlainError says what is wrong."""
    where = f"model.input_statistics={name}"
    path = TABLES.get(name, Path(name))
    if not path.is_file():
        raise PlainError(f"{where} is no file, nor one of the tables {', '.join(TABLES)}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        means, deviations = ([float(value) for value in content[key]] for key in ("mean", "std"))
    except (ValueError, KeyError, TypeError) as error:
        raise PlainError(f"{where} is no JSON object with lists of numbers under mean and std") from error
    if len(means) != num_bins or len(deviations) != num_bins:
        raise PlainError(
            f"{where} has {len(means)} means and {len(deviations)} deviations, but there are {num_bins} mel bins"
        )
    if not all(value > 0 for value in deviations):
        raise PlainError(f"{where} has a deviation of 0; spectrograms are divided by it")
    return torch.tensor(means), torch.tensor(deviations)
