"""Everything that can be known to fail, or to go wrong silently, before a run spends time.

``preflight`` looks at the whole composed configuration once. The traps it closes are those of the engine that
``docs/architecture.md`` lists.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager
from fairseq.logging import progress_bar
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

import mae_ast_plugin
from mae_ast_plugin.checkpoint import CheckpointError, read_container
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.settings import CriterionSettings, ModelSettings, TaskSettings, check, from_mapping

logger = logging.getLogger(__name__)

RESTORE_DEFAULT = "checkpoint_last.pt"


class Finished(Exception):
    """The run that was asked for is already complete."""


def preflight(cfg: Any) -> None:
    """Check and complete ``cfg``; PlainError where it cannot work, Finished where nothing is left to do."""
    with open_dict(cfg):
        cfg.common.user_dir = str(Path(mae_ast_plugin.__file__).resolve().parent)
    _check_settings(cfg)
    _check_precision(cfg)
    _check_batches(cfg)
    _set_up_processes(cfg)
    make_copies_atomic()
    _forget_earlier_runs()
    _check_checkpoints(cfg)
    if cfg.distributed_training.distributed_rank == 0:
        _write_resolved(cfg)


# ---- configuration


def _section(cfg: Any, name: str) -> dict[str, Any]:
    section = cfg.get(name)
    if section is None:
        raise PlainError(f"the configuration has no {name} section; start from a recipe with --config-name")
    return OmegaConf.to_container(section, resolve=True)  # type: ignore[return-value]


def _check_settings(cfg: Any) -> None:
    task = from_mapping(TaskSettings, _section(cfg, "task"))
    criterion = from_mapping(CriterionSettings, _section(cfg, "criterion"))
    check(from_mapping(ModelSettings, _section(cfg, "model")), task, criterion)
    if not task.data or task.data == "???":
        raise PlainError("task.data is missing; set task.data=FOLDER, a folder with train.tsv and valid.tsv")
    if not os.path.isdir(task.data):
        raise PlainError(
            f"task.data is {task.data!r}, which is no folder; make manifests with "
            "`python -m manifests scan AUDIO --out FOLDER` and set task.data=FOLDER"
        )


def _check_precision(cfg: Any) -> None:
    chosen = [name for name in ("fp16", "bf16", "memory_efficient_fp16", "memory_efficient_bf16") if cfg.common[name]]
    if chosen:
        raise PlainError(
            f"common.{chosen[0]}=true would round waveforms and drop the float32 weights from checkpoints; "
            "use model.precision=bfloat16 instead"
        )


def _check_batches(cfg: Any) -> None:
    if cfg.dataset.max_tokens is None and cfg.dataset.batch_size is None:
        raise PlainError("neither dataset.max_tokens (samples) nor dataset.batch_size (clips) is set; set one of them")
    if cfg.optimization.skip_remainder_batch:
        raise PlainError("optimization.skip_remainder_batch=true would leave clips out silently; set it to false")


# ---- processes


def _set_up_processes(cfg: Any) -> None:
    """Make torchrun and Slurm start the same command, on GPUs or CPUs (facts: the engine trains unconnected copies)."""
    settings = cfg.distributed_training
    on_cpu = cfg.common.cpu or not torch.cuda.is_available()
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        settings.distributed_world_size = int(os.environ["WORLD_SIZE"])
        settings.distributed_rank = int(os.environ["RANK"])
        settings.device_id = int(os.environ.get("LOCAL_RANK", 0))
        settings.distributed_no_spawn = True
        settings.distributed_init_method = "env://" if settings.distributed_world_size > 1 else None
    elif int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in os.environ:
        _set_up_slurm(settings)
    elif on_cpu and settings.distributed_world_size > 1:
        raise PlainError(
            f"distributed_training.distributed_world_size is {settings.distributed_world_size}, but there are no GPUs to start "
            f"processes on; start them with torchrun --nproc_per_node {settings.distributed_world_size}"
        )
    if settings.distributed_world_size > 1:
        cfg.checkpoint.load_checkpoint_on_all_dp_ranks = True  # the engine's broadcast cannot be read back
        if on_cpu:
            settings.distributed_backend, settings.ddp_backend = "gloo", "legacy_ddp"


def _set_up_slurm(settings: Any) -> None:
    environment = os.environ
    settings.distributed_world_size = int(environment["SLURM_NTASKS"])
    settings.distributed_rank = int(environment["SLURM_PROCID"])
    settings.device_id = int(environment.get("SLURM_LOCALID", 0))
    settings.distributed_no_spawn = True
    if settings.distributed_port <= 0:
        settings.distributed_port = 20000 + int(environment.get("SLURM_JOB_ID", 0)) % 20000
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", "localhost"))
    first = nodes
    if shutil.which("scontrol"):
        first = subprocess.check_output(["scontrol", "show", "hostnames", nodes], text=True).split()[0]
    settings.distributed_init_method = f"tcp://{first}:{settings.distributed_port}"


# ---- checkpoints


def make_copies_atomic() -> None:
    """Replace the engine's plain copies (checkpoint_last, checkpoint_best) by copies that are whole or absent."""

    def copy(source: str, target: str, overwrite: bool = False) -> bool:
        if not overwrite and os.path.exists(target):
            return False
        partial = f"{target}.tmp"  # always the same: what a killed run leaves is written over by the next
        shutil.copyfile(source, partial)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
        return True

    PathManager.copy = staticmethod(copy)  # type: ignore[method-assign]


