"""Disks that are full or cannot be written: one sentence, and every checkpoint from before still opens."""

from __future__ import annotations

import errno
import os
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

from mae_ast_plugin.containers import read_container
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch.saving import check_writable, make_saves_whole

if TYPE_CHECKING:
    from .conftest import Command

CONTENT = {"model": {"weight": torch.arange(100000.0)}, "updates": 7}


@pytest.fixture(autouse=True)
def saves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's saves as a run has them; as they were afterwards."""
    monkeypatch.setattr(PathManager, "copy", PathManager.copy)
    monkeypatch.setattr(checkpoint_utils, "torch_persistent_save", checkpoint_utils.torch_persistent_save)
    make_saves_whole()


def save(path: Path) -> None:
    checkpoint_utils.torch_persistent_save(CONTENT, str(path))


def copy(path: Path) -> None:
    source = path.with_name("source")
    save(source)
    try:
        PathManager.copy(str(source), str(path), overwrite=True)
    finally:
        source.unlink()


either = pytest.mark.parametrize("write", [save, copy])


class FullDisk:
    """A file on a disk with room for some thousand bytes more."""

    def __init__(self, file: IO[bytes], number: int) -> None:
        self.file, self.number, self.room = file, number, 20000

    def write(self, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(self.number, os.strerror(self.number))
        return self.file.write(data)

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@either
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device), the checkpoints before it are whole; make room on that disk"),
        (errno.EDQUOT, "make room in your quota"),
        (errno.EROFS, "make it writable"),
    ],
)
def test_a_disk_that_fills_up_is_a_plain_error_and_the_old_file_stays(
    write: Callable[[Path], None], number: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint_last.pt"
    path.write_bytes(b"the one before")

    def open_(name: str, mode: str) -> Any:
        file = open(name, mode)  # noqa: SIM115
        return FullDisk(file, number) if name == f"{path}.tmp" else file

    monkeypatch.setattr("mae_ast_plugin.launch.saving.open", open_, raising=False)
    with pytest.raises(PlainError) as raised:
        write(path)
    assert str(raised.value).startswith(f"{path} cannot be written (")
    assert words in str(raised.value)
    assert path.read_bytes() == b"the one before"
    assert os.listdir(tmp_path) == [path.name]


@either
def test_what_is_written_is_whole_and_alone(write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_last.pt"
    (tmp_path / "checkpoint_last.pt.tmp").write_bytes(b"half of something longer" * 10**5)  # a killed run left it
    write(path)
    torch.testing.assert_close(read_container(path), CONTENT, rtol=0, atol=0)
    assert os.listdir(tmp_path) == [path.name]


@either
def test_a_write_that_is_interrupted_leaves_the_old_file_whole(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint_last.pt"
    path.write_bytes(b"old")

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if write is save:
            patch.setattr("os.fsync", interrupted)
        else:
            patch.setattr("shutil.copyfileobj", lambda *_: interrupted(0))
        with pytest.raises(KeyboardInterrupt):
            write(path)
    assert path.read_bytes() == b"old"


def test_a_copy_does_not_replace_unasked(tmp_path: Path) -> None:
    source, target = tmp_path / "new.pt", tmp_path / "last.pt"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    assert not PathManager.copy(str(source), str(target))
    assert target.read_bytes() == b"old"


def test_a_mistake_that_is_not_the_disks_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises((AttributeError, TypeError)):
        checkpoint_utils.torch_persistent_save({"model": lambda: 0}, str(tmp_path / "last.pt"))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_can_be_written_is_made_and_left_empty(tmp_path: Path) -> None:
    check_writable(str(tmp_path / "deep" / "below"))
    assert os.listdir(tmp_path / "deep" / "below") == []


# ---- in a run


@pytest.mark.parametrize("setting", ["checkpoint.save_dir", "hydra.run.dir"])
def test_a_folder_below_a_file_is_found_before_any_time_is_spent(setting: str, run: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    refused = run(f"{setting}={tmp_path}/file/below", status=1)
    assert f"{tmp_path}/file/below" in refused.sentence
    assert "cannot be written (Not a directory)" in refused.sentence
    assert "choose another hydra.run.dir" in refused.sentence
    assert not refused.logged()


def test_a_log_that_cannot_be_written_is_a_plain_error(run: Command, tmp_path: Path) -> None:
    (tmp_path / "run" / "hydra_train.log").mkdir(parents=True)
    refused = run(folder=tmp_path / "run", status=1)
    assert f"{tmp_path}/run/hydra_train.log cannot be written (Is a directory)" in refused.sentence


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_log_whose_disk_is_full_ends_the_run_in_one_sentence(run: Command, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "hydra_train.log").symlink_to("/dev/full")
    refused = run(folder=folder, status=1)
    assert f"{folder}/hydra_train.log cannot be written (No space left on device), so the run ends" in refused.sentence
    assert "--- Logging error ---" not in refused.output and not refused.logged()


FULL = """
import sys
from tensorboardX.event_file_writer import EventsWriter
write, calls = EventsWriter.{method}, []

def full(self, *arguments):
    calls.append(1)
    if len(calls) > {number}:
        raise OSError(28, "No space left on device")
    return write(self, *arguments)

EventsWriter.{method} = full
sys.argv[0] = "fairseq-hydra-train"
from fairseq_cli.hydra_train import cli_main
cli_main()
"""


@pytest.mark.parametrize(("method", "number"), [("flush", 4), ("write_event", 100)])
def test_tensorboard_on_a_full_disk_ends_the_run_in_one_sentence(
    method: str, number: int, run: Command, tmp_path: Path
) -> None:
    script, folder = tmp_path / "program.py", tmp_path / "run"
    script.write_text(FULL.format(method=method, number=number))
    arguments = run.arguments("optimization.max_update=200", "checkpoint.save_interval_updates=1000", folder=folder)
    started = run.start(*arguments, bare=True, script=script, folder=folder)
    assert run.wait(started, seconds=60) == 1, started.output[-3000:]
    assert re.match(
        rf"{folder}/tensorboard/\w+ cannot be written \(No space left on device\), so the run ends; make room",
        started.sentence,
    )


def test_a_save_that_does_not_fit_ends_the_run_which_goes_on_from_the_one_before(run: Command, tmp_path: Path) -> None:
    often = ("optimization.max_update=30", "checkpoint.save_interval_updates=3", "checkpoint.keep_interval_updates=2")
    folder = tmp_path / "run"
    started = run.start(*often, folder=folder)
    run.wait_until(lambda: (started.checkpoints / "checkpoint_last.pt").is_file())
    size = (started.checkpoints / "checkpoint_last.pt").stat().st_size
    resource.prlimit(started.process, resource.RLIMIT_FSIZE, (size // 2, size // 2))
    assert run.wait(started) == 1
    assert "cannot be written (File too large), the checkpoints before it are whole" in started.sentence
    assert not list(started.checkpoints.glob("*.tmp"))
    kept = started.checkpoint()["optimizer_history"][-1]["num_updates"]
    for path in started.checkpoints.glob("*.pt"):
        read_container(path)

    resumed = run(*often, folder=folder)
    assert min(int(values["num_updates"]) for values in resumed.logged()) == kept + 1
    assert resumed.checkpoint()["optimizer_history"][-1]["num_updates"] == 30
