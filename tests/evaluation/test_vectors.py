"""Clip vectors do not depend on batches or order, nor on whether the clips come from files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mae_ast_plugin import corpus
from mae_ast_plugin.audio.listing import list_clips
from mae_ast_plugin.encoder import AudioEncoder
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.evaluation import vectors as module
from mae_ast_plugin.evaluation.baselines import baseline_vectors
from mae_ast_plugin.evaluation.vectors import clip_vectors, file_vectors
from mae_ast_plugin.methods.build import autoencoder_of, frontend_of
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings
from mae_ast_plugin.pooling import POOLINGS

MODEL = ModelSettings(
    encoder_layers=2, decoder_layers=1, encoder_embed_dim=16, decoder_embed_dim=16, encoder_ffn_embed_dim=32,
    encoder_attention_heads=2,
)  # fmt: skip


def make_encoder(batch_seconds: float = 120.0) -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder(
        frontend_of(TaskSettings()),
        autoencoder_of(MODEL, 128),
        batch_seconds=batch_seconds,
    ).eval()


@pytest.fixture(scope="module")
def encoder() -> AudioEncoder:
    return make_encoder()


@pytest.fixture(scope="module")
def waveforms() -> list[torch.Tensor]:
    return [torch.rand(length, generator=torch.Generator().manual_seed(length)) for length in (9000, 700, 16000, 5003)]


@pytest.mark.parametrize("pooling", sorted(POOLINGS))
def test_vectors_follow_the_clips_whatever_the_batches(
    encoder: AudioEncoder, waveforms: list[torch.Tensor], pooling: str
) -> None:
    small = clip_vectors(make_encoder(batch_seconds=0.1), waveforms, 16000, pooling)
    large = clip_vectors(encoder, waveforms[::-1], 16000, pooling)
    assert sorted(small) == ["0", "1", "2"]
    for layer, vectors in small.items():
        assert vectors.shape[0] == len(waveforms)
        np.testing.assert_allclose(vectors, large[layer][::-1], atol=1e-5)


def test_the_network_is_never_given_more_than_a_batch(
    encoder: AudioEncoder, waveforms: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [*waveforms * 3, torch.rand(48000)]
    given: list[list[int]] = []
    forward = AudioEncoder.forward

    def recorded(self: AudioEncoder, clips: list[torch.Tensor], *rest: object, **more: object) -> object:
        given.append([len(clip) for clip in clips])
        return forward(self, clips, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(AudioEncoder, "forward", recorded)
    clip_vectors(make_encoder(batch_seconds=2), many, 16000)
    assert sorted(length for batch in given for length in batch) == sorted(len(clip) for clip in many)
    assert all(len(batch) == 1 or len(batch) * max(batch) <= 32000 for batch in given)


def test_some_layers_are_those_of_all(encoder: AudioEncoder, waveforms: list[torch.Tensor]) -> None:
    all_layers, some = clip_vectors(encoder, waveforms, 16000), clip_vectors(encoder, waveforms, 16000, layers=[1, 0])
    assert list(some) == ["1", "0"]
    for layer, vectors in some.items():
        np.testing.assert_allclose(vectors, all_layers[layer], atol=1e-6)


def test_an_unknown_pooling_is_refused(encoder: AudioEncoder, waveforms: list[torch.Tensor]) -> None:
    with pytest.raises(PlainError, match="there is no pooling 'median'; choose one of mean"):
        clip_vectors(encoder, waveforms, 16000, "median")


@pytest.fixture
def folder(tmp_path: Path, waveforms: list[torch.Tensor]) -> Path:
    """The waveforms as files, two of them said to be of another rate, and two files that are no audio."""
    for number, (waveform, rate) in enumerate(zip(waveforms, (16000, 8000, 16000, 22050), strict=True)):
        soundfile.write(tmp_path / f"{number}.wav", waveform.numpy(), rate, subtype="FLOAT")
    (tmp_path / "1_text.wav").write_text("no audio")
    (tmp_path / "9_empty.wav").touch()
    return tmp_path


@pytest.mark.parametrize("clips_at_once", [1, 3, 100])
def test_files_give_the_vectors_of_their_waveforms_whatever_the_groups(
    encoder: AudioEncoder,
    waveforms: list[torch.Tensor],
    folder: Path,
    clips_at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(corpus, "GROUP_CLIPS", clips_at_once)
    clips, done = list_clips([folder]), []
    found, unreadable = file_vectors(clips, partial(clip_vectors, encoder), done.append)
    assert [clips[row].name for row in unreadable] == ["1_text.wav", "9_empty.wav"]
    assert "text, not audio" in unreadable[2]
    assert sum(done) == 6 and len(done) == -(-6 // clips_at_once)
    expected = clip_vectors(encoder, waveforms, [16000, 8000, 16000, 22050])
    assert found.keys() == expected.keys()
    for layer, vectors in found.items():
        np.testing.assert_allclose(vectors, expected[layer], atol=1e-5)


def test_no_more_audio_than_a_group_is_described_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP_SECONDS", 0.5)
    given: list[list[float]] = []

    def describe(waves: Sequence[torch.Tensor], rates: Sequence[int]) -> dict[str, np.ndarray]:
        given.append([len(wave) / rate for wave, rate in zip(waves, rates, strict=True)])
        return {"": np.zeros((len(waves), 1))}

    found, _ = file_vectors(list_clips([folder]), describe)
    assert len(found[""]) == sum(map(len, given)) == 4
    assert all(len(group) == 1 or sum(group) <= 0.5 for group in given)


def test_files_of_which_none_can_be_read_give_no_vectors(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    found, unreadable = file_vectors(list_clips([tmp_path]), lambda waves, rates: {"": np.zeros((1, 1))})
    assert found == {} and list(unreadable) == [0]


def test_the_baseline_is_mean_and_spread_of_the_log_mel(encoder: AudioEncoder, waveforms: list[torch.Tensor]) -> None:
    vectors = baseline_vectors(encoder, waveforms, 16000)
    spectrogram = encoder.frontend(waveforms[2][None])[0]
    assert vectors.shape == (4, 256)
    np.testing.assert_allclose(vectors[2, :128], spectrogram.mean(dim=0), atol=1e-4)
    np.testing.assert_allclose(vectors[2, 128:], spectrogram.std(dim=0, correction=0), atol=1e-4)


def test_the_baseline_resamples_as_the_encoder_does(encoder: AudioEncoder) -> None:
    time = torch.arange(32000) / 32000
    tone = torch.sin(2 * torch.pi * 440 * time) + 0.1 * torch.sin(2 * torch.pi * 3000 * time)
    high, low = baseline_vectors(encoder, [tone, tone[::2].clone()], [32000, 16000])
    assert np.corrcoef(high[:128], low[:128])[0, 1] > 0.98
