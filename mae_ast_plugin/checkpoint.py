"""Checkpoints: tell whose they are, bring them to our names, rebuild the network, write them as a plain folder.

Reads checkpoints of this plugin's training, folders it exported, and the published files of every method. Needs no
fairseq.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mae_ast_plugin.containers import CONFIG, CheckpointError, read_container, read_folder, write_folder
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.build import autoencoder_of, tokens_of
from mae_ast_plugin.methods.limits import network_problems
from mae_ast_plugin.methods.method import Foreign, methods, trained_with
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings, from_mapping
from mae_ast_plugin.nn.autoencoder import MaskedAutoencoder, Positions
from mae_ast_plugin.nn.normalization import FixedNorm
from mae_ast_plugin.nn.positions import resize_grid

OUR_PREFIX = "autoencoder."
TABLE_SUFFIX = ".sinusoid.table"
GRID_TABLE = "encoder_positions.grid.table"
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


def _num_updates(content: Mapping[str, Any]) -> int:
    match content.get("optimizer_history"):
        case [*_, {"num_updates": int(count)}]:
            return count
    return 0


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Load a checkpoint file or a folder of any known format; CheckpointError where it is none."""
    content = read_folder(path) if Path(path).is_dir() else read_container(path)
    if content.get("format") == FOLDER_FORMAT:
        return _exported(path, content)
    found = _foreign(path, content)
    try:
        if any(name.startswith(OUR_PREFIX) for name in found.tensors):
            model, task = trained_with(found)
            state = {name.removeprefix(OUR_PREFIX): tensor for name, tensor in found.tensors.items()}
            return Checkpoint(str(path), "mae_ast_plugin", model, task, state, _num_updates(content))
        return _published(found)
    except CheckpointError:
        raise
    except PlainError as error:
        raise CheckpointError(path, str(error)) from error


def _foreign(path: str | Path, content: Mapping[str, Any]) -> Foreign:
    """Tell a container's tensors from the rest: under ``model`` or ``state``, or the container is the tensors."""
    for key in ("model", "state"):
        tensors, rest = content.get(key), {name: value for name, value in content.items() if name != key}
        if isinstance(tensors, Mapping) and tensors and all(isinstance(name, str) for name in tensors):
            return Foreign(str(path), tensors, rest)
    if content and all(isinstance(n, str) and isinstance(tensor, Tensor) for n, tensor in content.items()):
        return Foreign(str(path), content)
    raise CheckpointError(path, f"it has no model in it (found: {', '.join(list(map(str, content))[:5])})")


def _published(found: Foreign) -> Checkpoint:
    for method in methods().values():
        if method.recognises(found):
            model, task = method.settings(found)
            state, unknown = method.names(model, task).to_ours(found.tensors)
            if unknown:
                raise CheckpointError(
                    found.path, f"it looks like {method.title} but also holds {', '.join(unknown[:3])}"
                )
            return Checkpoint(found.path, f"published {method.title}", model, task, state, _num_updates(found.rest))
    first = next(iter(found.tensors))
    known = ", ".join(method.title for method in methods().values())
    raise CheckpointError(found.path, f"its tensors are of no known method (first: {first}; known: {known})")


def _exported(path: str | Path, content: Mapping[str, Any]) -> Checkpoint:
    version = content.get("version")
    if version != FOLDER_VERSION:
        raise CheckpointError(
            path, f"it was exported in version {version} of the format, this program knows {FOLDER_VERSION}; update it"
        )
    if not isinstance(content.get("model"), Mapping) or not isinstance(content.get("task"), Mapping):
        raise CheckpointError(path, "its config.json has no model and task, so its network cannot be rebuilt")
    try:
        model, task = from_mapping(ModelSettings, content["model"]), from_mapping(TaskSettings, content["task"])
    except PlainError as error:
        raise CheckpointError(path, str(error)) from error
    updates = content.get("num_updates", 0)
    if not isinstance(updates, int):
        raise CheckpointError(path, f"in its configuration num_updates is {updates!r}, not of the kind int")
    return Checkpoint(str(path), str(content.get("origin", "")), model, task, content["state"], updates)


