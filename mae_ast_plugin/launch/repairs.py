"""Repairs of the engine that hold for a whole process, the engine's own child processes included."""

from __future__ import annotations

import logging
import multiprocessing
from functools import wraps
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.models import distributed_fairseq_model
from fairseq_cli import train

from mae_ast_plugin.launch.records import close_event_files, end_with_the_log, keep_event_files_going
from mae_ast_plugin.launch.saving import make_saves_whole
from mae_ast_plugin.launch.stopping import Stopped, listen, stop_signal
from mae_ast_plugin.launch.trainer import SteadyTrainer, ValidationCutError

logger = logging.getLogger(__name__)


def repair_engine() -> None:
    """Make saves whole, let the run survive what the trainer can mend, and let it be stopped. Repeated, it does
    nothing.
    """
    make_saves_whole()
    end_with_the_log()
    keep_event_files_going()
    if not hasattr(distributed_fairseq_model.DistributedDataParallel, "anywhere"):
        distributed_fairseq_model.DistributedDataParallel = anywhere(distributed_fairseq_model.DistributedDataParallel)
    train.Trainer = SteadyTrainer
    if not hasattr(train.validate_and_save, "stops"):
        train.validate_and_save = stopping(train.validate_and_save)
    if multiprocessing.parent_process() is not None:  # one that the engine started; `checked` does it for the others
        listen()


def anywhere(parallel: Any) -> Any:
    """Let torch's own DDP work on CPUs too, where it refuses the number of a GPU that the engine gives it."""

    @wraps(parallel)
    def build(module: Any, device_ids: Any = None, output_device: Any = None, **options: Any) -> Any:
        if all(parameter.device.type == "cpu" for parameter in module.parameters()):
            device_ids = output_device = None
        return parallel(module, device_ids=device_ids, output_device=output_device, **options)

    build.anywhere = True  # type: ignore[attr-defined]
    return build


def stopping(validate_and_save: Any) -> Any:
    """Put the end that was asked for in the place of what the engine does behind an update."""

    @wraps(validate_and_save)
    def run(cfg: Any, trainer: Any, task: Any, epoch_itr: Any, valid_subsets: Any, end_of_epoch: bool) -> Any:
        if not isinstance(trainer, SteadyTrainer):
            return validate_and_save(cfg, trainer, task, epoch_itr, valid_subsets, end_of_epoch)
        if trainer.skipped_in_a_row and not end_of_epoch and not trainer.stop_agreed():
            return [None], False  # no update since this was last done
        if not trainer.stop_agreed():
            try:
                return validate_and_save(cfg, trainer, task, epoch_itr, valid_subsets, end_of_epoch)
            except ValidationCutError:
                logger.warning(f"the validation at update {trainer.get_num_updates()} is left out")
        _save_and_stop(cfg.checkpoint, trainer, epoch_itr)

    run.stops = True  # type: ignore[attr-defined]
    return run


def _save_and_stop(settings: Any, trainer: SteadyTrainer, epoch_itr: Any) -> None:
    settings.no_last_checkpoints = False  # or nothing would be kept of the updates since the last one
    checkpoint_utils.save_checkpoint(settings, trainer, epoch_itr, None)
    if trainer.data_parallel_rank == 0:
        kept = "nothing is kept (checkpoint.no_save=true)" if settings.no_save else f"saved in {settings.save_dir}"
        print(
            f"stopped by {stop_signal()} after update {trainer.get_num_updates()}: {kept}; the same command goes on "
            "from there",
            flush=True,
        )
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # launchers may take it ill when some processes end long before the one that saves
    raise Stopped


def forget_earlier_runs() -> None:
    """Several runs of one process (a sweep) must not share their best score nor the files of TensorBoard."""
    close_event_files()
    for function, name in ((checkpoint_utils.save_checkpoint, "best"), (train.should_stop_early, "best")):
        if hasattr(function, name):
            delattr(function, name)
