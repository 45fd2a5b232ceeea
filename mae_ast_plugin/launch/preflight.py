"""Everything that can be known to fail, or to go wrong silently, before a run spends time.

``preflight`` looks at the whole composed configuration once. The traps it closes are those of the engine that
``docs/architecture.md`` lists.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

import mae_ast_plugin
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch.continuation import check_checkpoints
from mae_ast_plugin.launch.grouping import check_grouping
from mae_ast_plugin.launch.overrides import check_added
from mae_ast_plugin.launch.ranges import range_problems
from mae_ast_plugin.launch.repairs import forget_earlier_runs, repair_engine
from mae_ast_plugin.launch.saving import check_writable
from mae_ast_plugin.methods.limits import problems
from mae_ast_plugin.methods.settings import CriterionSettings, ModelSettings, TaskSettings, from_mapping

logger = logging.getLogger(__name__)


def preflight(cfg: Any) -> None:
    """Check and complete ``cfg``; PlainError where it cannot work, Finished where nothing is left to do."""
    _set_user_dir(cfg)
    _check_settings(cfg)
    _check_precision(cfg)
    check_grouping(cfg)
    _check_batches(cfg)
    check_added(cfg)
    _set_up_processes(cfg)
    repair_engine()
    forget_earlier_runs()
    check_checkpoints(cfg)
    if cfg.distributed_training.distributed_rank == 0:
        if not cfg.checkpoint.no_save:
            check_writable(cfg.checkpoint.save_dir)
        _write_resolved(cfg)


# ---- configuration


def _set_user_dir(cfg: Any) -> None:
    """Name this package's folder, which the engine's child processes import; a name alone works from any folder."""
    own = Path(mae_ast_plugin.__file__).resolve().parent
    given = cfg.common.user_dir
    if given and Path(given).name != own.name:
        raise PlainError(
            f"common.user_dir is {given}, but task.mae_ast_pretraining belongs to common.user_dir={own.name}"
        )
    with open_dict(cfg):
        cfg.common.user_dir = str(own)


def _section(cfg: Any, name: str) -> dict[str, Any]:
    section = cfg.get(name)
    if section is None:
        raise PlainError(f"the configuration has no {name} section; start from a recipe with --config-name")
    return OmegaConf.to_container(section, resolve=True)  # type: ignore[return-value]


def _check_settings(cfg: Any) -> None:
    task = from_mapping(TaskSettings, _section(cfg, "task"))
    criterion = from_mapping(CriterionSettings, _section(cfg, "criterion"))
    model = from_mapping(ModelSettings, _section(cfg, "model"))
    whole: Any = OmegaConf.to_container(cfg, resolve=True)
    found = [*problems(model, task, criterion), *range_problems(whole)]
    if found:
        raise PlainError("; ".join(found))
    if not task.data or task.data == "???":
        raise PlainError("task.data is missing; set task.data=FOLDER, a folder with train.tsv and valid.tsv")
    if not os.path.isdir(task.data):
        raise PlainError(
            f"task.data is {task.data!r}, which is no folder; make manifests with "
            "`python -m manifests scan AUDIO --out FOLDER` and set task.data=FOLDER"
        )


def _check_precision(cfg: Any) -> None:
    for name in ("fp16", "bf16", "amp", "memory_efficient_fp16", "memory_efficient_bf16"):
        if cfg.common[name]:
            effect = "have no effect" if name == "amp" else "round waveforms and lose float32 weights"
            raise PlainError(f"common.{name}=true would {effect}; use model.precision=bfloat16 instead")


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
        settings.device_id = _own_device(os.environ.get("LOCAL_RANK"))
        settings.distributed_no_spawn = True
        settings.distributed_init_method = "env://" if settings.distributed_world_size > 1 else None
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # only srun sets it, a batch script alone is one process
        _set_up_slurm(settings)
    elif on_cpu and settings.distributed_world_size > 1:
        raise PlainError(
            f"distributed_training.distributed_world_size is {settings.distributed_world_size}, but there are no "
            f"GPUs to start "
            f"processes on; start them with torchrun --nproc_per_node {settings.distributed_world_size}"
        )
    if settings.distributed_world_size > 1:
        cfg.checkpoint.load_checkpoint_on_all_dp_ranks = True  # the engine's broadcast cannot be read back
        if on_cpu:
            _set_up_cpus(settings)


def _set_up_cpus(settings: Any) -> None:
    """Connect processes without GPUs by gloo, where nothing else than the default for GPUs is asked for."""
    if settings.distributed_backend == "nccl":
        settings.distributed_backend = "gloo"
        logger.info("no GPUs are used: processes are connected by distributed_training.distributed_backend=gloo")


def _own_device(local_rank: str | None) -> int:
    """The GPU of a process; where each process is shown one GPU only, that is number 0."""
    rank, num_devices = int(local_rank or 0), torch.cuda.device_count()
    return rank % num_devices if num_devices else rank


def _set_up_slurm(settings: Any) -> None:
    environment = os.environ
    settings.distributed_world_size = int(environment["SLURM_STEP_NUM_TASKS"])
    settings.distributed_rank = int(environment["SLURM_PROCID"])
    settings.device_id = _own_device(environment.get("SLURM_LOCALID"))
    settings.distributed_no_spawn = True
    if settings.distributed_port <= 0:
        settings.distributed_port = 20000 + int(environment.get("SLURM_JOB_ID", 0)) % 20000
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", "localhost"))
    settings.distributed_init_method = f"tcp://{first_host(nodes)}:{settings.distributed_port}"


def first_host(nodes: str) -> str:
    """The first host of a list as Slurm writes it: ``node[01-02,05],gpu3`` begins with ``node01``."""
    first = re.match(r"(?:[^\[\],\s]|\[\w+(?:-\w+)?(?:,\w+(?:-\w+)?)*\])+(?=,|$)", nodes.strip())
    if first is None:
        raise PlainError(
            f"SLURM_STEP_NODELIST or SLURM_JOB_NODELIST is {nodes!r}, which names no first host; start the "
            "processes with torchrun instead"
        )
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0])


def _write_resolved(cfg: Any) -> None:
    run = HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else None
    folder = Path(run or Path(cfg.checkpoint.save_dir).parent)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / "resolved_config.yaml")
