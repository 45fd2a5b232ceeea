"""A program whose reader goes away (``| head``) ends without a trace, and is otherwise what it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GONE = 141  # 128 + SIGPIPE, as shells show it
PROGRAM = """
import sys
from mae_ast_plugin.programs import run_program

def main():
    {}

sys.exit(run_program(main))
"""


def unread(command: list[str], cwd: Path) -> tuple[int, str]:
    """Status and errors of a command whose output nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *command],
            stdout=writer, stderr=subprocess.PIPE, cwd=cwd, env=environment, text=True, timeout=120, check=False,
        )  # fmt: skip
    finally:
        os.close(writer)
    return done.returncode, done.stderr


@pytest.mark.parametrize("body", ["print('a'); return 0", "print('a' * 10**6); return 0", "print('a'); sys.exit(0)"])
@pytest.mark.parametrize("options", [[], ["-u"]])
def test_a_program_that_nobody_reads_ends_without_a_trace(body: str, options: list[str], repository: Path) -> None:
    assert unread([*options, "-c", PROGRAM.format(body)], repository) == (GONE, "")


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("print('a'); return 3", 3, ""),
        ("sys.exit('no')", 1, "no\n"),
        ("import argparse; argparse.ArgumentParser(prog='p').error('no')", 2, "usage: p [-h]\np: error: no\n"),
    ],
)
def test_a_program_that_is_read_keeps_its_status(body: str, status: int, said: str, repository: Path) -> None:
    command = [sys.executable, "-c", PROGRAM.format(body)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (status, said)


def test_a_trace_is_not_hidden(repository: Path) -> None:
    status, said = unread(["-c", PROGRAM.format("print('a'); raise KeyError('lost')")], repository)
    assert "KeyError: 'lost'" in said and status != 0


@pytest.mark.parametrize("module", ["mae_ast_plugin", "manifests", "mae_ast_plugin.demo", "mae_ast_plugin.demo.corpus"])
def test_every_program_of_the_package_ends_so(module: str, repository: Path) -> None:
    assert unread(["-m", module, "--help"], repository) == (GONE, "")


def test_the_pipe_is_not_taken_for_a_file_that_cannot_be_written(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.wav\t16000\n")
    command = ["-u", "-m", "manifests", "check", str(tmp_path), "--out", str(tmp_path), "--jobs", "1"]
    assert unread(command, repository) == (GONE, "")
