"""Batches padded to the width that was planned for them: what is padded, and that no loss and no gradient sees it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from fairseq.logging import metrics
from omegaconf import OmegaConf

from mae_ast_plugin.audio.manifest import Manifest, write_manifest
from mae_ast_plugin.criterions.mae_ast import MaskedPredictionCriterion
from mae_ast_plugin.data.batching import ClipRef
from mae_ast_plugin.data.clips import ClipDataset
from mae_ast_plugin.methods.build import frontend_of
from mae_ast_plugin.methods.settings import CriterionSettings, ModelSettings, TaskSettings, from_mapping
from mae_ast_plugin.models.mae_ast import MaskedAutoencoderConfig, MaskedAutoencoderModel
from mae_ast_plugin.tasks.mae_ast_pretraining import MaskedPretrainingConfig, MaskedPretrainingTask

CONFIG = Path(__file__).parents[2] / "config"
TINY = sorted(path.stem for path in CONFIG.glob("*_tiny.yaml"))
LENGTHS_S = (0.61, 0.93, 0.8)
WIDTH_S = 1.17
NO_DROPOUT = {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "dropout_input": 0.0,
    "encoder_layerdrop": 0.0,
    "drop_path": 0.0,
}


def section(recipe: str, name: str) -> dict[str, Any]:
    """What a recipe and those it begins with set of a section."""
    content: Any = OmegaConf.to_container(OmegaConf.load(CONFIG / f"{recipe}.yaml"), resolve=False)
    before = [base for base in content["defaults"] if isinstance(base, str) and (CONFIG / f"{base}.yaml").is_file()]
    values: dict[str, Any] = {}
    for each in (*(section(base, name) for base in before), content.get(name, {})):
        values.update(each)
    return values


def dataset(folder: Path, task: TaskSettings, pad_to_widths: bool = True) -> ClipDataset:
    draw, rate = np.random.default_rng(0), task.sample_rate
    rows = []
    for number, seconds in enumerate(LENGTHS_S):
        waveform = 0.1 * draw.standard_normal(int(seconds * rate))
        soundfile.write(folder / f"{number}.wav", waveform, rate)
        rows.append((f"{number}.wav", len(waveform)))
    write_manifest(folder / "train.tsv", folder, rows, rates=[rate] * len(rows))
    manifest, frontend = Manifest.load(folder / "train.tsv"), frontend_of(task)
    return ClipDataset(
        "train", manifest, task, frontend, min_frames=16, seed=1, epoch_matters=True, pad_to_widths=pad_to_widths
    )


def collate(data: ClipDataset, width: int) -> dict[str, Any]:
    return data.collater([data[ClipRef(row, 1, 0, width)] for row in range(len(data))])


def longest(data: ClipDataset) -> int:
    return int(data.sizes.max())


def wide(data: ClipDataset) -> int:
    return int(WIDTH_S * data.task.sample_rate)


def source(batch: dict[str, Any]) -> torch.Tensor:
    [found] = [batch["net_input"][name] for name in ("waveforms", "features") if name in batch["net_input"]]
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize("recipe", TINY)
def test_losses_and_gradients_of_every_recipe_do_not_see_the_width(recipe: str, tmp_path: Path) -> None:
    task = from_mapping(TaskSettings, section(recipe, "task"))
    model = replace(from_mapping(ModelSettings, section(recipe, "model")), **NO_DROPOUT)
    criterion = MaskedPredictionCriterion(from_mapping(CriterionSettings, section(recipe, "criterion")))
    data = dataset(tmp_path, task)
    torch.manual_seed(0)
    network = MaskedAutoencoderModel(model, task).train()
    told, gradients = [], []
    for width in (0, wide(data)):
        network.zero_grad()
        batch = collate(data, width)
        assert source(batch).shape[1] == (width or longest(data))
        loss, _, logging = criterion(network, batch)
        loss.backward()
        told.append({name: float(logging[name]) for name in logging if name != "padded_seconds"})
        gradients.append([weight.grad for weight in network.parameters() if weight.grad is not None])
    assert told[1] == pytest.approx(told[0], rel=1e-5)
    rounding = 1e-5 * max(float(gradient.abs().max()) for gradient in gradients[0])
    for narrow, padded in zip(*gradients, strict=True):
        torch.testing.assert_close(padded, narrow, rtol=1e-3, atol=rounding)


@pytest.mark.parametrize("features_on", ["device", "loader"])
def test_a_batch_is_as_wide_as_planned_and_silent_behind_its_clips(tmp_path: Path, features_on: str) -> None:
    data = dataset(tmp_path, TaskSettings(features_on=features_on))
    batch = collate(data, wide(data))
    found = source(batch)
    count = data.frontend.num_frames if features_on == "loader" else int
    assert found.shape[:2] == (3, count(wide(data)))
    for row, length in zip(found, batch["net_input"]["lengths"], strict=True):
        assert row[: count(length)].any() and not row[count(length) :].any()
    torch.testing.assert_close(found[:, : count(longest(data))], source(collate(data, 0)))


def test_the_share_of_padding_counts_what_was_planned(tmp_path: Path) -> None:
    data = dataset(tmp_path, TaskSettings())
    batch = collate(data, wide(data))
    assert batch["audio_seconds"] == pytest.approx(sum(LENGTHS_S))
    assert batch["padded_seconds"] == pytest.approx(3 * WIDTH_S)
    assert data.collater([])["padded_seconds"] == 0


def test_a_clip_longer_than_planned_comes_whole(tmp_path: Path) -> None:
    data = dataset(tmp_path, TaskSettings())
    assert source(collate(data, longest(data) - 100)).shape[1] == longest(data)


@pytest.mark.parametrize("off", [{"pad_audio": False}, {"pad_to_widths": False}], ids=str)
def test_what_pads_nothing_or_only_to_the_longest_knows_no_width(tmp_path: Path, off: dict[str, bool]) -> None:
    task = TaskSettings(pad_audio=off.get("pad_audio", True))
    data = dataset(tmp_path, task, pad_to_widths=off.get("pad_to_widths", True))
    expected = data.sizes.max() if task.pad_audio else data.sizes.min()
    assert source(collate(data, wide(data))).shape[1] == expected


def test_an_epoch_tells_its_batches_shapes_and_padding(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = dataset(tmp_path, TaskSettings())
    with caplog.at_level("INFO"):
        batches = data.batches(3, None, 2, 1, 1)
    padding = 1 - sum(LENGTHS_S) / (0.93 * 2 + 0.61)
    assert caplog.messages == [f"train: 2 batches in epoch 3 of 2 shapes, {padding:.1%} of their samples padding"]
    assert len(batches) == 2


def test_an_epoch_tells_how_much_of_the_budget_its_batches_fill(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = dataset(tmp_path, TaskSettings())
    with caplog.at_level("INFO"):
        batches = data.batches(1, 32_000, None, 1, 1)
    assert len(batches) == 2  # 2 x 0.93 s and 0.61 s, of 2 s each
    assert caplog.messages[0].endswith(f"padding, {(0.93 * 2 + 0.61) / 4:.1%} of dataset.max_tokens filled")


# ---- in a run


def task_over(folder: Path) -> MaskedPretrainingTask:
    dataset(folder, TaskSettings())
    task = MaskedPretrainingTask(MaskedPretrainingConfig(data=str(folder), seed=1, train_subset="train"))
    task.min_frames = 16
    return task


@pytest.mark.parametrize("count_partial", [True, False])
def test_where_padding_would_be_tokens_there_is_no_more_of_it_than_needed(tmp_path: Path, count_partial: bool) -> None:
    task = task_over(tmp_path)
    model = MaskedAutoencoderConfig(
        count_partial_patches=count_partial, encoder_layers=1, encoder_embed_dim=48, decoder_embed_dim=48
    )
    model._name = "mae_ast"
    task.build_model(OmegaConf.create({"model": OmegaConf.structured(model)}).model)  # with a parent, as in a run
    task.load_dataset("train")
    data = task.datasets["train"]
    assert source(collate(data, wide(data))).shape[1] == (longest(data) if count_partial else wide(data))


def test_padding_is_logged_in_percent_of_what_all_processes_saw(tmp_path: Path) -> None:
    logs = [
        {"audio_seconds": 6.0, "padded_seconds": 6.5, "nsentences": 2, "ntokens": 9},
        {"audio_seconds": 3.0, "padded_seconds": 5.5, "nsentences": 1, "ntokens": 4},
        {"audio_seconds": 0.0, "padded_seconds": 0.0, "nsentences": 0, "ntokens": 0},
    ]
    criterion = MaskedPredictionCriterion(CriterionSettings()).eval()
    with metrics.aggregate() as found:
        task_over(tmp_path).reduce_metrics(logs, criterion)
    assert found["padding"].avg == pytest.approx(25)


def test_workers_change_nothing_about_the_batches_of_an_epoch(tmp_path: Path) -> None:
    epochs = []
    for num_workers in (0, 2):
        task = task_over(tmp_path)
        task.load_dataset("train")
        batches = task.get_batch_iterator(task.datasets["train"], max_sentences=2, num_workers=num_workers)
        epochs.append([(batch["id"].tolist(), source(batch)) for batch in batches.next_epoch_itr(shuffle=True)])
    for (rows, waveforms), (other_rows, other_waveforms) in zip(*epochs, strict=True):
        assert rows == other_rows
        assert torch.equal(waveforms, other_waveforms)
