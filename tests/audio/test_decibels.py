"""The decibel front end against a slow implementation, and its laws of batches, lengths and gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mae_ast_plugin.audio.decibels import decibel_mel, decibels, htk_mel_filters
from mae_ast_plugin.audio.frontend import FrontEnd, make_frontend, pad_waveforms

FRONT_END = make_frontend("decibel_mel", 64)


def noise(num_samples: int, seed: int = 0, scale: float = 0.1) -> torch.Tensor:
    return scale * torch.randn(num_samples, generator=torch.Generator().manual_seed(seed))


def slow_decibels(waveform: np.ndarray, num_bins: int) -> np.ndarray:
    """A frame, a bin at a time, in float64."""

    def hertz(mel: float) -> float:
        return float(700 * (10 ** (mel / 2595) - 1))

    padded = np.pad(waveform, 256, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * math.pi * np.arange(512) / 512)
    highest = 2595 * math.log10(1 + 8000 / 700)
    points = [hertz(highest * number / (num_bins + 1)) for number in range(num_bins + 2)]
    levels = np.zeros((1 + len(waveform) // 160, num_bins))
    for frame in range(len(levels)):
        power = np.abs(np.fft.rfft(padded[160 * frame : 160 * frame + 512] * window)) ** 2
        for bin_number, (left, centre, right) in enumerate(zip(points[:-2], points[1:-1], points[2:], strict=True)):
            places = np.arange(257) * 16000 / 512
            slopes = np.minimum((places - left) / (centre - left), (right - places) / (right - centre))
            energy = (np.maximum(slopes, 0) * power).sum()
            levels[frame, bin_number] = 10 * math.log10(max(energy, 1e-10))
    return np.maximum(levels, levels.max() - 120)


@pytest.mark.parametrize("num_bins", [64, 128, 7])
@pytest.mark.parametrize("num_samples", [257, 480, 2003])
def test_it_equals_the_slow_implementation(num_bins: int, num_samples: int) -> None:
    waveform = noise(num_samples)
    fast = make_frontend("decibel_mel", num_bins)(waveform[None])[0].numpy()
    np.testing.assert_allclose(fast, slow_decibels(waveform.double().numpy(), num_bins), atol=2e-3, rtol=0)


def test_the_lowest_of_64_filters_covers_one_bin_of_the_spectrum_and_none_is_empty() -> None:
    covered = (htk_mel_filters(64, 512, 16000) > 0).sum(dim=0)
    assert int(covered[0]) == 1
    assert int(covered.min()) == 1


@pytest.mark.parametrize(
    ("num_samples", "num_frames"), [(256, 0), (257, 2), (480, 4), (16000, 101), (160000, 1001), (161280, 1009)]
)
def test_frames_are_counted_by_their_middle(num_samples: int, num_frames: int) -> None:
    assert FRONT_END.num_frames(num_samples) == num_frames
    if 0 < num_frames < 200:
        assert FRONT_END(noise(num_samples)[None]).shape == (1, num_frames, 64)


@pytest.mark.parametrize("num_frames", [3, 4, 97])
def test_num_samples_is_the_shortest_clip_of_so_many_frames(num_frames: int) -> None:
    shortest = FRONT_END.num_samples(num_frames)
    assert FRONT_END.num_frames(shortest) == num_frames
    assert FRONT_END.num_frames(shortest - 1) == num_frames - 1


def test_clips_of_a_padded_batch_equal_the_clips_alone() -> None:
    """Also the silent one and the quiet one, which the original lifts to 120 dB under the loud one."""
    clips = [noise(4000, 1, scale=30.0), torch.zeros(2345), noise(1501, 2, scale=1e-5), noise(480, 3)]
    together = FRONT_END(pad_waveforms(clips), [len(clip) for clip in clips])
    for row, clip in zip(together, clips, strict=True):
        alone = FRONT_END(clip[None])[0]
        torch.testing.assert_close(row[: len(alone)], alone, atol=2e-3, rtol=0)


def test_silence_is_a_hundred_decibels_down() -> None:
    assert torch.equal(FRONT_END(torch.zeros(1, 800)), torch.full((1, 6, 64), -100.0))


def test_nothing_is_more_than_the_range_below_the_loudest_of_its_own_clip() -> None:
    energies = torch.tensor([[[1e5, 1e-9], [1e-9, 1.0]], [[1e-9, 1e-9], [1e-9, 1.0]]])
    assert decibels(energies).tolist() == [[[50.0, -70.0], [-70.0, 0.0]], [[-90.0, -90.0], [-90.0, 0.0]]]
    own = torch.tensor([[False, True], [True, True]])
    assert decibels(energies, own)[0].tolist() == [[50.0, -90.0], [-90.0, 0.0]]


def test_twice_the_level_is_six_decibels_more() -> None:
    clip = noise(3000)[None]
    torch.testing.assert_close(FRONT_END(2 * clip), FRONT_END(clip) + 20 * math.log10(2), rtol=0, atol=2e-3)


def test_a_gradient_reaches_the_waveform() -> None:
    clip = noise(1000)[None].requires_grad_()
    FRONT_END(clip).sum().backward()
    assert clip.grad is not None and bool(clip.grad.isfinite().all()) and bool(clip.grad.any())


def test_features_stay_float32_under_autocast() -> None:
    clip = noise(2000)[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(FRONT_END(clip), _outside_autocast(FRONT_END, clip))


def _outside_autocast(frontend: FrontEnd, clip: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", enabled=False):
        return frontend(clip)


def test_other_rates_keep_the_milliseconds() -> None:
    frontend = decibel_mel(64, 8000)
    assert (frontend.fft_size, frontend.hop, frontend.num_frames(8000)) == (256, 80, 101)
