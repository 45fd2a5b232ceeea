"""Log-mel of pre-emphasised sound against a slow implementation, its laws, and what training varies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mae_ast_plugin.audio.emphasised import MP3_LOW_PASS_HZ, EmphasisedMel
from mae_ast_plugin.audio.frontend import CONVENTIONS, VARYING, VaryingConvention, make_frontend, pad_waveforms

RATE = 32000
FRONT_END = make_frontend("emphasised_mel", 64, RATE)
SILENCE = (math.log(1e-5) + 4.5) / 5


def noise(num_samples: int, seed: int = 0, scale: float = 0.1) -> torch.Tensor:
    return scale * torch.randn(num_samples, generator=torch.Generator().manual_seed(seed))


def slow_features(waveform: np.ndarray, num_bins: int, low: float = 0.0, high: float = 15000.0) -> np.ndarray:
    """A frame, a bin at a time, in float64."""

    def mel(hertz: float) -> float:
        return 1127 * math.log(1 + hertz / 700)

    sharp = np.array([waveform[n + 1] - 0.97 * waveform[n] for n in range(len(waveform) - 1)])
    padded = np.pad(sharp, 512, mode="reflect")
    window = np.zeros(1024)
    window[112:912] = 0.5 - 0.5 * np.cos(2 * math.pi * np.arange(800) / 799)
    step = (mel(high) - mel(low)) / (num_bins + 1)
    values = np.zeros((1 + len(sharp) // 320, num_bins))
    for frame in range(len(values)):
        power = np.abs(np.fft.rfft(padded[320 * frame : 320 * frame + 1024] * window)) ** 2
        for number in range(num_bins):
            centre = mel(low) + (number + 1) * step
            weights = [max(0.0, 1 - abs(mel(place * RATE / 1024) - centre) / step) for place in range(512)]
            values[frame, number] = (math.log((weights * power[:512]).sum() + 1e-5) + 4.5) / 5
    return values


@pytest.mark.parametrize(("num_bins", "num_samples"), [(128, 700), (64, 2003), (7, 961)])
def test_it_equals_the_slow_implementation(num_bins: int, num_samples: int) -> None:
    waveform = noise(num_samples)
    fast = make_frontend("emphasised_mel", num_bins, RATE)(waveform[None])[0].numpy()
    np.testing.assert_allclose(fast, slow_features(waveform.double().numpy(), num_bins), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("num_samples", "num_frames"),
    [(513, 0), (514, 2), (961, 4), (16000, 50), (32000, 100), (319999, 1000), (320000, 1000), (320001, 1001)],
)
def test_the_first_sample_has_no_predecessor_and_is_lost(num_samples: int, num_frames: int) -> None:
    assert FRONT_END.num_frames(num_samples) == num_frames
    if 0 < num_frames < 200:
        assert FRONT_END(noise(num_samples)[None]).shape == (1, num_frames, 64)


@pytest.mark.parametrize("num_frames", [3, 4, 97, 992])
def test_num_samples_is_the_shortest_clip_of_so_many_frames(num_frames: int) -> None:
    shortest = FRONT_END.num_samples(num_frames)
    assert FRONT_END.num_frames(shortest) == num_frames
    assert FRONT_END.num_frames(shortest - 1) == num_frames - 1


def test_clips_of_a_padded_batch_equal_the_clips_alone() -> None:
    clips = [noise(4000, 1), torch.zeros(2345), noise(1501, 2, scale=1e-4), noise(961, 3)]
    together = FRONT_END(pad_waveforms(clips), [len(clip) for clip in clips])
    for row, clip in zip(together, clips, strict=True):
        alone = FRONT_END(clip[None])[0]
        torch.testing.assert_close(row[: len(alone)], alone, atol=1e-4, rtol=0)


def test_silence_is_the_logarithm_of_the_offset() -> None:
    features = FRONT_END(torch.zeros(1, 2000))
    torch.testing.assert_close(features, torch.full_like(features, SILENCE), rtol=0, atol=1e-6)
    assert math.isclose(SILENCE, -1.4026, abs_tol=1e-4)


def test_a_gradient_reaches_the_waveform() -> None:
    clip = noise(2000)[None].requires_grad_()
    FRONT_END(clip).sum().backward()
    assert clip.grad is not None and bool(clip.grad.isfinite().all()) and bool(clip.grad.any())


def test_features_stay_float32_under_autocast() -> None:
    clip = noise(2000)[None]
    expected = FRONT_END(clip)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(FRONT_END(clip), expected)


def test_other_rates_keep_the_milliseconds_and_the_kilohertz_below_the_nyquist_frequency() -> None:
    convention = EmphasisedMel(64, 16000)
    assert (convention.fft_size, convention.hop, convention.highest_hz) == (512, 160, 7000)
    assert int((convention.window > 0).sum()) == 398  # a symmetric window of 400 begins and ends with 0


# ---- less of it


def test_nothing_above_the_low_pass_is_heard() -> None:
    frontend, whole = make_frontend("emphasised_mel_11khz", 128, RATE), make_frontend("emphasised_mel", 128, RATE)
    clip = noise(4000)[None]
    passed, all_of_it = frontend(clip), whole(clip)
    kept = int((whole.convention.filters[int(MP3_LOW_PASS_HZ / 31.25) + 1 :] == 0).all(dim=0).sum())  # type: ignore[attr-defined]
    assert 110 < kept < 120
    assert torch.equal(passed[..., :kept], all_of_it[..., :kept])
    torch.testing.assert_close(passed[..., 120:], torch.full_like(passed[..., 120:], SILENCE), rtol=0, atol=1e-6)


# ---- variation in training


def test_a_seed_always_gives_the_same_edges_and_another_others() -> None:
    clip = noise(3000)[None]
    first, again, other = (FRONT_END(clip, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    assert not torch.allclose(first, FRONT_END(clip), atol=1e-3)


def test_edges_lie_where_the_original_draws_them(monkeypatch: pytest.MonkeyPatch) -> None:
    convention, drawn = EmphasisedMel(64, RATE), []
    filters_between = convention.filters_between

    def noted(low_hz: float, high_hz: float) -> torch.Tensor:
        drawn.append((low_hz, high_hz))
        return filters_between(low_hz, high_hz)

    monkeypatch.setattr(convention, "filters_between", noted)
    for seed in range(300):
        convention.vary(noise(600)[None], None, seed)
    lows, highs = zip(*drawn, strict=True)
    assert set(lows) == set(range(10))
    assert 14001 <= min(highs) < 14050 and 15950 < max(highs) <= 16000
    assert all(float(high).is_integer() for high in highs)


def test_varied_clips_of_a_padded_batch_equal_the_clips_alone() -> None:
    clips = [noise(4000, 1), noise(1501, 2)]
    together = FRONT_END(pad_waveforms(clips), [4000, 1501], seed=7)
    for row, clip in zip(together, clips, strict=True):
        alone = FRONT_END(clip[None], seed=7)[0]
        torch.testing.assert_close(row[: len(alone)], alone, atol=1e-4, rtol=0)


def test_those_that_are_said_to_vary_do() -> None:
    can = {name for name in CONVENTIONS if isinstance(make_frontend(name, 13, RATE).convention, VaryingConvention)}
    assert can == set(VARYING)