def save_checkpoint(checkpoint: Checkpoint, folder: str | Path) -> None:
    """Write a checkpoint as a folder of ``model.safetensors`` and ``config.json``; `load_checkpoint` gives it back.

    CheckpointError where it cannot be written, or where the folder holds another program's model.
    """
    there = Path(folder) / CONFIG
    if there.is_file() and f'"{FOLDER_FORMAT}"' not in there.read_text(encoding="utf-8", errors="replace"):
        raise CheckpointError(folder, f"it holds the {CONFIG} of another program; give a new folder")
    content = {
        "format": FOLDER_FORMAT,
        "version": FOLDER_VERSION,
        "origin": checkpoint.origin,
        "num_updates": checkpoint.num_updates,
        "model": asdict(checkpoint.model),
        "task": asdict(checkpoint.task),
    }
    write_folder(folder, content, checkpoint.state)


def regridded(checkpoint: Checkpoint, stride_time: int, stride_chan: int, num_frames: int) -> Checkpoint:
    """The same network with other strides between patches and a table of positions for clips of ``num_frames`` frames.

    Positions are cut from the middle of the table where it is longer and interpolated where it is shorter (facts:
    SSAST 8). Networks without a table only change their strides.
    """
    model = replace(checkpoint.model, ast_kernel_stride_time=stride_time, ast_kernel_stride_chan=stride_chan)
    tokens = tokens_of(model, checkpoint.task.feature_dim * (3 if checkpoint.task.deltas else 1))
    columns, state = tokens.num_time(num_frames), dict(checkpoint.state)
    if model.stage_layers:  # the network sees whole windows only
        return replace(checkpoint, model=replace(model, window_columns=columns))
    table = state.get(GRID_TABLE)
    if table is not None:
        state[GRID_TABLE] = resize_grid(table, columns, tokens.num_chan)
        model = replace(model, max_columns=columns, window_columns=min(columns, model.window_columns))
    return replace(checkpoint, model=model, state=state)


def load_state(network: MaskedAutoencoder, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Fill ``network`` with named tensors, position tables included; CheckpointError names what does not fit."""
    tables = {name: tensor for name, tensor in state.items() if name.endswith(TABLE_SUFFIX)}
    for name, table in tables.items():
        positions = getattr(network, name.split(".")[0], None)
        sinusoid = positions.sinusoid if isinstance(positions, Positions) else None
        if sinusoid is None or not table.dim() or table.shape[-1] != sinusoid.dim:
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
    missing = [name for name in missing if name not in tables and not _made_anew(network, name)]
    if missing or unexpected:
        found = f"without {missing[0]}" if missing else f"with an unknown {unexpected[0]}"
        raise CheckpointError(path, f"its tensors do not fit its configuration: {found}")


def _made_anew(network: MaskedAutoencoder, name: str) -> bool:
    """Whether a tensor may be missing from a file: a mask token that nothing uses, or what the settings give."""
    if name.endswith("_mask_token"):
        return not network.get_parameter(name).requires_grad
    return isinstance(network.norm, FixedNorm) and name.startswith("norm.")


def build_network(checkpoint: Checkpoint) -> MaskedAutoencoder:
    """Rebuild the network of a checkpoint, in evaluation mode."""
    wrong = list(network_problems(checkpoint.model, checkpoint.task))
    if wrong:
        raise CheckpointError(checkpoint.path, f"no network can be built from its configuration: {'; '.join(wrong)}")
    columns = checkpoint.task.feature_dim * (3 if checkpoint.task.deltas else 1)
    network = autoencoder_of(checkpoint.model, columns)
    load_state(network, checkpoint.state, checkpoint.path)
    return network.eval()