def _forget_earlier_runs() -> None:
    """Several runs of one process (a sweep) must not share their best score nor the files of TensorBoard."""
    from fairseq_cli import train

    for writer in progress_bar._tensorboard_writers.values():
        writer.close()
    progress_bar._tensorboard_writers.clear()
    for function, name in ((checkpoint_utils.save_checkpoint, "best"), (train.should_stop_early, "best")):
        if hasattr(function, name):
            delattr(function, name)


def _check_checkpoints(cfg: Any) -> None:
    settings = cfg.checkpoint
    for name in ("finetune_from_model", "continue_once"):
        path = settings.get(name)
        if path and not os.path.isfile(path):
            raise PlainError(f"checkpoint.{name} is {path}: there is no such file")
    if settings.restore_file != RESTORE_DEFAULT:
        if not os.path.isfile(settings.restore_file):
            raise PlainError(f"checkpoint.restore_file is {settings.restore_file}: there is no such file")
        read_container(settings.restore_file, mmap=True)
        return
    last = Path(settings.save_dir) / RESTORE_DEFAULT
    stored = sorted(last.parent.glob("checkpoint*.pt"), key=lambda path: (path == last, path.stat().st_mtime), reverse=True)
    if stored:
        _check_continuation(cfg, _newest_readable(cfg, last, stored))


def _newest_readable(cfg: Any, last: Path, stored: list[Path]) -> dict[str, Any]:
    """Read the last checkpoint, or point the run to the first of ``stored`` that can be read.

    There is none under the name of the last where a run was killed while it made its first.
    """
    for path in stored:
        try:
            content = read_container(path, mmap=True)
        except CheckpointError as error:
            logger.warning(f"passed over: {error}")
            continue
        if path != last:
            cfg.checkpoint.restore_file = str(path)
            logger.warning(f"going on from {path} instead")
        return content
    raise PlainError(f"{last.parent}: none of its checkpoints can be read; move the folder away to start again")


def _check_continuation(cfg: Any, content: dict[str, Any]) -> None:
    """Compare a stored run with the one asked for: finished, of another shape, or of another number of processes."""
    history = content.get("optimizer_history") or [{}]
    updates = int(history[-1].get("num_updates", 0))
    stored = content.get("cfg") or {}
    save_dir = cfg.checkpoint.save_dir
    _check_same_network(stored.get("model") or {}, _section(cfg, "model"), save_dir)
    limit = cfg.optimization.max_update
    if limit and updates >= limit:
        raise Finished(
            f"{save_dir} holds a finished run of {updates} updates; raise optimization.max_update to go on, "
            "or choose another hydra.run.dir"
        )
    processes = (stored.get("distributed_training") or {}).get("distributed_world_size", 1)
    wanted = cfg.distributed_training.distributed_world_size
    middle = ((content.get("extra_state") or {}).get("train_iterator") or {}).get("iterations_in_epoch", 0) > 0
    if processes != wanted and middle and not cfg.checkpoint.reset_dataloader:
        raise PlainError(
            f"{save_dir} was written by {processes} processes in the middle of an epoch and there are {wanted} now; "
            "start as many as before, or set checkpoint.reset_dataloader=true to begin that epoch again"
        )


def _check_same_network(stored: dict[str, Any], wanted: dict[str, Any], save_dir: str) -> None:
    shapes = (
        "ast_kernel_size_chan", "ast_kernel_size_time", "encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim",
        "encoder_attention_heads", "decoder_embed_dim", "decoder_layers", "use_post_enc_proj", "layer_norm_first",
        "enc_conv_pos", "dec_conv_pos",
    )
    for name in shapes:
        if name in stored and stored[name] != wanted[name]:
            raise PlainError(
                f"{save_dir} holds a run with model.{name}={stored[name]}, but model.{name}={wanted[name]} is asked for; "
                "choose another hydra.run.dir, or move the old run away"
            )


def _write_resolved(cfg: Any) -> None:
    run = HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else None
    folder = Path(run or Path(cfg.checkpoint.save_dir).parent)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / "resolved_config.yaml")
