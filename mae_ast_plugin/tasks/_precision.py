"""Says before training what the chosen arithmetic means on this machine."""

from __future__ import annotations

import logging

import torch

from mae_ast_plugin.errors import PlainError

logger = logging.getLogger(__name__)


def announce_precision(precision: str) -> None:
    """Refuse or warn where ``model.precision`` is not what the hardware is good at."""
    if precision != "bfloat16":
        return
    if torch.cuda.is_available():
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            raise PlainError(
                f"model.precision=bfloat16, but {torch.cuda.get_device_name()} has no bfloat16 arithmetic; "
                "use model.precision=float32"
            )
        logger.info("network in bfloat16 by autocast, weights and features in float32")
    elif not torch.cpu._is_avx512_bf16_supported():
        logger.warning(
            "this processor has no bfloat16 arithmetic: model.precision=bfloat16 works but is slower than float32"
        )
