"""Which groups of parameters a run asks for, and the optimiser that takes them so."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.settings import TaskSettings
from mae_ast_plugin.nn.autoencoder import LEARNED_TOKENS, MaskedAutoencoder
from mae_ast_plugin.nn.parameter_groups import parameter_groups, step_in_groups

logger = logging.getLogger(__name__)
USUAL = {name: getattr(TaskSettings(), name) for name in ("layer_decay", "decayed")}  # all parameters are one group


def asked_grouping(task: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read how parameters are to be grouped; None where they are not."""
    grouping = {name: task.get(name, usual) for name, usual in USUAL.items()}
    return None if grouping == USUAL else grouping


def check_grouping(cfg: Any) -> None:
    """Refuse groups where the optimiser has its own, or keeps what would differ by group; tell what has no effect."""
    grouping = asked_grouping(cfg.task)
    if grouping is None:
        return
    if cfg.optimizer._name != "adam":
        name = next(name for name, usual in USUAL.items() if grouping[name] != usual)
        raise PlainError(
            f"task.{name}={grouping[name]} works with optimizer=adam, and optimizer={cfg.optimizer._name} is asked "
            f"for; change it, or set task.{name}={USUAL[name]}"
        )
    if grouping["decayed"] != USUAL["decayed"] and not cfg.optimizer.weight_decay:
        logger.warning(f"task.decayed={grouping['decayed']} has no effect with optimizer.weight_decay=0")


def group_steps(optimizer: Optimizer, network: MaskedAutoencoder, grouping: Mapping[str, Any]) -> None:
    """Let every step of ``optimizer`` take groups of the parameters of ``network``, which are all that it has."""
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    groups = parameter_groups(trained, network.depths(), LEARNED_TOKENS, **grouping)
    step_in_groups(optimizer, groups)
    decayed = sum(len(group.members) for group in groups if group.decays)
    logger.info(
        f"learning rates of the layers are from {min(group.lr_scale for group in groups):.3g} of the run's to all of "
        f"it; weight decay reaches {decayed} of {len(trained)} parameters"
    )
