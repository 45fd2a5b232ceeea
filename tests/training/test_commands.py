"""The training command: the original's lines, every recipe, where a run writes, and what a mistake is told."""

from __future__ import annotations

import fractions
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from fairseq.file_io import PathManager
from omegaconf import OmegaConf

from mae_ast_plugin.launch.entry import checked
from mae_ast_plugin.launch.recipe_settings import recipe_settings
from mae_ast_plugin.launch.recipes import recipe_folder, recipe_names

if TYPE_CHECKING:
    from .conftest import Command, Corpus, Run

FRAMES = (
    "model.ast_kernel_size_chan=128",
    "model.ast_kernel_size_time=2",
    "model.ast_kernel_stride_chan=128",
    "model.ast_kernel_stride_time=2",
)
PATCHES = (
    "model.ast_kernel_size_chan=16",
    "model.ast_kernel_size_time=16",
    "model.ast_kernel_stride_chan=16",
    "model.ast_kernel_stride_time=16",
)
README_COMMANDS = {
    "patch and chunk": ("model.random_mask_prob=0.75", "task.mask_type=chunk_mask", *PATCHES),
    "frame and random": ("model.random_mask_prob=0.75", "task.mask_type=random_mask", *FRAMES),
    "frame and spans": ("model.random_mask_prob=1.45", "task.mask_type=retain_spans", *FRAMES),
}
README_REST = (
    "criterion.classification_weight=1",
    "criterion.reconstruction_weight=10",
    "distributed_training.distributed_world_size=1",
    "distributed_training.nprocs_per_node=1",
    "common.log_interval=200",
    "checkpoint.save_interval_updates=25000",
)
README_SIZES = (
    "task.min_sample_size=null",
    "model.encoder_layers=2",
    "model.decoder_layers=2",
    "model.encoder_embed_dim=32",
    "model.decoder_embed_dim=32",
    "model.encoder_ffn_embed_dim=64",
    "model.encoder_attention_heads=4",
    "optimization.max_update=3",
    "dataset.max_tokens=100000",
    "optimization.lr=[0.0001]",
)


