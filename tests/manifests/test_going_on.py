"""Commands that stop go on: after a write that failed, a file that was replaced, a signal."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

from mae_ast_plugin.audio.manifest import write_manifest
from manifests import __main__ as program
from manifests import jobs, measuring, output, stats
from manifests.__main__ import main

NUM_CLIPS, LENGTH, RATE = 40, 800, 8000
DONE = 36  # clips that are looked into before a stop: more than a block


class Command(NamedTuple):
    """How it is given with its output in OUT, what looks into a clip, and what it writes there."""

    arguments: tuple[str, ...]
    looks: tuple[object, str]
    writes: tuple[str, ...]


PROBE = (output, "probe")
COMMANDS = {
    "scan": Command(("clips", "--out", "OUT"), PROBE, ("train.tsv", "train.rates")),
    "esc50": Command((".", "--out", "OUT"), PROBE, ("train.tsv", "train.rates")),
    "convert": Command(("list.csv", "--from", "dasheng", "--out", "OUT/x.tsv"), PROBE, ("x.tsv", "x.rates")),
    "check": Command(("clips.tsv", "--out", "OUT"), (measuring, "read"), ("report.txt", "findings.tsv")),
    "stats": Command(("clips.tsv", "--out", "OUT/x.json"), (stats, "moments_of_clip"), ("x.json",)),
}


def write_clip(path: Path, seed: int, length: int = LENGTH) -> None:
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, length), RATE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where commands are given: clips, and lists of them."""
    names = [f"{number:02d}.wav" for number in range(NUM_CLIPS)]
    for place in ("clips", "audio", "meta"):
        (tmp_path / place).mkdir()
    for number, name in enumerate(names):
        write_clip(tmp_path / "clips" / name, number)
        (tmp_path / "audio" / name).hardlink_to(tmp_path / "clips" / name)
    write_manifest(tmp_path / "clips.tsv", tmp_path / "clips", [(name, LENGTH) for name in names])
    (tmp_path / "list.csv").write_text("filename\tlabels\n" + "".join(f"clips/{name}\tx\n" for name in names))
    rows = "".join(f"{name},{number % 5 + 1},0,dog,False,0,A\n" for number, name in enumerate(names))
    (tmp_path / "meta" / "esc50.csv").write_text("filename,fold,target,category,esc10,src_file,take\n" + rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def give(name: str, out: str) -> int:
    Path(out).mkdir(exist_ok=True)
    arguments = [argument.replace("OUT", out) for argument in COMMANDS[name].arguments]
    return main([name, *arguments, "--jobs", "1"])


def watch(name: str, monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[str]:
    """Note every clip that a command looks into, and interrupt it at one."""
    seen: list[str] = []
    module, function = COMMANDS[name].looks
    really: Callable[..., object] = getattr(module, function)

    def look(path: str, *arguments: object, **options: object) -> object:
        seen.append(path)
        if len(seen) == stop_at:
            raise KeyboardInterrupt
        return really(path, *arguments, **options)

    monkeypatch.setattr(module, function, look)
    return seen


@pytest.mark.parametrize("name", COMMANDS)
def test_after_a_write_that_fails_no_clip_is_looked_into_again(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch(name, monkeypatch)
    target = folder / "out" / COMMANDS[name].writes[0]
    target.mkdir(parents=True)
    assert give(name, "out") == 2
    assert len(seen) == NUM_CLIPS
    target.rmdir()
    assert give(name, "out") == 0
    assert len(seen) == NUM_CLIPS
    assert not list((folder / "out").glob(".*"))
    give(name, "fresh")
    for file_name in COMMANDS[name].writes:
        assert (folder / "out" / file_name).read_bytes() == (folder / "fresh" / file_name).read_bytes()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_clip_that_is_replaced_after_a_stop_is_looked_into_again(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        seen = watch(name, patch, stop_at=DONE)
        give(name, "out")
    write_clip(Path(seen[0]), 99, LENGTH // 2)
    status = give(name, "out")
    assert status == give(name, "fresh")
    for file_name in COMMANDS[name].writes:
        assert (folder / "out" / file_name).read_bytes() == (folder / "fresh" / file_name).read_bytes()


def test_a_full_disk_names_the_folder_that_is_full(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(output, "write_manifest", fail)
    assert give("scan", "out") == 2
    assert capsys.readouterr().err == "manifests: out: No space left on device: choose another --out or mend it\n"


# ---------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize(("interrupt", "status"), [(KeyboardInterrupt, 130), (jobs.Terminated, 143)])
def test_the_status_tells_which_signal_it_was(
    interrupt: type[BaseException], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> int:
        raise interrupt

    monkeypatch.setattr(program, "main", stop)
    monkeypatch.setattr(jobs, "raise_on_termination", lambda: None)
    assert program.run() == status
    assert "go on where they stopped" in capsys.readouterr().err


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()


def is_gone(process: str) -> bool:
    try:
        return Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


UNCHECKED = """
import runpy
from mae_ast_plugin.audio import places
places.check_file = lambda path: None
runpy.run_module("manifests", run_name="__main__", alter_sys=True)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system does not list processes in /proc")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_signal_leaves_the_journal_and_no_processes(
    number: signal.Signals, status: int, folder: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = folder / "clips" / f"{NUM_CLIPS - 1}.wav"  # in the second block of two
    last.unlink()
    os.mkfifo(last)  # nobody writes to it, so that opening it, where nothing checks before, takes for ever
    command = [sys.executable, "-c", UNCHECKED, "check", "clips.tsv", "--out", "out", "--jobs", "2"]
    environment = os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        children: list[str] = []
        try:
            journal = folder / "out" / ".check.journal"
            assert wait_for(lambda: journal.exists() and journal.read_bytes().count(b"\n") == 2)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            assert len(children) == 2
            process.send_signal(number)
            assert process.wait(30) == status
            assert wait_for(lambda: all(map(is_gone, children)), 10)
            assert process.stderr is not None
            errors = process.stderr.read()
        finally:  # where the test fails nothing is left behind
            process.kill()
            for child in children:
                if not is_gone(child):
                    os.kill(int(child), signal.SIGKILL)
    assert "Traceback" not in errors
    assert ("go on where they stopped" in errors) == (number == signal.SIGTERM)
    last.unlink()
    write_clip(last, 0, LENGTH)
    seen = watch("check", monkeypatch)
    give("check", "out")
    assert len(seen) == NUM_CLIPS - 32
