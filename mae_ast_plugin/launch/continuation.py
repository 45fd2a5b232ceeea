"""What a run folder already holds, and how a run that has begun goes on."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from mae_ast_plugin.checkpoint import OUR_PREFIX, CheckpointError, read_container
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch.beginnings import BEHIND, ENCODER, check_beginning, differing
from mae_ast_plugin.launch.changes import EPOCH_AGAIN, check_manifests, check_settings

logger = logging.getLogger(__name__)

RESTORE_DEFAULT = "checkpoint_last.pt"


class Finished(Exception):
    """The run that was asked for is already complete."""


def check_checkpoints(cfg: Any) -> None:
    """Refuse checkpoints that are named but missing, and let a run that has begun go on from where it was."""
    settings = cfg.checkpoint
    for name in ("continue_once", "restore_file"):
        path = settings.get(name)
        if path and path != RESTORE_DEFAULT:
            _check_foreign(name, path)
    given = settings.restore_file != RESTORE_DEFAULT
    last = Path(settings.save_dir) / RESTORE_DEFAULT
    stored = sorted(
        last.parent.glob("checkpoint*.pt"), key=lambda path: (path == last, path.stat().st_mtime), reverse=True
    )
    if not stored:
        if settings.get("finetune_from_model"):
            check_beginning(settings.finetune_from_model, cfg)
        return
    if given:
        _prefer_own_checkpoint(settings)
    _check_continuation(cfg, _newest_readable(cfg, last, stored))


def is_own(settings: Any) -> bool:
    """Whether the run, if it has begun, goes on from a checkpoint of its own folder."""
    path = settings.restore_file
    return bool(path == RESTORE_DEFAULT or Path(path).resolve().parent == Path(settings.save_dir).resolve())


def _check_foreign(name: str, path: str) -> None:
    if not os.path.isfile(path):
        raise PlainError(f"checkpoint.{name} is {path}: there is no such file")
    tensors = read_container(path, mmap=True).get("model") or {}
    if not any(tensor.startswith(OUR_PREFIX) for tensor in tensors):
        raise PlainError(
            f"checkpoint.{name} is {path}, which this plugin did not train: a run goes on only from its own; to begin "
            "a new one with these weights set checkpoint.finetune_from_model"
        )


def _prefer_own_checkpoint(settings: Any) -> None:
    """A run that was started from a foreign checkpoint and interrupted goes on from its own, with its own optimiser."""
    logger.info(
        f"{settings.save_dir} has checkpoints of this run: going on from them, not from {settings.restore_file}"
    )
    settings.restore_file = RESTORE_DEFAULT
    for name in ("reset_optimizer", "reset_lr_scheduler", "reset_meters", "reset_dataloader"):
        settings[name] = False


def _newest_readable(cfg: Any, last: Path, stored: list[Path]) -> dict[str, Any]:
    """Read the last checkpoint, or point the run to the first of ``stored`` that can be read.

    There is none under the name of the last where a run was killed while it made its first.
    """
    reasons: list[str] = []
    for path in stored:
        try:
            content = read_container(path, mmap=True)
        except CheckpointError as error:
            logger.warning(f"passed over: {error}")
            reasons.append(str(error).replace(str(path), path.name, 1))
            continue
        if path != last:
            cfg.checkpoint.restore_file = str(path)
            logger.warning(f"going on from {path} instead")
        return content
    raise PlainError(
        f"{last.parent}: none of its checkpoints can be read ({reasons[0]}); move the folder away to start again"
    )


def _check_continuation(cfg: Any, content: dict[str, Any]) -> None:
    """Compare a stored run with the one asked for: finished, of another shape, of other data, or of another number of
    processes.
    """
    history = content.get("optimizer_history") or [{}]
    updates = int(history[-1].get("num_updates", 0))
    stored = content.get("cfg") or {}
    save_dir = cfg.checkpoint.save_dir
    difference = differing(stored, cfg, ENCODER + BEHIND)
    if difference is not None:
        name, before, now = difference
        raise PlainError(
            f"{save_dir} holds a run with {name}={before}, but {name}={now} is asked for; choose another "
            "hydra.run.dir, or move the old run away"
        )
    limit = cfg.optimization.max_update
    if limit and updates >= limit:
        raise Finished(
            f"{save_dir} holds a finished run of {updates} updates; raise optimization.max_update to go on, "
            "or choose another hydra.run.dir"
        )
    middle = ((content.get("extra_state") or {}).get("train_iterator") or {}).get("iterations_in_epoch", 0) > 0
    exact = not cfg.checkpoint.reset_dataloader
    check_manifests(cfg, content, exact)
    check_settings(cfg, stored, exact and middle)
    processes = (stored.get("distributed_training") or {}).get("distributed_world_size", 1)
    wanted = cfg.distributed_training.distributed_world_size
    if processes != wanted and middle and exact:
        raise PlainError(
            f"{save_dir} was written by {processes} processes in the middle of an epoch and there are {wanted} now; "
            f"start as many as before, or {EPOCH_AGAIN}"
        )
