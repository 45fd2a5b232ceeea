"""What the trainer's own settings may be, as far as it does not say so itself: it fails in the middle, trains nothing,
or takes what was not meant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Range(NamedTuple):
    """The least and the greatest value of a setting, or of each in its list; ``source`` gives it unless it is set."""

    name: str
    least: float = -math.inf
    most: float = math.inf
    source: str = ""


RANGES = (
    Range("common.seed", 0, 4_000_000_000),  # numpy's end at 2**32 - 1, and epochs are added
    Range("common.log_interval", 1),
    Range("dataset.num_workers", 0),
    Range("dataset.data_buffer_size", 0),
    Range("dataset.max_tokens", 1),
    Range("dataset.batch_size", 1),
    Range("dataset.max_tokens_valid", 1, source="dataset.max_tokens"),
    Range("dataset.batch_size_valid", 1, source="dataset.batch_size"),
    Range("dataset.required_batch_size_multiple", 1),
    Range("dataset.validate_interval", 1),
    Range("dataset.validate_interval_updates", 0),
    Range("dataset.validate_after_updates", 0),
    Range("dataset.max_valid_steps", 0),
    Range("dataset.curriculum", 0),
    Range("distributed_training.distributed_world_size", 1),
    Range("optimization.max_epoch", 0),
    Range("optimization.max_update", 0),  # 0: no end
    Range("optimization.stop_time_hours", 0),
    Range("optimization.clip_norm"),
    Range("optimization.update_freq", 1),
    Range("optimization.lr", 0),
    Range("optimizer.weight_decay", 0),
    Range("optimizer.adam_eps", 0),
    Range("lr_scheduler.warmup_updates", 0),
    Range("lr_scheduler.total_num_update", 1, source="optimization.max_update"),  # of polynomial_decay
    Range("checkpoint.save_interval", 1),
    Range("checkpoint.save_interval_updates", 0),
)


def range_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Say, a sentence each, which settings of the trainer are impossible; what is absent or null is none of them."""
    told = set()
    for entry in RANGES:
        found = _value(config, entry.name)
        values = found if isinstance(found, list) else [] if found is None else [found]
        rules = [f"{value}; it must be {rule}" for value in values if (rule := _broken(entry, value))]
        if found == []:
            rules = ["empty; it must hold at least one number"]
        taken = entry.source and found == _value(config, entry.source)
        if rules and not (taken and entry.source in told):
            told.add(entry.name)
            yield f"{entry.name}{f', taken from {entry.source},' if taken else ''} is {rules[0]}"
    yield from _cosine_problems(config)


def _value(config: Mapping[str, Any], name: str) -> Any:
    section, _, setting = name.partition(".")
    return (config.get(section) or {}).get(setting)


def _broken(entry: Range, value: Any) -> str | None:
    """The rule that ``value`` breaks."""
    if not isinstance(value, int | float):
        return "a number"
    if not math.isfinite(value):
        return "a finite number"
    if value < entry.least:
        return f"at least {entry.least}"
    return f"at most {entry.most}" if value > entry.most else None


def _cosine_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """A cosine over the rest of the run divides by the number of updates after the warm-up."""
    schedule, end = config.get("lr_scheduler") or {}, _value(config, "optimization.max_update")
    warmup = schedule.get("warmup_updates")
    if schedule.get("_name") == "cosine" and schedule["lr_period_updates"] <= 0 and end in (0, warmup):
        yield (
            f"optimization.max_update is {end} and lr_scheduler.warmup_updates {warmup}, which leaves the cosine no "
            "updates; change one of them, or set lr_scheduler.lr_period_updates"
        )
