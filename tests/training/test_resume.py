"""Killed, truncated, copied by halves: a run goes on from its last checkpoint as if nothing had happened."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from .conftest import Command, Corpus, Run

UPDATES = 33
RANDOM = (  # everything that draws numbers, read by other processes; epochs of five updates, checkpoints within them
    "dataset.num_workers=2",
    "dataset.max_tokens=null",
    "dataset.batch_size=4",
    "model.dropout=0.1",
    "model.encoder_layerdrop=0.3",
    "model.attention_dropout=0.1",
    "optimization.lr=[0.001]",
    "task.max_sample_size=9000",
    "task.feature_type=emphasised_mel",
    "task.vary_filters=true",
    "checkpoint.save_interval_updates=4",
    "checkpoint.save_interval=100",
    f"optimization.max_update={UPDATES}",
)


@pytest.fixture(scope="module")
def uninterrupted(run_of_module: Command) -> Run:
    return run_of_module(*RANDOM)


def assert_same_end(run: Run, uninterrupted: Run) -> None:
    """The same weights and optimizer state, bit for bit."""
    expected, found = uninterrupted.checkpoint(), run.checkpoint()
    assert found["optimizer_history"][-1]["num_updates"] == UPDATES
    assert found["model"].keys() == expected["model"].keys()
    for name, weights in expected["model"].items():
        assert torch.equal(weights, found["model"][name]), name
    for number, state in expected["last_optimizer_state"]["state"].items():
        for name, value in state.items():
            assert torch.equal(
                torch.as_tensor(value), torch.as_tensor(found["last_optimizer_state"]["state"][number][name])
            )


def test_a_killed_run_started_again_ends_with_the_weights_of_an_uninterrupted_one(
    run: Command, uninterrupted: Run, tmp_path: Path
) -> None:
    kept = "task.keep_decoded_gb=1"  # whether a clip was decoded or kept makes no difference, nor when it was kept
    killed = run.start(*RANDOM, kept, folder=tmp_path / "run")
    run.wait_until(lambda: killed.num_updates() >= 9)
    os.killpg(killed.process, signal.SIGKILL)
    assert run.wait(killed) == -signal.SIGKILL
    reached = killed.checkpoint()["optimizer_history"][-1]["num_updates"]
    assert 8 <= reached < UPDATES

    resumed = run(*RANDOM, kept, folder=tmp_path / "run")
    told = {int(values["num_updates"]): values["loss"] for values in resumed.logged()}
    assert list(told) == list(range(reached + 1, UPDATES + 1))
    assert told.items() <= {int(values["num_updates"]): values["loss"] for values in uninterrupted.logged()}.items()
    assert_same_end(resumed, uninterrupted)


def is_saving(folder: Path, since: float) -> bool:
    """Whether a checkpoint is half written, by a start of the run that was at work at the time ``since``."""
    for path in folder.glob("*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # it was whole before we looked
            if path.stat().st_mtime > since:
                return True
    return False


def test_a_run_killed_while_it_starts_while_it_trains_and_while_it_saves_ends_the_same(
    run: Command, uninterrupted: Run, tmp_path: Path
) -> None:
    """The short form of benchmarks/kills.py."""
    folder = tmp_path / "run"
    checkpoints = folder / "checkpoints"
    for moment in ("start", "update", "save", "save"):
        started = run.start(*RANDOM, "checkpoint.save_interval_updates=1", folder=folder)
        if moment == "start":
            run.wait_until(lambda started=started: "begin dry-run validation" in started.output)  # type: ignore[misc]
        else:
            run.wait_until(lambda started=started: started.num_updates() >= 3)  # type: ignore[misc]
        if moment == "save":
            now = time.time()
            run.wait_until(lambda now=now: is_saving(checkpoints, now), every=0)  # type: ignore[misc]
        os.killpg(started.process, signal.SIGKILL)
        assert run.wait(started) == -signal.SIGKILL
    assert_same_end(run(*RANDOM, folder=folder), uninterrupted)


def test_a_truncated_last_checkpoint_falls_back_to_the_newest_that_can_be_read(run: Command, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = run(*RANDOM, "optimization.max_update=9", "checkpoint.keep_interval_updates=2", folder=folder)
    last, newest = first.checkpoints / "checkpoint_last.pt", first.checkpoints / "checkpoint_2_8.pt"
    assert newest.is_file()
    for damaged in (last, first.checkpoints / "checkpoint_best.pt"):
        os.truncate(damaged, damaged.stat().st_size // 2)

    resumed = run(*RANDOM, "optimization.max_update=11", folder=folder)
    assert f"passed over: {last}: it is truncated" in resumed.output
    assert f"going on from {newest}" in resumed.output
    assert [int(values["num_updates"]) for values in resumed.logged()] == [9, 10, 11]


def test_only_damaged_checkpoints_are_a_plain_error_and_stay_as_they_are(run: Command, finished: Run) -> None:
    paths = list(finished.checkpoints.glob("*.pt"))
    for path in paths:
        os.truncate(path, 1000)
    refused = run("optimization.max_update=5", folder=finished.folder, status=1)
    assert (
        f"{finished.checkpoints}: none of its checkpoints can be read (checkpoint_last.pt: it is truncated or not a "
        "checkpoint; copy it again or take an older one); move the folder away to start again"
    ) in refused.sentence
    assert all(path.stat().st_size == 1000 for path in paths)


def test_a_run_killed_before_its_last_checkpoint_was_copied_goes_on_from_the_one_it_has(
    run: Command, finished: Run
) -> None:
    for path in finished.checkpoints.glob("*.pt"):
        if path.name != "checkpoint_1_2.pt":
            path.unlink()
    resumed = run(folder=finished.folder)
    assert [int(values["num_updates"]) for values in resumed.logged()] == [3]


def test_the_counts_of_unreadable_clips_go_on_too(run: Command, make_corpus: Callable[[], Corpus]) -> None:
    corpus = make_corpus()
    (corpus.folder / "audio" / "train" / "clip 03.wav").unlink()
    settings = (*RANDOM, f"task.data={corpus.data}", "task.max_unreadable=0.5", "task.picture_interval_updates=0")

    def counts(run: Run) -> Any:
        return run.checkpoint()["extra_state"]["MaskedPretrainingTask"]["clips"]

    whole = run(*settings, "optimization.max_update=15")  # three epochs
    first = run(*settings, "optimization.max_update=5")
    assert counts(first)["unreadable"]["training"] == 1
    resumed = run(*settings, "optimization.max_update=15", folder=first.folder)
    assert counts(whole)["unreadable"]["training"] == counts(resumed)["unreadable"]["training"] == 3
    assert counts(whole)["read"]["training"] == counts(resumed)["read"]["training"] == 3 * corpus.num_train
    refused = run(*settings, "optimization.max_update=20", "task.max_unreadable=0.001", folder=first.folder, status=1)
    assert re.search(r"[34] of the \d+ clips read so far for training are unreadable", refused.sentence)