def files_below(folder: Path) -> dict[str, tuple[int, float]]:
    """Size and time of every file."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime) for path in found}


def has_trained(run: Run, num_updates: int = 3) -> bool:
    history: list[dict[str, Any]] = run.checkpoint()["optimizer_history"]
    return bool(history[-1]["num_updates"] == num_updates)


@pytest.mark.parametrize("name", README_COMMANDS)
def test_commands_of_the_original_readme_run_as_printed(
    name: str, run: Command, corpus: Corpus, repository: Path, tmp_path: Path
) -> None:
    done = run(
        "--config-dir",
        str(repository / "config"),
        "--config-name",
        "mae_ast",
        f"common.user_dir={repository / 'mae_ast_plugin'}",
        f"task.data={corpus.data}",
        "model._name=mae_ast",
        "criterion._name=mae_ast",
        *README_COMMANDS[name],
        *README_REST,
        *README_SIZES,
        f"hydra.run.dir={tmp_path / 'run'}",
        bare=True,
        folder=tmp_path / "run",
    )
    assert has_trained(done)
    stored = done.checkpoint()["cfg"]
    for setting in README_COMMANDS[name]:
        section, key, value = (*setting.split("=")[0].split("."), setting.split("=")[1])
        assert str(stored[section][key]) == value


@pytest.mark.parametrize("recipe", recipe_names([recipe_folder()]))
def test_every_recipe_trains(recipe: str, run: Command) -> None:
    in_stages = bool(recipe_settings(recipe).model.stage_layers)  # there the small network is another
    sizes = ("model.stage_layers=1-1", "model.decoder_layers=0") if in_stages else ()
    done = run("--config-name", recipe, f"common.user_dir={recipe_folder().parent / 'mae_ast_plugin'}", *sizes)
    assert has_trained(done)
    assert all(float(values["loss"]) > 0 for values in done.logged())


def test_the_installed_command_runs_from_any_folder_with_relative_paths(
    run: Command, corpus: Corpus, tmp_path: Path
) -> None:
    data = os.path.relpath(corpus.data, tmp_path)
    arguments = run.arguments(f"task.data={data}", folder=Path("relative") / "run")
    command = [str(Path(sys.executable).with_name("fairseq-hydra-train")), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "relative" / "run" / "checkpoints" / "checkpoint_last.pt").is_file()


def test_the_documented_command_runs_from_the_root_of_the_repository(
    run: Command, corpus: Corpus, repository: Path
) -> None:
    before = set(os.listdir(repository))
    done = run(
        "common.user_dir=mae_ast_plugin",
        f"task.data={os.path.relpath(corpus.data, repository)}",
        "model.dropout=0.3",
        cwd=repository,
    )
    assert has_trained(done)
    assert done.checkpoint()["cfg"]["model"]["dropout"] == 0.3
    new = set(os.listdir(repository)) - before  # other tests and tools may leave caches there meanwhile
    written = ("runs", "outputs", "multirun", "checkpoint", "tensorboard", "hydra", ".hydra", "resolved")
    assert not {name for name in new if name.startswith(written)}


def test_everything_a_run_writes_lies_under_its_own_directory(run: Command, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    done = run("task.picture_interval_updates=2", "hydra.run.dir=some/run", folder=elsewhere / "some" / "run")
    written = files_below(elsewhere)
    assert all(name.startswith("some/run/") for name in written)
    for name in (
        "checkpoints/checkpoint_last.pt",
        "checkpoints/checkpoint_best.pt",
        "checkpoints/checkpoint_1_2.pt",
        "hydra_train.log",
        "resolved_config.yaml",
        "pictures/update_0000002.png",
    ):
        assert f"some/run/{name}" in written
    assert {path.parent.name for path in done.folder.glob("tensorboard/*/events.*")} == {
        "train",
        "train_inner",
        "valid",
        "pictures",
    }
    assert "Saved checkpoint" in (done.folder / "hydra_train.log").read_text()
    assert "mask_type: chunk_mask" in (done.folder / "resolved_config.yaml").read_text()


def test_a_finished_run_started_again_changes_nothing(run: Command, finished: Run) -> None:
    before = files_below(finished.folder)
    again = run(folder=finished.folder)
    after = files_below(finished.folder)
    assert f"{finished.checkpoints} holds a finished run of 3 updates; raise optimization.max_update" in again.output
    assert set(after) == set(before)
    for name in before:
        if not name.startswith(".hydra/"):
            assert after[name] == before[name], name


def test_a_finished_run_goes_on_when_more_updates_are_asked_for(run: Command, finished: Run) -> None:
    longer = run("optimization.max_update=5", folder=finished.folder)
    assert [int(values["num_updates"]) for values in longer.logged()] == [4, 5]


def test_the_runs_of_a_sweep_keep_their_files_apart(run: Command, tmp_path: Path) -> None:
    done = run(
        "--multirun",
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
        "hydra.run.dir=DEFAULT",
        "model.dropout=0.1,0.2",
        "checkpoint.save_dir=${hydra:runtime.output_dir}/deep/below",
        "optimization.max_update=1",
    )
    for number in ("0", "1"):
        folder = tmp_path / "sweep" / number
        names = set(files_below(folder))
        assert {"resolved_config.yaml", "deep/below/checkpoint_best.pt", "deep/below/checkpoint_last.pt"} <= names
        assert len([name for name in names if name.startswith("tensorboard/train_inner/")]) == 1
    assert len(done.logged()) == 2


# ---- mistakes


@pytest.mark.parametrize(
    ("mistake", "sentences"),
    [
        (
            "model.ast_kernel_stride_chan=15 model.random_mask_prob=1.2 model.dropout=1.5",
            (
                "model.ast_kernel_stride_chan is 15, which does not divide the 128 mel bins",
                "model.random_mask_prob is 1.2",
                "must be below 1",
                "model.dropout is 1.5; it must be between 0 and 1",
            ),
        ),
        ("task.data=DEFAULT", ("task.data is missing", "train.tsv")),
        (
            "dataset.max_tokens=5000",
            ("dataset.max_tokens is 5000 samples, less than the longest clip", "task.max_sample_size"),
        ),
        ("dataset.valid_subset=test", ("test.tsv",)),
        ("dataset.max_tokens=null", ("neither dataset.max_tokens (samples) nor dataset.batch_size (clips) is set",)),
    ],
)
def test_a_mistake_ends_the_command_in_one_sentence(mistake: str, sentences: tuple[str, ...], run: Command) -> None:
    ended = run(*mistake.split(), status=1)
    for sentence in sentences:
        assert sentence in ended.sentence
    assert not ended.logged()


def test_a_misspelt_recipe_lists_those_there_are(run: Command) -> None:
    ended = run("--config-name", "mae_asd", status=1)
    assert "there is no recipe 'mae_asd'" in ended.sentence
    assert all(name in ended.sentence for name in recipe_names([recipe_folder()]))


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("model.dropuot=0.3", ("model.dropuot",)),
        ("model.dropout=much", ("model.dropout", "much")),
        ("task.max_sample_size=[1]", ("task.max_sample_size",)),
        ("common.lgo_interval=3", ("lgo_interval",)),
    ],
)
def test_a_misspelt_key_or_a_wrong_type_names_the_field(mistake: str, words: tuple[str, ...], run: Command) -> None:
    ended = run(mistake, status=1)
    assert "Traceback" not in ended.output
    for word in words:
        assert word in ended.output


def complaint(finished: Run, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> str:
    """What the checks before training say to the configuration of a run, changed."""
    monkeypatch.setattr(PathManager, "copy", PathManager.copy)  # the checks replace it
    config = OmegaConf.load(finished.folder / "resolved_config.yaml")
    config.checkpoint.save_dir = str(finished.checkpoints)
    for name, value in changes.items():
        OmegaConf.update(config, name, value)
    with pytest.raises(SystemExit) as end:
        checked(lambda cfg, main: None)(config, lambda cfg: None)
    sentence = str(end.value)
    assert sentence.startswith("error: ")
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        (
            {"task.mask_type": "chunky"},
            (
                "task.mask_type is 'chunky'; it must be one of ",
                "retain_spans",
            ),
        ),
        ({"model.random_mask_prob": -0.1}, ("model.random_mask_prob is -0.1",)),
        ({"model.random_mask_prob": 1.0}, ("model.random_mask_prob is 1.0", "below 1")),
        ({"model.ast_kernel_size_chan": 129}, ("model.ast_kernel_size_chan is 129, but there are only 128 mel bins",)),
        ({"model.ast_kernel_stride_time": 17}, ("model.ast_kernel_stride_time is 17, larger than the patch",)),
        ({"model.encoder_layerdrop": 1.5}, ("model.encoder_layerdrop is 1.5; it must be between 0 and 1",)),
        ({"model.precision": "half"}, ("model.precision is 'half'", "bfloat16")),
        (
            {"model.encoder_layers": 3},
            ("holds a run with model.encoder_layers=2, but model.encoder_layers=3 is asked for",),
        ),
        ({"common.fp16": True}, ("common.fp16=true", "model.precision=bfloat16")),
        ({"common.bf16": True}, ("common.bf16=true", "model.precision=bfloat16")),
        (
            {"optimizer._name": "nag", "task.layer_decay": 0.75},
            ("task.layer_decay=0.75 works with optimizer=adam, and optimizer=nag is asked for",),
        ),
        ({"task.data": "no/such/folder"}, ("task.data is 'no/such/folder', which is no folder", "manifests scan")),
        ({"checkpoint.restore_file": "no/such.pt"}, ("checkpoint.restore_file is no/such.pt: there is no such file",)),
        ({"optimization.skip_remainder_batch": True}, ("optimization.skip_remainder_batch=true", "leave clips out")),
    ],
)
def test_what_cannot_work_is_one_sentence_before_any_time_is_spent(
    changes: dict[str, Any], sentences: tuple[str, ...], finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_below(finished.folder)
    sentence = complaint(finished, monkeypatch, changes)
    for part in sentences:
        assert part in sentence
    assert files_below(finished.folder) == before


def test_a_checkpoint_to_restore_that_is_truncated_or_holds_code_is_refused(
    finished: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    damaged, code = tmp_path / "damaged.pt", tmp_path / "code.pt"
    damaged.write_bytes((finished.checkpoints / "checkpoint_last.pt").read_bytes()[:5000])
    torch.save({"model": {}, "cfg": fractions.Fraction(1, 3)}, code)
    sentence = complaint(finished, monkeypatch, {"checkpoint.restore_file": str(damaged)})
    assert f"{damaged}: it is truncated" in sentence
    sentence = complaint(finished, monkeypatch, {"checkpoint.restore_file": str(code)})
    assert f"{code}: it holds code" in sentence
