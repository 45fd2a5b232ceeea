"""``make s3prl-setup``: what it installs the first time and every other time; nothing is installed here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

# notes its arguments and what pip would read; fails where FAIL is set
PYTHON = '#!/bin/sh\necho "$*|$PIP_CONSTRAINT|$PIP_BUILD_CONSTRAINT" >> "$CALLS"\n[ -z "${FAIL-}" ]\n'


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "my checkout"
    (folder / ".ci").mkdir(parents=True)
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in (".ci/s3prl-setup", "constraints.txt", "setup.cfg"):
        shutil.copy(repository / name, folder / name)
    python = folder / ".venv" / "bin" / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return folder


def set_up(folder: Path, status: int = 0, **variables: str) -> tuple[str, list[str]]:
    """Run the script from a foreign folder; what it prints, and all calls of Python so far."""
    calls = folder / "calls"
    done = subprocess.run(
        [str(folder / ".ci" / "s3prl-setup")], cwd=folder.parent, env={**os.environ, "CALLS": str(calls), **variables},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout, calls.read_text().splitlines()


def test_it_installs_once_from_pinned_versions_and_says_what_it_does(checkout: Path) -> None:
    printed, calls = set_up(checkout)
    (call,) = calls
    assert call.endswith("-e .[s3prl]|constraints.txt|constraints.txt")
    assert re.search(r"^s3prl-setup: ready after \d+ seconds$", printed, re.MULTILINE)
    assert set_up(checkout) == ("s3prl-setup: s3prl is in .venv already\n", calls)


def test_it_installs_again_when_the_versions_changed_or_it_failed(checkout: Path) -> None:
    set_up(checkout, status=1, FAIL="yes")
    set_up(checkout)
    with (checkout / "constraints.txt").open("a") as file:
        file.write("# another line\n")
    assert len(set_up(checkout)[1]) == 3


def test_make_and_ci_set_up_the_rest_first(repository: Path) -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "s3prl-setup", "--dry-run"],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == [".ci/setup", ".ci/s3prl-setup"], done.stderr
    lines = (repository / ".ci" / "run").read_text().splitlines()
    assert lines[-2:] == ["make s3prl-setup", "exec make test"]
    assert os.access(repository / ".ci" / "s3prl-setup", os.X_OK)
