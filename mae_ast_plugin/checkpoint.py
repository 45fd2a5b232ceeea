"""Checkpoint files: tell the format, load it as data, never as code.

Reads checkpoints of this plugin's training and the published MAE-AST layout, both fairseq containers of a
configuration and named tensors. Needs no fairseq.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods import mae_ast
from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings, from_mapping, network_problems
from mae_ast_plugin.nn.autoencoder import MaskedAutoencoder, Positions

OUR_PREFIX = "autoencoder."
TABLE_SUFFIX = ".sinusoid.table"


class CheckpointError(PlainError):
    """A checkpoint file that cannot be used; the message begins with its path."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in our terms: the settings it was trained with and our named tensors."""

    path: str
    origin: str
    model: ModelSettings
    task: TaskSettings
    state: dict[str, Tensor]
    num_updates: int


def read_container(path: str | Path, map_location: str = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Read a file written by torch.save as plain data; CheckpointError says why where that is impossible or unsafe."""
    if not Path(path).is_file():
        raise CheckpointError(path, "there is no such file")
    try:
        content = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) and ("GLOBAL" in str(error) or "global" in str(error)):
            what = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line), "a Python object")
            raise CheckpointError(
                path,
                f"it holds code, not only data ({what.rstrip('.')}), and is not opened; "
                "convert it to plain tensors where you trust its source",
            ) from error
        raise CheckpointError(path, "it is not a checkpoint, or it is damaged") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            path, "it is truncated or not a checkpoint; copy it again or take an older one"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(path, f"it holds a {type(content).__name__}, not the dictionary of a checkpoint")
    return content


def _settings(path: str | Path, content: Mapping[str, Any]) -> tuple[ModelSettings, TaskSettings]:
    cfg = content.get("cfg")
    if (
        not isinstance(cfg, Mapping)
        or not isinstance(cfg.get("model"), Mapping)
        or not isinstance(cfg.get("task"), Mapping)
    ):
        raise CheckpointError(path, "it has no configuration (cfg.model, cfg.task), so its network cannot be rebuilt")
    return from_mapping(ModelSettings, cfg["model"]), from_mapping(TaskSettings, cfg["task"])


def _num_updates(content: Mapping[str, Any]) -> int:
    history = content.get("optimizer_history") or [{}]
    return int(history[-1].get("num_updates", 0))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Load a checkpoint of any known format; CheckpointError where it is none."""
    content = read_container(path)
    tensors = content.get("model")
    if not isinstance(tensors, Mapping) or not tensors:
        raise CheckpointError(path, f"it has no model in it (found: {', '.join(list(map(str, content))[:5])})")
    model, task = _settings(path, content)
    if any(name.startswith(OUR_PREFIX) for name in tensors):
        origin, state = "mae_ast_plugin", {name.removeprefix(OUR_PREFIX): tensor for name, tensor in tensors.items()}
    elif "post_extract_proj.weight" in tensors:
        origin = "published MAE-AST"
        state, unknown = mae_ast.NAMES.to_ours(tensors)
        if unknown:
            raise CheckpointError(path, f"it looks like MAE-AST but also holds {', '.join(unknown[:3])}")
    else:
        raise CheckpointError(path, f"its tensors are of no known method (first: {next(iter(tensors))})")
    return Checkpoint(str(path), origin, model, task, state, _num_updates(content))


def load_state(network: MaskedAutoencoder, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Fill ``network`` with named tensors, position tables included; CheckpointError names what does not fit."""
    tables = {name: tensor for name, tensor in state.items() if name.endswith(TABLE_SUFFIX)}
    for name, table in tables.items():
        positions = getattr(network, name.split(".")[0], None)
        sinusoid = positions.sinusoid if isinstance(positions, Positions) else None
        if sinusoid is None or table.shape[-1] != sinusoid.dim:
            wanted = "none is configured" if sinusoid is None else f"positions are {sinusoid.dim} wide"
            raise CheckpointError(
                path,
                f"its tensors do not fit its configuration: size mismatch for {name} of shape {tuple(table.shape)}: "
                f"{wanted}",
            )
        sinusoid.load_table(table.reshape(-1, table.shape[-1]))
    try:
        missing, unexpected = network.load_state_dict(
            {name: tensor for name, tensor in state.items() if name not in tables}, strict=False
        )
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise CheckpointError(path, f"its tensors do not fit its configuration: {first}") from error
    missing = [name for name in missing if name not in tables]
    if missing or unexpected:
        found = f"without {missing[0]}" if missing else f"with an unknown {unexpected[0]}"
        raise CheckpointError(path, f"its tensors do not fit its configuration: {found}")


def build_network(checkpoint: Checkpoint) -> MaskedAutoencoder:
    """Rebuild the network of a checkpoint, in evaluation mode."""
    wrong = list(network_problems(checkpoint.model, checkpoint.task))
    if wrong:
        raise CheckpointError(checkpoint.path, f"no network can be built from its configuration: {'; '.join(wrong)}")
    columns = checkpoint.task.feature_dim * (3 if checkpoint.task.deltas else 1)
    network = autoencoder_of(checkpoint.model, columns)
    load_state(network, checkpoint.state, checkpoint.path)
    return network.eval()
