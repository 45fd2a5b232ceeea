"""Clip vectors do not depend on batches or order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mae_ast_plugin.encoder import AudioEncoder
from mae_ast_plugin.evaluation.vectors import POOLINGS, baseline_vectors, clip_vectors
from mae_ast_plugin.methods.build import autoencoder_of, frontend_of
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings


@pytest.fixture(scope="module")
def encoder() -> AudioEncoder:
    torch.manual_seed(0)
    model = ModelSettings(
        encoder_layers=2,
        decoder_layers=1,
        encoder_embed_dim=16,
        decoder_embed_dim=16,
        encoder_ffn_embed_dim=32,
        encoder_attention_heads=2,
    )
    return AudioEncoder(frontend_of(TaskSettings()), autoencoder_of(model, 128)).eval()


@pytest.fixture(scope="module")
def waveforms() -> list[torch.Tensor]:
    return [torch.rand(length, generator=torch.Generator().manual_seed(length)) for length in (9000, 700, 16000, 5003)]


@pytest.mark.parametrize("pooling", sorted(POOLINGS))
def test_vectors_follow_the_clips_whatever_the_batches(
    encoder: AudioEncoder, waveforms: list[torch.Tensor], pooling: str
) -> None:
    small = clip_vectors(encoder, waveforms, 16000, pooling, batch_seconds=0.1)
    large = clip_vectors(encoder, waveforms[::-1], 16000, pooling, batch_seconds=100)
    assert sorted(small) == ["0", "1", "2"]
    for layer, vectors in small.items():
        assert vectors.shape[0] == len(waveforms)
        np.testing.assert_allclose(vectors, large[layer][::-1], atol=1e-5)


def test_the_baseline_is_mean_and_spread_of_the_log_mel(encoder: AudioEncoder, waveforms: list[torch.Tensor]) -> None:
    vectors = baseline_vectors(encoder, waveforms)
    spectrogram = encoder.frontend(waveforms[2][None])[0]
    assert vectors.shape == (4, 256)
    np.testing.assert_allclose(vectors[2, :128], spectrogram.mean(dim=0), atol=1e-4)
    np.testing.assert_allclose(vectors[2, 128:], spectrogram.std(dim=0, correction=0), atol=1e-4)
