"""What a run tells: TensorBoard, log, checkpoint, also of audio that is missing, broken or silent."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
import torch

from mae_ast_plugin.criterions.mae_ast import MaskedPredictionCriterion, perplexity
from mae_ast_plugin.methods.settings import CriterionSettings, ModelSettings
from mae_ast_plugin.models.mae_ast import MaskedAutoencoderModel
from mae_ast_plugin.nn.autoencoder import Predictions
from mae_ast_plugin.tasks import _pictures
from mae_ast_plugin.tasks.mae_ast_pretraining import MaskedPretrainingConfig, MaskedPretrainingTask

if TYPE_CHECKING:
    from .conftest import Command, Corpus, Run

UPDATES = 6


@pytest.fixture(scope="module")
def told(run_of_module: Command) -> Run:
    """Six updates in two starts, with pictures."""
    arguments = ("task.picture_interval_updates=2", "optimization.lr=[0.001]", "lr_scheduler.total_num_update=100")
    folder = run_of_module.folder / "told"
    run_of_module(*arguments, "optimization.max_update=3", folder=folder)
    return run_of_module(*arguments, f"optimization.max_update={UPDATES}", folder=folder)


@pytest.mark.parametrize(
    "name",
    [
        "loss",
        "loss_recon",
        "loss_info_nce",
        "mse",
        "nce_nats",
        "lr",
        "gnorm",
        "clips_per_second",
        "audio_hours",
        "unreadable",
    ],
)
def test_tensorboard_has_every_measure_at_every_update(name: str, told: Run) -> None:
    values = told.scalars(name)
    assert list(values) == list(range(1, UPDATES + 1))
    assert all(math.isfinite(value) for value in values.values())
    assert name == "unreadable" or max(values.values()) > 0


def test_validation_is_told_too(told: Run) -> None:
    assert {"loss", "mse", "nce_nats", "unreadable"} <= {value.tag for _, value in told.points("valid")}


def test_a_picture_of_the_reconstruction_is_drawn_every_so_many_updates(told: Run) -> None:
    images = {event.step: value.image for event, value in told.points("pictures") if value.tag == "reconstruction"}
    assert list(images) == [2, 4]
    for update, image in images.items():
        assert image.encoded_image_string.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", image.encoded_image_string[16:24])
        assert width > 300
        assert height > 200
        assert (told.folder / "pictures" / f"update_{update:07d}.png").read_bytes().startswith(b"\x89PNG")


def test_the_words_of_a_picture_follow_the_settings(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(_pictures, "save_png", lambda figure, path: drawn.append(figure))
    folders = {"data": str(corpus.data), "save_dir": str(tmp_path / "checkpoints"), "train_subset": "train"}
    task = MaskedPretrainingTask(
        MaskedPretrainingConfig(**folders, seed=1, min_sample_size=None, tensorboard_logdir=None)
    )
    task.load_dataset("valid")
    sizes = {f"{part}_{name}": 16 for part in ("encoder", "decoder") for name in ("embed_dim", "ffn_embed_dim")}
    settings = ModelSettings(**sizes, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, standard_bins=True)
    criterion = MaskedPredictionCriterion(CriterionSettings(reconstruction_error="absolute"))
    task._draw(MaskedAutoencoderModel(settings, task.settings), criterion, 7)
    (figure,) = drawn
    assert figure.get_suptitle() == "after 7 updates, each mel bin of a clip brought to mean 0 and variance 1"
    assert all("absolute error there" in row.get_suptitle() for row in figure.subfigs)


def test_the_loss_is_its_parts_in_the_unit_of_the_original(told: Run) -> None:
    loss, recon, info_nce = (told.scalars(name) for name in ("loss", "loss_recon", "loss_info_nce"))
    mse, nce = told.scalars("mse"), told.scalars("nce_nats")
    for update in loss:
        assert loss[update] * math.log(2) == pytest.approx(10 * mse[update] + nce[update], abs=2e-3)
        assert recon[update] * math.log(2) == pytest.approx(mse[update], abs=1e-3)
        assert info_nce[update] * math.log(2) == pytest.approx(nce[update], abs=1e-3)


def test_a_perplexity_that_no_float_can_hold_is_infinite_and_not_the_end_of_the_run() -> None:
    assert perplexity(3.0) == 8.0
    assert perplexity(5000.0) == math.inf
    assert math.isnan(perplexity(math.nan))


def test_hours_of_audio_go_on_after_a_restart(told: Run, run_of_module: Command) -> None:
    whole = run_of_module(f"optimization.max_update={UPDATES}")
    hours = list(told.scalars("audio_hours").values())
    assert hours == sorted(hours)
    assert hours == list(whole.scalars("audio_hours").values())
    assert told.audio_seconds() == pytest.approx(whole.audio_seconds(), rel=1e-9)
    assert told.audio_seconds() / 3600 == pytest.approx(hours[-1], abs=6e-5)


def leaves(content: Any) -> Iterator[Any]:
    if isinstance(content, dict):
        for name, value in content.items():
            yield name
            yield from leaves(value)
    elif isinstance(content, (list, tuple, set)):
        for value in content:
            yield from leaves(value)
    else:
        yield content


def test_a_checkpoint_is_plain_data(told: Run) -> None:
    kinds = {type(leaf) for leaf in leaves(told.checkpoint())}  # loads with weights_only=True
    assert kinds <= {torch.Tensor, str, int, float, bool, type(None)}
    assert {weights.dtype for weights in told.weights().values()} == {torch.float32, torch.int64}


# ---- unusual audio


def test_an_unreadable_clip_is_told_with_path_and_reason_and_counted(
    run: Command, make_corpus: Callable[[], Corpus]
) -> None:
    spoilt = make_corpus()
    clip = spoilt.folder / "audio" / "train" / "clip 03.wav"
    clip.write_text("an error page\n" * 10)
    done = run(f"task.data={spoilt.data}", "optimization.max_update=8", "dataset.num_workers=1")
    told = [line for line in done.output.splitlines() if "unreadable clip, replaced by its neighbour" in line]
    assert len(told) == 1
    assert f"{clip}: holds text, not audio" in told[0]
    log = (done.folder / "hydra_train.log").read_text()
    assert told[0] in log
    epochs = len(done.logged("train"))
    assert epochs >= 2
    assert sum(done.scalars("unreadable").values()) in (epochs - 1, epochs)


def test_too_many_unreadable_clips_end_the_run_in_a_plain_sentence(
    run: Command, make_corpus: Callable[[], Corpus]
) -> None:
    spoilt = make_corpus()
    for number in (0, 5, 11, 14):
        next((spoilt.folder / "audio" / "train").glob(f"clip {number:02d}.*")).write_bytes(b"")
    ended = run(f"task.data={spoilt.data}", "optimization.max_update=50", status=1)
    assert (
        "4 of the 19 clips read so far for training are unreadable, more than task.max_unreadable=0.1" in ended.sentence
    )
    assert "is empty (0 bytes)" in ended.sentence


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_that_moved_is_one_plain_sentence(
    run: Command, make_corpus: Callable[[], Corpus], workers: int
) -> None:
    moved = make_corpus()
    for clip in (moved.folder / "audio" / "train").iterdir():
        clip.unlink()
    ended = run(f"task.data={moved.data}", f"dataset.num_workers={workers}", status=1)
    assert f"({moved.folder / 'audio' / 'train'})" in ended.sentence
    assert "does not exist" in ended.sentence


def test_silence_alone_trains_with_a_finite_loss(run: Command, make_corpus: Callable[[], Corpus]) -> None:
    silent = make_corpus()
    for clip in (silent.folder / "audio").rglob("clip*"):
        info = soundfile.info(clip)
        soundfile.write(clip, np.zeros(info.frames), info.samplerate)
    done = run(f"task.data={silent.data}", "optimization.lr=[0.001]")
    assert all(math.isfinite(value) for name in ("loss", "gnorm") for value in done.scalars(name).values())
    assert all(bool(weights.isfinite().all()) for weights in done.weights().values())


def test_bfloat16_trains_on_a_processor_with_float32_weights_and_resumes_bit_for_bit(
    run: Command, finished: Run
) -> None:
    arguments = (
        "model.precision=bfloat16",
        "optimization.lr=[0.001]",
        "lr_scheduler.total_num_update=100",
        "optimization.max_update=5",
    )
    whole = run(*arguments)
    folder = run(*arguments, "optimization.max_update=2").folder
    resumed = run(*arguments, folder=folder)
    assert all(math.isfinite(value) for value in whole.scalars("loss").values())
    for name, weights in whole.weights().items():
        assert weights.dtype in (torch.float32, torch.int64)
        assert torch.equal(weights, resumed.weights()[name]), name
    float32, bfloat16 = finished.logged()[0], whole.logged()[0]  # before the first step the weights are the same
    assert float(bfloat16["mse"]) == pytest.approx(float(float32["mse"]), rel=0.02)
    assert bfloat16["loss"] != float32["loss"]


@pytest.mark.parametrize(("kind", "name"), [("squared", "mse"), ("absolute", "l1")])
def test_the_mean_error_is_called_by_its_kind(kind: str, name: str) -> None:
    criterion = MaskedPredictionCriterion(CriterionSettings(reconstruction_error=kind, classification_weight=0.0))
    ones = torch.ones(2, 3, 4)
    _, _, logging = criterion.losses(Predictions(3 * ones, 3 * ones, ones, None, (3, 3)), 2)
    shown = criterion.shown_values([logging])
    assert float(shown[name]) == {"mse": 4.0, "l1": 2.0}[name]
    assert not {"mse", "l1"} - {name} & set(shown)
