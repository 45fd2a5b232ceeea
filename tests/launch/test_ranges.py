"""The trainer's own settings: an impossible value is one sentence that names it, before anything is loaded."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mae_ast_plugin.launch.ranges import range_problems


def settings(**changes: Any) -> dict[str, dict[str, Any]]:
    """A sound configuration but for ``section__name=value``."""
    config: dict[str, dict[str, Any]] = {
        "common": {"seed": 1, "log_interval": 100},
        "dataset": {"num_workers": 0, "max_tokens": 9, "batch_size": None, "max_tokens_valid": 9},
        "optimization": {"max_update": 10, "lr": [0.1], "update_freq": [1], "clip_norm": 0.0, "stop_time_hours": 0},
        "lr_scheduler": {"_name": "polynomial_decay", "warmup_updates": 0, "total_num_update": 10.0},
        "checkpoint": {"save_interval": 1, "save_interval_updates": 0},
    }
    for name, value in changes.items():
        section, _, setting = name.partition("__")
        config[section][setting] = value
    return config


def test_sound_settings_and_sections_that_are_absent_are_no_problem() -> None:
    assert list(range_problems(settings())) == []
    assert list(range_problems({"model": {}, "bmuf": None, "optimizer": None})) == []


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("optimization.max_update", -1, "is -1; it must be at least 0"),
        ("optimization.lr", [math.nan], "is nan; it must be a finite number"),
        ("optimization.lr", [0.1, -1.0], "is -1.0; it must be at least 0"),
        ("optimization.lr", [], "is empty; it must hold at least one number"),
        ("optimization.update_freq", [0], "is 0; it must be at least 1"),
        ("optimization.clip_norm", math.nan, "is nan; it must be a finite number"),
        ("optimization.stop_time_hours", math.inf, "is inf; it must be a finite number"),
        ("common.seed", -1, "is -1; it must be at least 0"),
        ("common.seed", 2**32, "is 4294967296; it must be at most 4000000000"),
        ("common.log_interval", 0, "is 0; it must be at least 1"),
        ("dataset.num_workers", -1, "is -1; it must be at least 0"),
        ("dataset.batch_size", 0, "is 0; it must be at least 1"),
        ("dataset.batch_size", -4, "is -4; it must be at least 1"),
        ("dataset.max_tokens", 0, "is 0; it must be at least 1"),
        ("lr_scheduler.warmup_updates", -5, "is -5; it must be at least 0"),
        ("lr_scheduler.total_num_update", 0.0, "is 0.0; it must be at least 1"),
        ("checkpoint.save_interval", 0, "is 0; it must be at least 1"),
        ("checkpoint.save_interval_updates", -1, "is -1; it must be at least 0"),
        ("dataset.max_tokens", "many", "is many; it must be a number"),
    ],
)
def test_an_impossible_value_is_one_sentence_that_names_its_setting(name: str, value: Any, sentence: str) -> None:
    assert list(range_problems(settings(**{name.replace(".", "__"): value}))) == [f"{name} {sentence}"]


def test_a_mistake_is_told_once_where_another_setting_is_taken_from_it() -> None:
    told = list(range_problems(settings(dataset__max_tokens=0, dataset__max_tokens_valid=0)))
    assert told == ["dataset.max_tokens is 0; it must be at least 1"]


def test_a_run_without_end_is_refused_where_its_schedule_needs_one_and_the_source_is_named() -> None:
    told = list(range_problems(settings(optimization__max_update=0, lr_scheduler__total_num_update=0)))
    assert told == ["lr_scheduler.total_num_update, taken from optimization.max_update, is 0; it must be at least 1"]
    assert list(range_problems(settings(optimization__max_update=0))) == []


@pytest.mark.parametrize(("end", "period", "sound"), [(0, -1, 0), (5, -1, 0), (6, -1, 1), (4, -1, 1), (0, 100, 1)])
def test_a_cosine_over_no_updates_is_refused(end: int, period: int, sound: bool) -> None:
    config = settings(optimization__max_update=end)
    config["lr_scheduler"] = {"_name": "cosine", "warmup_updates": 5, "lr_period_updates": period}
    told = list(range_problems(config))
    assert told == [] if sound else told[0].startswith(f"optimization.max_update is {end} and lr_scheduler.warmup_")
