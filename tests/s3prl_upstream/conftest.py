"""What the tests of the upstream share: tiny checkpoints, small corpora, and s3prl where it is installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import s3prl_toys as toys
from s3prl_engine import Engine

WITHOUT_S3PRL = "s3prl is not installed; make s3prl-setup installs it"


@pytest.fixture(scope="session")
def needs_s3prl() -> None:
    """Skip where s3prl is not installed."""
    if importlib.util.find_spec("s3prl") is None:
        pytest.skip(WITHOUT_S3PRL)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Give the path of a tiny checkpoint, a patch or a frame model."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def checkpoint(kind: str, **sizes: float) -> Path:
        path = folder / f"{'_'.join([kind, *(f'{name}{size}' for name, size in sizes.items())])}.pt"
        return path if path.exists() else toys.write_checkpoint(path, kind, **sizes)  # type: ignore[arg-type]

    return checkpoint


@pytest.fixture(scope="session")
def speech(request: pytest.FixtureRequest) -> toys.Source:
    """Spoken digits where there are any (--fsdd-dir), otherwise tones."""
    return toys.Digits.of(Path(request.config.getoption("--fsdd-dir"))) or toys.Tones()


@pytest.fixture(scope="module")
def engine(needs_s3prl: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    log = tmp_path_factory.mktemp("engine") / "log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "s3prl_engine.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, cwd=log.parent,
        )  # fmt: skip
    assert process.stdin and process.stdout
    if "ready\n" not in iter(process.stdout.readline, ""):
        pytest.fail(f"s3prl could not be imported\n{log.read_text()[-4000:]}")
    yield Engine(process)
    process.stdin.close()
    process.wait(timeout=30)
