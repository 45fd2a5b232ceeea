"""Parameters in groups while a run trains: rates of layers, what is decayed, and runs that go on with them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.logging import metrics
from omegaconf import OmegaConf
from torch import Tensor

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch.grouping import check_grouping
from mae_ast_plugin.launch.trainer import SteadyTrainer
from mae_ast_plugin.tasks.mae_ast_pretraining import MaskedPretrainingTask

from .conftest import SIZES, Command, Corpus, Run

LAYERS = ("task.layer_decay=0.5", "task.decayed=weights")
STEEP = ("optimization.lr=[0.1]", "optimizer.weight_decay=0.5")
Made = tuple[SteadyTrainer, list[dict[str, Any]]]


@pytest.fixture
def make(compose_recipe: Callable[..., Any], corpus: Corpus, tmp_path: Path) -> Iterator[Callable[..., Made]]:
    """A trainer as the command makes it, and the batches of its first epoch."""

    def make(*overrides: str, recipe: str = "mae_ast") -> Made:
        sizes = [f"{name}={value}" for name, value in SIZES.items()]
        folders = [f"task.data={corpus.data}", f"checkpoint.save_dir={tmp_path}", "common.tensorboard_logdir=null"]
        cfg = compose_recipe(recipe, *sizes, *folders, "dataset.batch_size=4", *overrides)
        metrics.reset()
        torch.manual_seed(1)
        task = MaskedPretrainingTask.setup_task(cfg.task)
        trainer = SteadyTrainer(cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion))
        return trainer, list(trainer.get_train_iterator(1).next_epoch_itr())

    yield make
    metrics.reset()


def weights(trainer: SteadyTrainer) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.get_model().named_parameters()}


def moments(trainer: SteadyTrainer) -> dict[str, Tensor]:
    """Adam's first moment of every parameter that is trained, by its name."""
    state = trainer.optimizer.optimizer.state
    trained = [(name, p) for name, p in trainer.get_model().named_parameters() if p.requires_grad]
    return {name: state[parameter]["exp_avg"].clone() for name, parameter in trained}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_recipes_that_do_not_ask_have_one_group_and_an_untouched_step(make: Callable[..., Made]) -> None:
    trainer, _ = make()
    optimizer = trainer.optimizer.optimizer
    assert len(optimizer.param_groups) == 1
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def test_rates_of_layers_are_shares_of_the_run_s_at_every_update_warm_up_included(make: Callable[..., Made]) -> None:
    trainer, batches = make(*LAYERS, "lr_scheduler.warmup_updates=2", "optimization.max_update=6")
    seen: list[set[float]] = []
    optimizer = trainer.optimizer.optimizer
    optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.append({group["lr"] for group in optimizer.param_groups})
    )
    rates = []
    for batch in batches[:4]:
        rates.append(trainer.get_lr())  # what is logged, and what the schedule says
        trainer.train_step([batch])
    assert rates[1] < rates[2] > rates[3]  # up, then down
    assert seen == [{rate * share for share in (0.125, 0.25, 0.5, 1)} for rate in rates]


def test_a_lower_share_moves_lower_layers_less(make: Callable[..., Made]) -> None:
    def moved(*overrides: str) -> dict[str, float]:
        trainer, batches = make("optimizer.weight_decay=0", *overrides)
        before = weights(trainer)
        trainer.train_step([batches[0]])
        return {name: float((after - before[name]).abs().max()) for name, after in weights(trainer).items()}

    usual, shared = moved(), moved("task.layer_decay=0.5")
    for name, share in (("embed", 0.125), ("encoder.layers.0.fc1", 0.25), ("encoder.layers.1.fc1", 0.5)):
        name = f"autoencoder.{name}.weight"
        assert shared[name] == pytest.approx(share * usual[name], rel=1e-3)
    for part in ("decoder.layers.0.fc1", "reconstruct"):
        assert shared[f"autoencoder.{part}.weight"] == usual[f"autoencoder.{part}.weight"]


@pytest.mark.parametrize(
    ("decayed", "kept"),
    [("all", set()), ("weights_and_tokens", {"bias", "norm"}), ("weights", {"bias", "norm", "token"})],
)
def test_the_weight_decay_leaves_norms_and_offsets_alone(
    decayed: str, kept: set[str], make: Callable[..., Made]
) -> None:
    def after(decay: float) -> dict[str, Tensor]:
        changes = ("model.class_tokens=1", "model.layer_norm_first=true", "model.dec_table_pos=learned")
        changes += ("model.max_columns=20", f"optimizer.weight_decay={decay}", f"task.decayed={decayed}")
        trainer, batches = make("optimization.lr=[0.1]", *changes)
        for parameter in trainer.get_model().parameters():
            parameter.data += 1.0  # offsets begin with zeros, of which nothing can be taken
        trainer.train_step([batches[0]])
        return weights(trainer)

    def kind(name: str) -> str:
        if "token" in name or "grid" in name:
            return "token"
        return "norm" if "norm" in name else name.rsplit(".", 1)[1]

    with_decay, without = after(0.5), after(0.0)
    trained = {name for name in without if "encoder_mask_token" not in name and "grid.class_rows" not in name}
    same = {name for name in trained if torch.equal(with_decay[name], without[name])}
    assert {kind(name) for name in trained} == {"bias", "norm", "token", "weight"}
    assert same == {name for name in trained if kind(name) in kept}


