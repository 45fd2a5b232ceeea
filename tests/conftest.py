"""Options and fixtures of the whole suite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # two test processes share two cores; more threads only get in each other's way

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        default=str(REPOSITORY.parent / "shared" / "golden"),
        help="folder of SYSTEM/CASE folders with outputs of the original programs",
    )
    parser.addoption(
        "--fsdd-dir",
        default=str(REPOSITORY.parent / "shared" / "data" / "fsdd"),
        help="folder of spoken digits, DIGIT_SPEAKER_INDEX.wav (FSDD); tones take its place where it does not exist",
    )
    parser.addoption("--all", action="store_true", help="also run the tests marked slow")


def pytest_configure(config: pytest.Config) -> None:
    folder = Path(config.getoption("--golden-dir"))
    given = any(str(argument).startswith("--golden-dir") for argument in config.invocation_params.args)
    if given and not folder.is_dir():
        raise pytest.UsageError(f"--golden-dir is {folder}, which is no folder")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--all"):
        chosen = [item for item in items if item.get_closest_marker("slow") is None]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY
