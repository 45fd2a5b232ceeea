"""Asked to stop, a run saves and ends with status 0; started again, it ends as if it had never been asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.multiprocessing import ProcessExitedException

from mae_ast_plugin.launch import entry, stopping
from mae_ast_plugin.launch.stopping import SAME_REQUEST, listening, stop_requested, stop_signal

if TYPE_CHECKING:
    from .conftest import Command, Run

UPDATES = 60
LONG = (  # epochs of five updates, everything that draws numbers
    "dataset.max_tokens=null",
    "dataset.batch_size=4",
    "model.dropout=0.1",
    "model.encoder_layerdrop=0.3",
    "optimization.lr=[0.001]",
    "task.max_sample_size=9000",
    "checkpoint.save_interval_updates=1000",
    "checkpoint.save_interval=1000",
    "dataset.validate_interval=1000",
    f"optimization.max_update={UPDATES}",
    f"lr_scheduler.total_num_update={UPDATES}",
)


@pytest.fixture(scope="module")
def uninterrupted(run_of_module: Command) -> Run:
    return run_of_module(*LONG)


def assert_same_end(run: Run, uninterrupted: Run) -> None:
    expected, found = uninterrupted.checkpoint(), run.checkpoint()
    assert found["optimizer_history"][-1]["num_updates"] == UPDATES
    torch.testing.assert_close(found["model"], expected["model"], rtol=0, atol=0)
    states = (found["last_optimizer_state"]["state"], expected["last_optimizer_state"]["state"])
    torch.testing.assert_close(*states, rtol=0, atol=0)


def stop(run: Command, started: Run, number: signal.Signals = signal.SIGTERM, everybody: bool = True) -> int:
    """Signal a run, with all of its processes as Slurm does; returns the updates it has kept."""
    (os.killpg if everybody else os.kill)(started.process, number)
    assert run.wait(started) == 0, started.output[-3000:]
    reached = int(started.checkpoint()["optimizer_history"][-1]["num_updates"])
    assert f"stopped by {number.name} after update {reached}: saved in {started.checkpoints}" in started.output
    assert "Traceback" not in started.output and "error:" not in started.output
    return reached


@pytest.mark.parametrize(
    ("number", "workers", "workers_then"), [(signal.SIGTERM, 0, 1), (signal.SIGTERM, 4, 0), (signal.SIGUSR1, 1, 4)]
)
def test_a_run_that_is_asked_to_stop_goes_on_as_if_it_had_not_been(
    number: signal.Signals, workers: int, workers_then: int, run: Command, uninterrupted: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    started = run.start(*LONG, f"dataset.num_workers={workers}", folder=folder)
    run.wait_until(lambda: started.num_updates() >= 3)
    reached = stop(run, started, number)
    assert 3 <= reached < UPDATES, "it ended before it was asked"
    resumed = run(*LONG, f"dataset.num_workers={workers_then}", folder=folder)
    assert min(int(values["num_updates"]) for values in resumed.logged()) == reached + 1
    assert_same_end(resumed, uninterrupted)


def test_a_run_stopped_at_the_end_of_an_epoch_goes_on_with_the_next(
    run: Command, uninterrupted: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run(*LONG, "optimization.max_update=10", "dataset.num_workers=1", folder=folder)  # epochs have five
    resumed = run(*LONG, "dataset.num_workers=4", folder=folder)
    assert_same_end(resumed, uninterrupted)


def test_a_run_that_is_stopped_while_it_validates_leaves_the_rest_of_the_validation_out(
    run: Command, uninterrupted: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    often = ("dataset.validate_interval_updates=1", "dataset.batch_size_valid=1", "dataset.num_workers=1")
    started = run.start(*LONG, *often, folder=folder)
    run.wait_until(lambda: started.output.count("begin validation on") >= 4)
    stop(run, started)
    assert_same_end(run(*LONG, folder=folder), uninterrupted)


def test_a_run_that_is_stopped_while_it_saves_ends_that_save_first(
    run: Command, uninterrupted: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    started = run.start(*LONG, "checkpoint.save_interval_updates=1", folder=folder)
    run.wait_until(lambda: started.output.count("Preparing to save checkpoint") >= 3)
    stop(run, started, everybody=False)
    assert not list(started.checkpoints.glob("*.tmp"))
    assert_same_end(run(*LONG, folder=folder), uninterrupted)


def test_workers_leave_the_signals_to_their_parent(run: Command) -> None:
    started = run.start(*LONG, "dataset.num_workers=2")
    run.wait_until(lambda: started.num_updates() >= 2)
    workers = Path(f"/proc/{started.process}/task/{started.process}/children").read_text().split()
    assert len(workers) >= 2
    for worker in workers:
        os.kill(int(worker), signal.SIGTERM)
    assert run.wait(started) == 0, started.output[-3000:]
    assert started.num_updates() == UPDATES


def test_a_request_before_the_first_update_is_kept_for_it(run: Command, tmp_path: Path) -> None:
    started = run.start(*LONG)
    run.wait_until(lambda: "model: MaskedAutoencoderModel" in started.output)
    assert stop(run, started) >= 1


def test_a_run_that_keeps_nothing_says_so(run: Command) -> None:
    started = run.start(*LONG, "checkpoint.no_save=true")
    run.wait_until(lambda: started.num_updates() >= 1)
    os.kill(started.process, signal.SIGTERM)
    assert run.wait(started) == 0
    assert "nothing is kept (checkpoint.no_save=true)" in started.output


def test_ctrl_c_ends_in_one_sentence_and_the_status_that_shells_know(run: Command) -> None:
    started = run.start(*LONG, "dataset.num_workers=1", "optimization.max_update=5000")  # long enough to be interrupted
    run.wait_until(lambda: started.num_updates() >= 2)
    os.killpg(started.process, signal.SIGINT)
    assert run.wait(started) == 130
    assert started.output.count("interrupted; start the same command again to go on from the last checkpoint") == 1
    assert "Traceback" not in started.output


EARLY = """
import os, sys
from mae_ast_plugin.launch import prepare
original = prepare.import_plugin