def test_a_run_with_groups_goes_on_as_if_it_had_not_been_interrupted(make: Callable[..., Made], tmp_path: Path) -> None:
    whole, batches = make(*LAYERS, *STEEP)
    for batch in batches[:4]:
        whole.train_step([batch])

    first, _ = make(*LAYERS, *STEEP)
    for batch in batches[:2]:
        first.train_step([batch])
    path = save(first, tmp_path)
    second, _ = make(*LAYERS, *STEEP)
    second.load_checkpoint(path)
    for batch in batches[2:4]:
        second.train_step([batch])
    assert_equal(weights(second), weights(whole))
    assert_equal(moments(second), moments(whole))


def save(trainer: SteadyTrainer, folder: Path) -> str:
    path = str(folder / "checkpoint_last.pt")
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(path, {"train_iterator": {"epoch": 1, "iterations_in_epoch": 2, "version": 2}})
    return path


@pytest.mark.parametrize(("before", "after"), [((), LAYERS), (LAYERS, ()), (LAYERS, ("task.layer_decay=0.9",))])
def test_a_run_may_go_on_with_other_groups_and_its_own_state(
    before: tuple[str, ...], after: tuple[str, ...], make: Callable[..., Made], tmp_path: Path
) -> None:
    first, batches = make(*before)
    for batch in batches[:2]:
        first.train_step([batch])
    second, _ = make(*after)
    second.load_checkpoint(save(first, tmp_path))
    assert_equal(moments(second), moments(first))
    assert second.train_step([batches[2]]) is not None


@pytest.mark.parametrize("recipe", ["maskspec_tiny", "msm_mae_tiny"])
def test_recipes_of_image_maes_leave_offsets_and_norms_out_but_decay_tokens(
    recipe: str, make: Callable[..., Made], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        trainer, _ = make(recipe=recipe)
        network = trainer.get_model().autoencoder
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer = trainer.optimizer.optimizer
    wanted = sum(parameter.dim() > 1 for parameter in trained) + 1  # the decoder's mask token is a vector
    assert f"weight decay reaches {wanted} of {len(trained)} parameters" in caplog.text
    assert optimizer._optimizer_step_pre_hooks


def test_a_run_may_begin_with_the_weights_of_another_and_change_its_lower_layers_less(
    run: Command, finished: Run
) -> None:
    start = finished.checkpoints / "checkpoint_last.pt"
    ended = run(f"checkpoint.finetune_from_model={start}", "task.layer_decay=0.01", "optimization.max_update=1")
    assert "learning rates of the layers are from 1e-06 of the run's to all of it" in ended.output
    before, after = finished.weights(), ended.weights()
    moved = {name: float((after[name] - before[name]).abs().max()) for name in after}
    first, last = ("autoencoder.encoder.layers.0.fc1.weight", "autoencoder.reconstruct.weight")
    assert 0 < moved[first] < 0.001 * moved[last]


# ---- what cannot work


def asked(optimizer: str = "adam", weight_decay: float = 0.1, **task: Any) -> Any:
    return OmegaConf.create({"task": task, "optimizer": {"_name": optimizer, "weight_decay": weight_decay}})


@pytest.mark.parametrize(("name", "value"), [("layer_decay", 0.75), ("decayed", "weights")])
def test_other_optimisers_are_refused(name: str, value: Any) -> None:
    with pytest.raises(PlainError, match=f"task.{name}={value} works with optimizer=adam, and optimizer=nag is asked"):
        check_grouping(asked("nag", **{name: value}))


def test_nothing_is_said_of_what_was_not_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    check_grouping(asked("composite", 0.0, layer_decay=1.0, decayed="all"))
    check_grouping(asked(layer_decay=0.5, weight_decay=0.0))
    check_grouping(asked(decayed="weights"))
    assert not caplog.records


def test_a_choice_of_what_decays_without_decay_is_told(caplog: pytest.LogCaptureFixture) -> None:
    check_grouping(asked(decayed="weights", weight_decay=0.0))
    assert [r.message for r in caplog.records] == ["task.decayed=weights has no effect with optimizer.weight_decay=0"]
