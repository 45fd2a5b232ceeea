"""Workers that are killed, files that go or change, processes that die: a sentence, and a run that can go on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
import torch

from mae_ast_plugin.launch.endings import plain_sentence

from .test_processes import environments

if TYPE_CHECKING:
    from .conftest import Command, Corpus

LONG = ("dataset.max_tokens=null", "dataset.batch_size=4", "optimization.max_update=500")
SAVING = ("checkpoint.save_interval_updates=5", "checkpoint.save_interval=1000", "dataset.validate_interval=1000")


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_a_killed_worker_ends_the_run_in_one_sentence_and_the_run_goes_on(run: Command, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    started = run.start(*LONG, *SAVING, "dataset.num_workers=2", folder=folder)
    run.wait_until(lambda: started.num_updates() >= 12)
    victim = children(started.process)[-1]
    os.kill(victim, signal.SIGKILL)
    assert run.wait(started) == 1
    assert f"process {victim}, which loads data, was killed" in started.sentence
    assert "lower dataset.num_workers" in started.sentence and "start the same command again" in started.sentence
    reached = started.checkpoint()["optimizer_history"][-1]["num_updates"]
    resumed = run(*LONG, *SAVING, f"optimization.max_update={reached + 2}", folder=folder)
    assert [int(values["num_updates"]) for values in resumed.logged()] == [reached + 1, reached + 2]


# ---- files


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def resample(path: Path) -> None:
    waveform, rate = soundfile.read(path)
    soundfile.write(path, waveform, rate * 2)


def lengthen(path: Path) -> None:
    waveform, rate = soundfile.read(path)
    soundfile.write(path, np.tile(waveform, 3), rate)


@pytest.mark.parametrize(
    ("spoil", "replaced"),
    [(Path.unlink, True), (empty, True), (shorten, None), (resample, False), (lengthen, False)],
    ids=["gone", "empty", "truncated", "at another rate", "longer"],
)
def test_a_file_that_goes_or_changes_while_the_run_reads_is_replaced_counted_and_told(
    spoil: Callable[[Path], None], replaced: bool | None, run: Command, make_corpus: Callable[[], Corpus]
) -> None:
    corpus = make_corpus()
    started = run.start(
        *LONG,
        "optimization.max_update=60",
        f"task.data={corpus.data}",
        "dataset.num_workers=1",
        "task.max_unreadable=0.5",
    )
    run.wait_until(lambda: started.num_updates() >= 3)
    path = corpus.folder / "audio" / "train" / "clip 00.wav"
    spoil(path)
    assert run.wait(started) == 0, started.output[-3000:]
    assert started.num_updates() == 60
    told = started.output.count("unreadable clip, replaced by its neighbour: row ")
    counted = sum(started.scalars("unreadable").values())
    if replaced is None:  # libsndfile reads what is left of a WAV
        replaced = told > 0
    assert told == replaced
    assert (counted > 5) == replaced
    assert (str(path) in started.output) == replaced
    assert all(bool(torch.isfinite(value).all()) for value in started.weights().values())


# ---- processes


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_the_others_with_a_sentence_and_soon(
    victim: int, run: Command, tmp_path: Path
) -> None:
    runs = [run.start(*LONG, folder=tmp_path / "run", env=env) for env in environments(2)]
    run.wait_until(lambda: runs[0].num_updates() >= 3)
    os.kill(runs[victim].process, signal.SIGKILL)
    began = time.monotonic()
    assert run.wait(runs[victim]) == -signal.SIGKILL
    other = runs[1 - victim]
    assert run.wait(other, seconds=30) == 1, other.output[-3000:]
    assert time.monotonic() - began < 30
    assert f"process {1 - victim} of 2 lost another one, which has ended or hangs" in other.sentence


# ---- sentences


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried ..."), ("dataset.max_tokens", "checkpoint_activations")),
        (
            RuntimeError("DataLoader worker (pid(s) 11, 12) exited unexpectedly"),
            ("process 11, 12, which loads data, was killed, most often",),
        ),
        (
            RuntimeError(
                "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's ..."
            ),
            ("no more shared memory (/dev/shm)", "--shm-size"),
        ),
        (
            RuntimeError("\n-- Process 1 ...\nRuntimeError: DataLoader worker (pid 9) is killed by signal: Killed. "),
            ("process 9, which loads data, was killed (Killed)",),
        ),
        (RuntimeError("process 3 terminated with signal SIGKILL"), ("process 3 of this run was ended (SIGKILL)",)),
        (RuntimeError("process 3 terminated with exit code 1"), ("process 3 of this run was ended (status 1)",)),
        (
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
            ("GPU's memory is used up", "dataset.max_tokens"),
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            ("GPU's memory is used up", "dataset.max_tokens"),
        ),
        (MemoryError(), ("machine's memory is used up", "dataset.num_workers")),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you ..."),
            ("machine's memory is used up", "dataset.num_workers"),
        ),
        (OSError(24, "Too many open files"), ("too many files are open at once", "ulimit -n")),
        (
            RuntimeError("unable to open shared memory object </torch_1> in read-write mode: Too many open files (24)"),
            ("too many files are open at once", "ulimit -n"),
        ),
        (RuntimeError("received 0 items of ancdata"), ("too many files are open at once", "ulimit -n")),
        (
            OSError(28, "No space left on device"),
            ("the run's folder cannot be written (No space left", "make room on that disk"),
        ),
        (
            RuntimeError("\n-- Process 1 ...\n  file.flush()\nOSError: [Errno 122] Disk quota exceeded"),
            ("the run's folder cannot be written (Disk quota exceeded)", "make room in your quota"),
        ),
        (
            OSError(28, "No space left on device", "/run/log"),
            ("/run/log cannot be written (No space left", "make room"),
        ),
    ],
)
def test_what_can_be_mended_is_one_sentence(error: Exception, words: tuple[str, ...]) -> None:
    sentence = plain_sentence(error)
    assert sentence is not None and "\n" not in sentence
    for part in words:
        assert part in sentence


NO_MEMORY = """
import sys
from mae_ast_plugin.models import mae_ast
forward, calls = mae_ast.MaskedAutoencoderModel.forward, []

