"""The engine's trainer, made to survive: gradients that are not finite, requests to stop, an epoch begun again."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from torch import Tensor

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch.beginnings import begin_with
from mae_ast_plugin.launch.continuation import is_own
from mae_ast_plugin.launch.grouping import asked_grouping, group_steps
from mae_ast_plugin.launch.stopping import stop_requested
from mae_ast_plugin.nn.normalization import InputNorm

logger = logging.getLogger(__name__)
MAX_SKIPPED = 10  # in a row, for tasks that do not say
CRASH = "crash.pt"


class NotFiniteError(Exception):
    """The gradients of this update are not finite. None of the kinds that the engine itself handles."""


class ValidationCutError(Exception):
    """A validation ends before its last batch, because the run was asked to stop."""


class SteadyTrainer(Trainer):
    """Leaves out updates whose gradients are not finite, and knows when all processes should stop."""

    def __init__(self, cfg: Any, task: Any, model: Any, criterion: Any, quantizer: Any = None) -> None:
        super().__init__(cfg, task, model, criterion, quantizer)
        self.skipped_updates = 0  # of the whole run
        self.skipped_in_a_row = 0
        self._stop_votes: Tensor | None = None  # of all processes, on the device
        self._stop_agreed = False
        norms = [module for module in model.modules() if isinstance(module, InputNorm)]
        self._statistics = [buffer for norm in norms for buffer in norm.buffers()]
        # the engine would begin with epoch 1 again, and forget what the task has counted
        self._begins_epoch_again = bool(cfg.checkpoint.reset_dataloader) and is_own(cfg.checkpoint)
        if self._begins_epoch_again:
            cfg.checkpoint.reset_dataloader = False

    def _build_optimizer(self) -> None:
        """Build it, and let its steps take groups of parameters each in its own way, where the task asks for that."""
        super()._build_optimizer()
        if grouping := asked_grouping(self.cfg.task):
            group_steps(self.optimizer.optimizer, self.get_model().autoencoder, grouping)

    # ---- updates that are left out

    def train_step(self, samples: Sequence[Any], raise_oom: bool = False) -> Any:
        """Make one update; where its gradients are not finite, leave everything as it was and return None."""
        statistics = [buffer.clone() for buffer in self._statistics]
        try:
            with _aggregators_restored():
                logged = super().train_step(samples, raise_oom=True)  # or such an update would be left out silently
        except NotFiniteError:
            self.zero_grad()
            for buffer, before in zip(self._statistics, statistics, strict=True):
                buffer.copy_(before)
            self._skip()
            return None
        self.skipped_in_a_row = 0
        metrics.log_scalar("skipped_updates", self.skipped_updates, weight=0, priority=215, round=0)
        return logged

    def clip_grad_norm(self, clip_norm: float) -> Tensor:
        """Clip, and refuse what is not finite; all processes have the same gradients here, and judge alike."""
        norm = super().clip_grad_norm(clip_norm).cpu()  # the engine waits for this number too, and now only once
        self._count_votes()
        if not torch.isfinite(norm).all():
            raise NotFiniteError
        return norm

    def _skip(self) -> None:
        self.skipped_updates += 1
        self.skipped_in_a_row += 1
        loss = _mean_loss(getattr(self.task, "last_logged", None))
        if self.data_parallel_rank == 0 or not math.isfinite(loss):
            logger.warning(
                f"update {self.get_num_updates() + 1}: gradients are not finite (loss {loss:.4g} on rank "
                f"{self.data_parallel_rank}); left out, {self.skipped_updates} so far, {self.skipped_in_a_row} in a row"
            )
        limit = self.cfg.task.get("max_skipped_updates", MAX_SKIPPED)
        if self.skipped_in_a_row > limit:
            raise PlainError(
                f"the gradients of {self.skipped_in_a_row} updates in a row after update {self.get_num_updates()} are "
                f"not finite, more than task.max_skipped_updates={limit}; lower optimization.lr or set "
                "optimization.clip_norm, and start again: the last checkpoint is of a time before"
            )

    # ---- requests to stop

    def stop_agreed(self) -> bool:
        """Whether any process was asked to stop, as all of them have heard with the numbers of their last step."""
        if self.data_parallel_world_size == 1:
            return stop_requested()
        return self._stop_agreed

    def _count_votes(self) -> None:
        """Read the votes, where the device has just been waited for anyway."""
        if self._stop_votes is not None:
            self._stop_agreed = bool(self._stop_votes > 0)

    def _aggregate_logging_outputs(
        self, logging_outputs: list[dict[str, Any]], *extra_stats_to_sum: Any, ignore: bool = False
    ) -> Any:
        outputs, sums = super()._aggregate_logging_outputs(
            logging_outputs, *extra_stats_to_sum, float(stop_requested()), ignore=ignore
        )
        self._stop_votes = sums[-1]
        return outputs, sums[:-1]

    def valid_step(self, sample: Any, raise_oom: bool = False) -> Any:
        """Validate one batch; ValidationCutError when it is time to stop instead."""
        logged = super().valid_step(sample, raise_oom)
        self._count_votes()
        if self.stop_agreed():
            raise ValidationCutError
        return logged

    # ---- checkpoints

    def save_checkpoint(self, filename: str, extra_state: dict[str, Any]) -> Any:
        """Save; but not what the engine calls crash.pt, which lacks the place in the data: no run can go on from it."""
        return None if os.path.basename(filename) == CRASH else super().save_checkpoint(filename, extra_state)

    def state_dict(self) -> dict[str, Any]:
        """Add what this trainer counts to what the engine stores."""
        state: dict[str, Any] = super().state_dict()
        state["extra_state"]["skipped_updates"] = self.skipped_updates
        return state

    def load_checkpoint(self, filename: str, *args: Any, **options: Any) -> Any:
        """Load a checkpoint; with checkpoint.reset_dataloader=true its epoch begins again.

        Of the weights that a new run begins with nothing else is taken, and they may be of any known format.
        """
        if filename == self.cfg.checkpoint.finetune_from_model:
            begin_with(self.get_model().autoencoder, filename)
            return None
        extra = super().load_checkpoint(filename, *args, **options)
        if extra is not None:
            self.skipped_updates = int(extra.get("skipped_updates", 0))
            if self._begins_epoch_again:
                extra["train_iterator"]["iterations_in_epoch"] = 0
        return extra


@contextmanager
def _aggregators_restored() -> Iterator[None]:
    """Leave the engine's stack of meters as it was, also after an error, which it does not see to itself."""
    active, counts = metrics._active_aggregators.copy(), metrics._active_aggregators_cnt.copy()
    try:
        yield
    except NotFiniteError:
        for now, before in ((metrics._active_aggregators, active), (metrics._active_aggregators_cnt, counts)):
            now.clear()
            now.update(before)
        raise


def _mean_loss(logged: dict[str, Any] | None) -> float:
    """The loss of this process's last batch, per unit of its gradient."""
    return float(logged["loss"]) / max(1, int(logged["sample_size"])) if logged else math.nan
