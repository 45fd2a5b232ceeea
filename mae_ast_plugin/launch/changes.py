"""What has changed since a run was interrupted: data and settings, and which of it an exact continuation forbids."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch.rows import digest, first_difference, row_checksums
from mae_ast_plugin.methods.settings import CriterionSettings, ModelSettings, TaskSettings

logger = logging.getLogger(__name__)
EPOCH_AGAIN = "set checkpoint.reset_dataloader=true, once, to begin that epoch again"
# Which clips make up which batch: a place within an epoch means nothing once one of these is another.
OF_BATCHES = {
    "common": ("seed",),
    "dataset": ("batch_size", "max_tokens", "required_batch_size_multiple", "train_subset", "curriculum"),
    "task": ("max_sample_size", "min_sample_size", "max_keep_size", "pad_audio", "cut", "sample_rate"),
}
# Sections whose other values shape what is learned; the run goes on with new ones, and says so.
TOLD = ("task", "model", "criterion", "optimization", "lr_scheduler", "optimizer")
SCHEMAS = {"task": TaskSettings, "model": ModelSettings, "criterion": CriterionSettings}
# a checkpoint holds what came of them
OF_THE_BEGINNING = ("weight_init", "input_mean", "input_std", "input_statistics")
WITHOUT_EFFECT = ("data", "save_dir", "tensorboard_logdir", "max_update", "max_epoch", "stop_time_hours")


def check_manifests(cfg: Any, content: Mapping[str, Any], exact: bool) -> None:
    """Compare the manifests with those the run has read; PlainError where the training's order would be another."""
    state = (content.get("extra_state") or {}).get("MaskedPretrainingTask") or {}
    for split, stored in (state.get("manifests") or {}).items():
        path = Path(cfg.task.data) / f"{split}.tsv"
        if not path.is_file():
            continue  # it is no longer asked for, or will be missed with a sentence of its own
        now = row_checksums(path)
        if digest(now) == stored:
            continue
        row = first_difference(cfg.checkpoint.save_dir, split, stored, now)
        where = str(path) if row is None else f"{path} line {row + 2} ({_line(path, row + 1)})"
        changed = f"{where} is not what it was when {cfg.checkpoint.save_dir} was written"
        if exact and split == cfg.dataset.train_subset:
            raise PlainError(
                f"{changed}, so the run cannot go on where it was; put the old manifest back, or {EPOCH_AGAIN} with "
                "the new one"
            )
        logger.warning(f"{changed}; going on with the new one")


def _line(path: Path, number: int) -> str:
    with open(path, "rb") as file:
        found = next((line for index, line in enumerate(file) if index == number), None)
    if found is None:
        return "missing now"
    text = repr(found.rstrip(b"\r\n").decode("utf-8", "replace"))
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_settings(cfg: Any, stored: Mapping[str, Any], exact: bool) -> None:
    """Compare settings; ``exact``: the run stands within an epoch, whose batches must stay what they are."""
    for section, names in OF_BATCHES.items():
        for name, before, now in _changed(stored.get(section) or {}, cfg[section]):
            if name in names and exact:
                raise PlainError(
                    f"{cfg.checkpoint.save_dir} was written in the middle of an epoch with {section}.{name}={before}, "
                    f"and {section}.{name}={now} would put other clips into its batches; set it back, or {EPOCH_AGAIN}"
                )
    for section in TOLD:
        # a run of a time before some settings went on without them, which is what their defaults do
        known = asdict(SCHEMAS[section]()) if section in SCHEMAS and stored.get(section) else {}
        for name, before, now in _changed({**known, **(stored.get(section) or {})}, cfg[section]):
            if name in WITHOUT_EFFECT:
                continue
            if name in OF_THE_BEGINNING:
                logger.warning(f"{section}.{name}={now} has no effect on a run that has begun with {before}")
            elif section == "optimizer" and name != "lr" and not cfg.checkpoint.reset_optimizer:
                logger.warning(
                    f"{section}.{name}={now} has no effect on a run that has begun with {before}; set "
                    f"checkpoint.optimizer_overrides"
                )
            else:
                logger.warning(f"going on with {section}.{name}={now}, it was {before}")


def _changed(stored: Mapping[str, Any], wanted: Any) -> Iterator[tuple[str, Any, Any]]:
    """Settings of one section that differ: name, value before, value now."""
    now = OmegaConf.to_container(wanted, resolve=True) if OmegaConf.is_config(wanted) else dict(wanted)
    for name in sorted(stored.keys() & now.keys()):  # type: ignore[union-attr]
        if stored[name] != now[name]:  # type: ignore[index]
            yield name, stored[name], now[name]  # type: ignore[index]