def failing(self, *arguments, **options):
    calls.extend([1] * self.training)
    if len(calls) == 3:
        raise RuntimeError({text!r})
    return forward(self, *arguments, **options)

mae_ast.MaskedAutoencoderModel.forward = failing
sys.argv[0] = "fairseq-hydra-train"
from fairseq_cli.hydra_train import cli_main
cli_main()
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("CUDA error: out of memory\nCUDA kernel errors might be reported later", "does not fit into the GPU's memory"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`", "does not fit into the GPU's memory"),
        ("out of memory", "the machine's memory is used up"),
    ],
)
def test_no_update_is_left_out_silently_where_memory_is_used_up(
    text: str, words: str, run: Command, tmp_path: Path
) -> None:
    script = tmp_path / "program.py"
    script.write_text(NO_MEMORY.format(text=text))
    folder = tmp_path / "run"
    started = run.start(*run.arguments(*LONG, folder=folder), bare=True, script=script, folder=folder)
    assert run.wait(started) == 1, started.output[-3000:]
    assert words in started.sentence and "dataset.max_tokens" in started.sentence
    assert started.num_updates() == 2


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), FileNotFoundError(2, "gone", "x"), KeyError("model")])
def test_what_nobody_can_mend_keeps_its_trace(error: Any) -> None:
    assert plain_sentence(error) is None


def test_a_lost_connection_is_one_only_where_there_are_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection closed by peer [127.0.0.1]:2345")
    assert plain_sentence(error) is None
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 2)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 4)
    assert str(plain_sentence(error)).startswith("process 2 of 4 lost another one")
    assert plain_sentence(RuntimeError("shapes differ")) is None
