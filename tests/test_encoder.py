"""Laws of the one inference path."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mae_ast_plugin import load_model
from mae_ast_plugin.encoder import AudioEncoder
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.build import autoencoder_of, frontend_of
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings
from mae_ast_plugin.pooling import pool_mean, pool_segments, pool_statistics

PATCH = {
    "ast_kernel_size_chan": 16,
    "ast_kernel_stride_chan": 16,
    "ast_kernel_size_time": 16,
    "ast_kernel_stride_time": 16,
}
FRAME = {
    "ast_kernel_size_chan": 128,
    "ast_kernel_stride_chan": 128,
    "ast_kernel_size_time": 2,
    "ast_kernel_stride_time": 2,
}
SMALL = {
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_embed_dim": 16,
    "decoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 32,
    "encoder_attention_heads": 2,
}


@pytest.fixture(params=[PATCH, FRAME], ids=["patch", "frame"])
def encoder(request: pytest.FixtureRequest) -> AudioEncoder:
    torch.manual_seed(0)
    model, task = ModelSettings(**SMALL, **request.param), TaskSettings()
    return AudioEncoder(frontend_of(task), autoencoder_of(model, 128)).eval()


def noise(num_samples: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(num_samples, generator=torch.Generator().manual_seed(seed)) - 0.5


@torch.no_grad()
def test_a_clip_in_a_batch_is_embedded_as_if_alone(encoder: AudioEncoder) -> None:
    waves = [noise(length, seed) for seed, length in enumerate((16000, 9001, 4000, 20011))]
    together = encoder(waves)
    for row, wave in enumerate(waves):
        alone = encoder([wave])
        steps = int(alone.lengths[0])
        assert int(together.lengths[row]) == steps
        torch.testing.assert_close(together.clip[row], alone.clip[0], atol=1e-5, rtol=1e-5)
        for one, many in zip(alone.hidden_states, together.hidden_states, strict=True):
            torch.testing.assert_close(many[row, :steps], one[0, :steps], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_every_layer_is_given_and_a_step_is_a_column_of_patches(encoder: AudioEncoder) -> None:
    out = encoder([noise(16000)])
    tokens = encoder.network.tokens
    assert len(out.hidden_states) == 1 + SMALL["encoder_layers"]
    assert out.frames.shape == (1, tokens.num_time(98), tokens.num_chan * SMALL["encoder_embed_dim"])
    assert out.step_seconds == pytest.approx(tokens.stride_time * 0.01)
    assert len(encoder([noise(16000)], with_decoder=True).hidden_states) == 2 + SMALL["encoder_layers"]


@torch.no_grad()
@pytest.mark.parametrize("num_samples", [1, 399, 400, 2000])
def test_a_clip_shorter_than_a_patch_has_one_step(encoder: AudioEncoder, num_samples: int) -> None:
    out = encoder([noise(min(num_samples, encoder.shortest - 1))])
    assert out.lengths.tolist() == [1] and bool(out.clip.isfinite().all())


@torch.no_grad()
def test_another_sample_rate_is_resampled(encoder: AudioEncoder) -> None:
    time = torch.arange(32000) / 32000
    tone = torch.sin(2 * torch.pi * 440 * time)
    low, high = encoder([tone[::2].clone()], 16000), encoder([tone], 32000)
    assert torch.equal(low.lengths, high.lengths)
    assert torch.nn.functional.cosine_similarity(low.clip, high.clip).item() > 0.99


@pytest.mark.parametrize(
    ("waveforms", "found"),
    [
        ([], "at least one"),
        ([torch.zeros(2, 100)], r"\(2, 100\)"),
        ([torch.zeros(100, dtype=torch.int16)], "int16"),
        ([torch.zeros(0)], "waveform 0 has no samples"),
    ],
)
def test_what_is_no_waveform_is_refused_in_a_sentence(
    encoder: AudioEncoder, waveforms: list[torch.Tensor], found: str
) -> None:
    with pytest.raises(PlainError, match=found):
        encoder(waveforms)


def test_segments_join_the_means_of_equal_parts_in_order() -> None:
    frames = torch.arange(7.0)[None, :, None].expand(2, 7, 3).clone()
    pooled = pool_segments(frames, torch.tensor([6, 2]), num_segments=3)
    assert pooled.view(2, 3, 3)[:, :, 0].tolist() == [[0.5, 2.5, 4.5], [0.0, 0.0, 1.0]]
    assert pool_mean(frames, torch.tensor([6, 2]))[:, 0].tolist() == [2.5, 0.5]
    statistics = pool_statistics(frames, torch.tensor([6, 2]))
    torch.testing.assert_close(statistics[:, 3], torch.tensor([35 / 12, 0.25]).sqrt(), atol=1e-5, rtol=1e-5)


def test_a_missing_checkpoint_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PlainError, match="there is no such file"):
        load_model(tmp_path / "none.pt")
