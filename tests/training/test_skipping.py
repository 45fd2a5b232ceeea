"""Gradients that are not finite: such an update is as if it had not been, is counted, and too many end the run."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
import torch
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from omegaconf import OmegaConf

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch.trainer import SteadyTrainer
from mae_ast_plugin.tasks.mae_ast_pretraining import MaskedPretrainingTask

from .conftest import SIZES, scan

if TYPE_CHECKING:
    from .conftest import Command, Corpus

Made = tuple[SteadyTrainer, list[dict[str, Any]]]


@pytest.fixture
def make_trainer(compose_recipe: Callable[..., Any], corpus: Corpus, tmp_path: Path) -> Iterator[Callable[..., Made]]:
    """A trainer as the command makes it, and the batches of its first epoch."""

    def make(*overrides: str) -> Made:
        sizes = [f"{name}={value}" for name, value in SIZES.items()]
        folders = [f"task.data={corpus.data}", f"checkpoint.save_dir={tmp_path}", "common.tensorboard_logdir=null"]
        cfg = compose_recipe("mae_ast", *sizes, *folders, "dataset.batch_size=4", *overrides)
        metrics.reset()
        torch.manual_seed(1)
        task = MaskedPretrainingTask.setup_task(cfg.task)
        trainer = SteadyTrainer(cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion))
        batches = list(trainer.get_train_iterator(1).next_epoch_itr())
        return trainer, batches

    yield make
    metrics.reset()


def poisoned(sample: dict[str, Any]) -> dict[str, Any]:
    """The same batch, but so loud that its power cannot be told in 32 bits."""
    changed = copy.deepcopy(sample)
    changed["net_input"]["waveforms"] *= 1e30
    return changed


def everything(trainer: SteadyTrainer) -> dict[str, Any]:
    """What an update may change: weights, statistics, the optimiser's state, the place in the schedule."""
    trainer.consolidate_optimizer()
    state = copy.deepcopy(trainer.state_dict())
    history = state["optimizer_history"][-1]
    return {
        "model": state["model"],
        "optimizer": state["last_optimizer_state"],
        "updates": history["num_updates"],
        "schedule": history["lr_scheduler_state"],
        "lr": trainer.get_lr(),
    }


def assert_equal(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=False)


@pytest.mark.parametrize("clip_norm", [0, 10])
@pytest.mark.parametrize("with_batches_before", [0, 1])
def test_an_update_that_is_not_finite_is_as_if_it_had_not_been(
    clip_norm: int, with_batches_before: int, make_trainer: Callable[..., Made]
) -> None:
    trainer, batches = make_trainer(f"optimization.clip_norm={clip_norm}")
    for batch in batches[:2]:
        trainer.train_step([batch])
    before = everything(trainer)
    assert trainer.train_step([*batches[2 : 2 + with_batches_before], poisoned(batches[3])]) is None
    assert_equal(everything(trainer), before)
    assert trainer.skipped_updates == 1

    after_skip = trainer.train_step([batches[4]])
    other, same = make_trainer(f"optimization.clip_norm={clip_norm}")
    for batch in (same[0], same[1]):
        other.train_step([batch])
    assert other.train_step([same[4]])["loss"] == after_skip["loss"]
    assert_equal(everything(other), everything(trainer))


def test_skipped_updates_are_counted_told_and_kept_in_checkpoints(
    make_trainer: Callable[..., Made], caplog: pytest.LogCaptureFixture
) -> None:
    trainer, batches = make_trainer()
    with metrics.aggregate("train_inner"):
        for batch in (batches[0], poisoned(batches[1]), batches[2], poisoned(batches[3])):
            trainer.train_step([batch])
    assert metrics.get_smoothed_values("train_inner")["skipped_updates"] == 1  # as of the last update that was made
    told = [record.message for record in caplog.records if "gradients are not finite" in record.message]
    assert told == [
        "update 2: gradients are not finite (loss nan on rank 0); left out, 1 so far, 1 in a row",
        "update 3: gradients are not finite (loss nan on rank 0); left out, 2 so far, 1 in a row",
    ]
    trainer.consolidate_optimizer()
    assert trainer.state_dict()["extra_state"]["skipped_updates"] == 2
    assert list(metrics._active_aggregators) == ["default"]


def test_too_many_in_a_row_are_a_plain_error(make_trainer: Callable[..., Made]) -> None:
    trainer, batches = make_trainer("task.max_skipped_updates=2")
    bad = poisoned(batches[1])
    for batch in (batches[0], bad, bad, batches[2], bad, bad):
        trainer.train_step([batch])
    with pytest.raises(PlainError, match="3 updates in a row after update 2 are not finite, more than"):
        trainer.train_step([bad])


def test_no_skipped_update_may_be_allowed(make_trainer: Callable[..., Made]) -> None:
    trainer, batches = make_trainer("task.max_skipped_updates=0")
    with pytest.raises(PlainError, match=r"task\.max_skipped_updates=0; lower optimization\.lr"):
        trainer.train_step([poisoned(batches[0])])


def test_an_error_leaves_no_checkpoint_that_no_run_could_go_on_from(
    make_trainer: Callable[..., Made], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trainer, batches = make_trainer()

    def fails(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")

    monkeypatch.setattr(FairseqTask, "train_step", fails)
    longest = max(batches[0]["net_input"]["lengths"])
    with pytest.raises(PlainError) as raised:
        trainer.train_step([batches[0]])
    assert f"a batch of 4 clips of up to {longest} samples does not fit into the GPU's memory" in str(raised.value)
    assert "lower dataset.max_tokens or dataset.batch_size, or set model.checkpoint_activations" in str(raised.value)
    assert not list(tmp_path.glob("*.pt"))


# ---- in a run


@pytest.fixture(scope="module")
def with_a_loud_clip(make_corpus: Callable[[], Corpus]) -> Corpus:
    corpus = make_corpus()
    path = corpus.folder / "audio" / "train" / "clip 99.wav"
    soundfile.write(path, np.full(9000, 1e30, np.float32) * np.random.default_rng(1).random(9000), 16000, "FLOAT")
    scan(corpus.folder)
    return corpus


def test_a_run_goes_on_past_a_batch_whose_gradients_are_not_finite(run: Command, with_a_loud_clip: Corpus) -> None:
    settings = (f"task.data={with_a_loud_clip.data}", "dataset.max_tokens=null", "dataset.batch_size=4")
    done = run(*settings, "optimization.max_update=9", "checkpoint.save_interval_updates=1")
    assert done.output.count("gradients are not finite (loss nan on rank 0); left out") == 2  # once an epoch of five
    assert [int(values["num_updates"]) for values in done.logged()] == list(range(1, 10))
    assert done.scalars("skipped_updates")[9] == 2
    assert done.checkpoint()["extra_state"]["skipped_updates"] == 2
    assert all(bool(torch.isfinite(value).all()) for value in done.weights().values())


def test_a_run_that_diverges_ends_in_one_sentence_and_keeps_the_checkpoint_before(run: Command) -> None:
    ended = run(
        "optimization.lr=[1e30]",
        "optimization.max_update=50",
        "task.max_skipped_updates=3",
        "checkpoint.save_interval_updates=1",
        status=1,
    )
    assert "4 updates in a row after update 1 are not finite" in ended.sentence
    assert ended.checkpoint()["optimizer_history"][-1]["num_updates"] == 1
    assert not os.path.exists(ended.checkpoints / "crash.pt")


def test_the_composed_configuration_has_the_limit(compose_recipe: Callable[..., Any]) -> None:
    assert OmegaConf.select(compose_recipe("mae_ast"), "task.max_skipped_updates") == 10