def asked():
    os.kill(os.getpid(), {number})
    original()

prepare.import_plugin = asked
sys.argv[0] = "fairseq-hydra-train"
prepare.hydra_train.cli_main()
"""


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_run_that_is_asked_to_stop_while_it_is_being_made_ready_says_that_nothing_is_lost(
    number: signal.Signals, run: Command, tmp_path: Path
) -> None:
    script, folder = tmp_path / "program.py", tmp_path / "run"
    script.write_text(EARLY.format(number=int(number)))
    started = run.start(*run.arguments(*LONG, folder=folder), bare=True, script=script, folder=folder)
    assert run.wait(started) == 0, started.output[-3000:]
    assert f"stopped by {number.name} before the first update: nothing to save yet" in started.output
    assert not folder.exists()


def test_training_processes_that_were_asked_before_they_listened_end_the_run_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ended(cfg: Any, main: Any, ask: bool) -> None:
        if ask:
            os.kill(os.getpid(), signal.SIGTERM)
        raise ProcessExitedException(
            "process 1 terminated with signal SIGTERM", 1, error_pid=7, exit_code=-15, signal_name="SIGTERM"
        )

    monkeypatch.setattr(entry, "preflight", lambda cfg: None)
    cfg = SimpleNamespace(task={"_name": entry.OUR_TASK})
    with pytest.raises(SystemExit) as asked:
        entry.checked(ended)(cfg, None, ask=True)
    assert asked.value.code == 0 and "stopped by SIGTERM before the first update" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="process 1 of this run was ended"):
        entry.checked(ended)(cfg, None, ask=False)


# ---- the signals themselves


def test_handlers_are_given_back_and_requests_forgotten() -> None:
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    with listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop_requested() and stop_signal() == "SIGUSR1"
        os.kill(os.getpid(), signal.SIGTERM)  # what a launcher passes on at once is the same request
        assert stop_signal() == "SIGUSR1"
    assert not stop_requested()
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before


def test_a_handler_of_somebody_else_stays() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        with listening():
            os.kill(os.getpid(), signal.SIGUSR1)
            assert heard == [signal.SIGUSR1] and not stop_requested()
        assert signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGUSR1, before)


PROGRAM = """
import os, signal, sys, time
from mae_ast_plugin.launch import stopping
stopping.SAME_REQUEST = 0.2
with stopping.listening():
    child = os.fork() if sys.argv[1] == "fork" else 0
    print(child, flush=True)
    try:
        time.sleep(20)
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def program(mode: str) -> tuple[subprocess.Popen[str], int]:
    started = subprocess.Popen([sys.executable, "-c", PROGRAM, mode], stdout=subprocess.PIPE, text=True)
    assert started.stdout
    return started, int(started.stdout.readline())


def test_a_second_signal_after_a_while_ends_at_once() -> None:
    assert SAME_REQUEST > 1
    started, _ = program("alone")
    with started:
        started.terminate()
        started.terminate()
        time.sleep(0.5)
        assert started.poll() is None
        started.terminate()
        assert started.wait(5) == -signal.SIGTERM


PARENT = """
import multiprocessing, signal, sys, time
from mae_ast_plugin.launch import stopping

def train(ready):
    stopping.listen()
    ready.set()
    while not stopping.stop_requested():
        time.sleep(0.01)
    sys.exit(7)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    child = context.Process(target=train, args=(ready,))
    with stopping.listening():
        child.start()
        ready.wait()
        print(child.pid, flush=True)
        child.join()
    sys.exit(child.exitcode)
"""


def test_a_process_that_started_training_processes_passes_the_signal_on(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    started = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    with started:
        assert started.stdout and int(started.stdout.readline()) > 0
        started.terminate()
        assert started.wait(60) == 7


def test_a_worker_obeys_its_parent_alone() -> None:
    started, worker = program("fork")
    with started:
        assert started.stdout
        os.kill(worker, signal.SIGTERM)
        time.sleep(0.2)
        assert "zombie" not in Path(f"/proc/{worker}/status").read_text()
        began = time.monotonic()
        started.send_signal(signal.SIGINT)  # upon which it ends its worker
        assert int(started.stdout.readline()) == 0
        assert time.monotonic() - began < 10
