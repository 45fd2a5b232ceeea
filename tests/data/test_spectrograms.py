"""Manifests of features train as manifests of audio do; what does not fit together is said before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from mae_ast_plugin.audio.manifest import Manifest, write_manifest
from mae_ast_plugin.data.batching import ClipRef
from mae_ast_plugin.data.clips import ClipDataset
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.build import frontend_of
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings
from mae_ast_plugin.models.mae_ast import MaskedAutoencoderModel

BINS = 32
Rows = list[tuple[str, int]]


@pytest.fixture
def open_rows(tmp_path: Path) -> Callable[..., ClipDataset]:
    """Open rows of files that lie in the folder of the test."""

    def dataset(rows: Rows, rates: list[int] | None, min_frames: int = 16, **task: Any) -> ClipDataset:
        write_manifest(tmp_path / "train.tsv", tmp_path, rows, rates=rates)
        settings = TaskSettings(**{"data": str(tmp_path), "feature_dim": BINS, **task})
        manifest = Manifest.load(tmp_path / "train.tsv")
        frontend = frontend_of(settings)
        return ClipDataset("train", manifest, settings, frontend, min_frames=min_frames, seed=1, epoch_matters=True)

    return dataset


@pytest.fixture
def ramps(tmp_path: Path) -> Callable[..., Rows]:
    """Write features whose values tell their frame, and name them as rows."""

    def write(*num_frames: int, bins: int = BINS) -> Rows:
        rows = []
        for number, frames in enumerate(num_frames):
            name = f"{number}.npy"
            np.save(tmp_path / name, np.tile(np.arange(frames, dtype=np.float32), (1, bins, 1)))
            rows.append((name, frames))
        return rows

    return write


def frames_of(clip: Any) -> list[int]:
    assert clip.waveform.shape[1] == BINS
    return [int(value) for value in clip.waveform[:, 0]]


# ---- the same training


@pytest.mark.parametrize("feature_type", ["fbank", "slaney_mel", "decibel_mel", "emphasised_mel"])
@pytest.mark.parametrize("pad_audio", [True, False])
def test_features_of_the_same_front_end_train_as_their_waveforms(
    open_rows: Callable[..., ClipDataset], tmp_path: Path, feature_type: str, pad_audio: bool
) -> None:
    frontend = frontend_of(TaskSettings(feature_type=feature_type, feature_dim=BINS))
    noise = np.random.default_rng(0)
    audio, spectrograms = [], []
    for number, num_samples in enumerate((5000, 7013, 4011) if pad_audio else (5013, 5013)):
        waveform = (0.1 * noise.standard_normal(num_samples)).astype(np.float32)
        soundfile.write(tmp_path / f"{number}.wav", waveform, 16000, subtype="FLOAT")
        audio.append((f"{number}.wav", num_samples))
        with torch.no_grad():
            features = frontend(torch.from_numpy(waveform)[None]).transpose(1, 2).numpy()
        np.save(tmp_path / f"{number}.npy", features)
        spectrograms.append((f"{number}.npy", features.shape[2]))
    settings = TaskSettings(feature_type=feature_type, feature_dim=BINS, pad_audio=pad_audio)
    network = ModelSettings(
        encoder_layers=1, encoder_embed_dim=12, encoder_ffn_embed_dim=16, encoder_attention_heads=2,
        decoder_embed_dim=12, decoder_layers=1,
    )  # fmt: skip
    model = MaskedAutoencoderModel(network, settings).eval()
    found = []
    for rows, rate in ((audio, 16000), (spectrograms, 100)):
        data = open_rows(rows, [rate] * len(rows), feature_type=feature_type, pad_audio=pad_audio)
        batch = data.collater([data[ClipRef(row, 1, 0)] for row in range(len(rows))])
        assert set(batch["net_input"]) >= {"waveforms" if rate == 16000 else "features"}
        with torch.no_grad():
            found.append(model(**batch["net_input"])[0])
    assert found[0].num_hidden == found[1].num_hidden
    own = slice(None) if found[0].padding is None else ~found[0].padding
    for name in ("target", "reconstructed"):
        expected, given = (getattr(predictions, name)[own] for predictions in found)
        assert len(expected) >= 2
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)


# ---- crops and lengths


@pytest.mark.parametrize("feature_type", ["fbank", "slaney_mel"])
def test_crops_have_the_frames_that_the_limit_of_samples_gives(
    open_rows: Callable[..., ClipDataset], ramps: Callable[..., Rows], feature_type: str
) -> None:
    data = open_rows(ramps(40, 43), [100, 100], max_sample_size=6639, feature_type=feature_type)
    limit = data.frontend.num_frames(6639)
    assert 35 < limit <= 42
    crops = [frames_of(data[ClipRef(1, epoch, 0)]) for epoch in range(60)]
    assert all(crop == list(range(crop[0], crop[0] + limit)) for crop in crops)
    assert {crop[0] for crop in crops} == set(range(43 - limit + 1))
    assert crops[7] == frames_of(data[ClipRef(1, 7, 99)])
    assert data.frontend.num_frames(data.size(1)) == limit
    assert data.size(1) <= 6639


def test_without_random_crops_features_begin_at_their_beginning(
    open_rows: Callable[..., ClipDataset], ramps: Callable[..., Rows]
) -> None:
    data = open_rows(ramps(60), [100], max_sample_size=4000, random_crop=False)
    assert frames_of(data[ClipRef(0, 3, 0)])[0] == 0


def test_features_longer_than_their_manifest_says_are_cropped_too(
    open_rows: Callable[..., ClipDataset], ramps: Callable[..., Rows]
) -> None:
    data = open_rows([(name, 18) for name, _ in ramps(60)], [100], max_sample_size=4000)
    assert len(frames_of(data[ClipRef(0, 1, 0)])) == data.frontend.num_frames(4000)


@pytest.mark.parametrize("feature_type", ["fbank", "slaney_mel", "decibel_mel"])
@pytest.mark.parametrize("min_frames", [1, 2, 16])
def test_sizes_count_samples_and_clips_with_fewer_frames_than_a_patch_are_left_out(
    open_rows: Callable[..., ClipDataset], ramps: Callable[..., Rows], feature_type: str, min_frames: int
) -> None:
    lengths = [1, 2, 15, 16, 17, 0, 300]
    rows = [(name, length) for (name, _), length in zip(ramps(*[max(1, n) for n in lengths]), lengths, strict=True)]
    data = open_rows(rows, [100] * 7, min_frames, feature_type=feature_type, max_sample_size=None)
    # a front end whose frames are centred gives two frames for the shortest waveform that it takes
    least = max(min_frames, data.frontend.num_frames(data.frontend.num_samples(1)))
    kept = [row for row, length in enumerate(lengths) if length >= least]
    assert list(data.rows) == kept
    assert data.num_short == 7 - len(kept)
    for index, row in enumerate(kept):
        assert data.frontend.num_frames(data.size(index)) == lengths[row]
        assert len(frames_of(data[ClipRef(index, 1, 0)])) == lengths[row]


def test_a_batch_of_features_is_padded_with_zeros_to_its_width(
    open_rows: Callable[..., ClipDataset], ramps: Callable[..., Rows]
) -> None:
    data = open_rows(ramps(20, 31, 26), [100] * 3)
    batch = data.collater([data[ClipRef(row, 1, 0)] for row in (0, 2)])["net_input"]
    frames = [data.frontend.num_frames(length) for length in batch["lengths"]]
    assert frames == [20, 26]
    assert batch["features"].shape == (2, 26, BINS)
    assert not batch["features"][0, 20:].any()


def test_unreadable_features_are_replaced_by_their_neighbour_and_named(
    open_rows: Callable[..., ClipDataset], ramps: Callable[..., Rows], tmp_path: Path
) -> None:
    data = open_rows(ramps(20, 31, 20, 20), [100] * 4)
    (tmp_path / "0.npy").write_bytes(b"")
    np.save(tmp_path / "2.npy", np.zeros((1, BINS + 1, 20), np.float32))
    clip = data[ClipRef(0, 1, 0)]
    assert "is empty" in clip.unreadable[0][1]
    assert len(frames_of(clip)) == 20  # no longer than the one it stands for
    assert f"has {BINS + 1} mel bins" in data[ClipRef(2, 1, 0)].unreadable[0][1]
    np.save(tmp_path / "3.npy", np.zeros((1, BINS, 3), np.float32))
    assert "has 3 frames, one patch needs 16" in data[ClipRef(3, 1, 0)].unreadable[0][1]


# ---- what does not fit together


@pytest.fixture
def audio(tmp_path: Path) -> tuple[str, int]:
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 16000)
    return "a.wav", 8000


def test_features_without_rates_are_refused_with_the_mend(
    open_rows: Callable[..., ClipDataset], ramps: Callable[..., Rows]
) -> None:
    with pytest.raises(PlainError, match=r"train.tsv line 2: .*0.npy holds features.* write a .rates file .* 100 "):
        open_rows(ramps(40), None)


def test_audio_among_features_is_refused_at_the_start(
    open_rows: Callable[..., ClipDataset], ramps: Callable[..., Rows], audio: tuple[str, int]
) -> None:
    with pytest.raises(PlainError, match=r"train.tsv line 4: its rate in .rates is 16000, but line 2 holds features"):
        open_rows([*ramps(40, 40), audio], [100, 100, 16000])
    with pytest.raises(PlainError, match=r"train.tsv line 3: its rate is 100 frames a second.* line 2 is audio"):
        open_rows([audio, *ramps(40, 40)], [16000, 100, 100])


def test_audio_among_features_whose_rates_hide_it_is_refused_when_read(
    open_rows: Callable[..., ClipDataset], ramps: Callable[..., Rows], audio: tuple[str, int]
) -> None:
    data = open_rows([*ramps(40), audio], [100, 100])
    with pytest.raises(PlainError, match=r"a.wav is audio in a manifest of features"):
        data[ClipRef(1, 1, 0)]
    for rates in ([16000, 16000], None):
        data = open_rows([audio, ("0.npy", 8000)], rates)
        with pytest.raises(PlainError, match=r"0.npy holds features in a manifest of audio"):
            data[ClipRef(1, 1, 0)]


def test_another_frame_rate_is_refused(open_rows: Callable[..., ClipDataset], ramps: Callable[..., Rows]) -> None:
    with pytest.raises(PlainError, match=r"line 3: its rate in .rates is 50, .* 100 frames a second"):
        open_rows(ramps(40, 40), [100, 50])


def test_another_number_of_mel_bins_is_refused_at_the_start(
    open_rows: Callable[..., ClipDataset], ramps: Callable[..., Rows]
) -> None:
    with pytest.raises(PlainError, match=r"0.npy has 80 mel bins, but .*task.feature_dim=32 .* gives 32"):
        open_rows(ramps(40, bins=80), [100])
    with pytest.raises(PlainError, match=r"has 32 mel bins, .* task.deltas=true gives 96"):
        open_rows(ramps(40), [100], deltas=True)


def test_filters_cannot_vary_for_features(open_rows: Callable[..., ClipDataset], ramps: Callable[..., Rows]) -> None:
    with pytest.raises(PlainError, match=r"task.vary_filters=true needs audio, but .*0.npy holds features"):
        open_rows(ramps(40), [100], vary_filters=True, feature_type="emphasised_mel")
