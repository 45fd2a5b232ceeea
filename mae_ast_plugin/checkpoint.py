"""Checkpoints: tell whose they are, bring them to our names, rebuild the network, write them as a plain folder.

Reads checkpoints of this plugin's training, folders it exported, and the published MAE-AST layout. Needs no fairseq.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mae_ast_plugin.containers import CheckpointError, read_container, read_folder, write_folder
from mae_ast_plugin.methods import mae_ast
from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings, from_mapping, network_problems
from mae_ast_plugin.nn.autoencoder import MaskedAutoencoder, Positions

OUR_PREFIX = "autoencoder."
TABLE_SUFFIX = ".sinusoid.table"
FOLDER_FORMAT, FOLDER_VERSION = "mae_ast_plugin", 1


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in our terms: the settings it was trained with and our named tensors."""

    path: str
    origin: str
    model: ModelSettings
    task: TaskSettings
    state: dict[str, Tensor]
    num_updates: int


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
    """Load a checkpoint file or an exported folder of any known format; CheckpointError where it is none."""
    if Path(path).is_dir():
        return _load_folder(path)
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


def _load_folder(path: str | Path) -> Checkpoint:
    content = read_folder(path)
    if content.get("format") != FOLDER_FORMAT:
        raise CheckpointError(path, f"its config.json is of format {content.get('format')!r}, not {FOLDER_FORMAT!r}")
    version = content.get("version")
    if version != FOLDER_VERSION:
        raise CheckpointError(
            path, f"it was exported in version {version} of the format, this program knows {FOLDER_VERSION}; update it"
        )
    if not isinstance(content.get("model"), Mapping) or not isinstance(content.get("task"), Mapping):
        raise CheckpointError(path, "its config.json has no model and task, so its network cannot be rebuilt")
    model, task = from_mapping(ModelSettings, content["model"]), from_mapping(TaskSettings, content["task"])
    origin, updates = str(content.get("origin", "")), int(content.get("num_updates", 0))
    return Checkpoint(str(path), origin, model, task, content["state"], updates)


def save_checkpoint(checkpoint: Checkpoint, folder: str | Path) -> None:
    """Write a checkpoint as a folder of ``model.safetensors`` and ``config.json``; `load_checkpoint` gives it back."""
    content = {
        "format": FOLDER_FORMAT,
        "version": FOLDER_VERSION,
        "origin": checkpoint.origin,
        "num_updates": checkpoint.num_updates,
        "model": asdict(checkpoint.model),
        "task": asdict(checkpoint.task),
    }
    write_folder(folder, content, checkpoint.state)


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
