"""The log-mel on Slaney's scale against a slow float64 implementation, and the laws of frames and batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mae_ast_plugin.audio.frontend import FrontEnd, make_frontend, pad_waveforms
from mae_ast_plugin.audio.slaney_mel import slaney_filters, slaney_hertz, slaney_mel
from mae_ast_plugin.errors import PlainError

WINDOW, HOP, EPSILON = 400, 160, 1.1920929e-07
SILENCE = -15.942385


def front_end(num_bins: int = 80) -> FrontEnd:
    return make_frontend("slaney_mel", num_bins)


def noise(num_samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(seed))


def slow_log_mel(waveform: np.ndarray, num_bins: int) -> np.ndarray:
    """The convention again, a frame, a filter and a bin at a time."""
    padded = np.pad(waveform, WINDOW // 2, mode="reflect")
    hann = 0.5 - 0.5 * np.cos(2 * math.pi * np.arange(WINDOW) / WINDOW)
    points = np.linspace(slaney_mel(50), slaney_mel(8000), num_bins + 2)
    edges = [float(slaney_hertz(torch.tensor(point))) for point in points]
    rows = []
    for start in range(0, len(waveform) + 1, HOP):
        power = np.abs(np.fft.rfft(padded[start : start + WINDOW] * hann)) ** 2
        row = []
        for left, centre, right in zip(edges[:-2], edges[1:-1], edges[2:], strict=True):
            energy = 0.0
            for place in range(WINDOW // 2 + 1):
                hertz = place * 16000 / WINDOW
                slope = min((hertz - left) / (centre - left), (right - hertz) / (right - centre))
                energy += max(0.0, slope) * 2 / (right - left) * power[place]
            row.append(math.log(energy + EPSILON))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize(("num_samples", "num_bins"), [(201, 80), (1600, 80), (1777, 23)])
def test_it_equals_the_slow_one(num_samples: int, num_bins: int) -> None:
    waveform = noise(num_samples)
    wanted = slow_log_mel(waveform.double().numpy(), num_bins)
    found = front_end(num_bins)(waveform[None])[0]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-4)


def test_the_scale_is_linear_up_to_1000_hertz_and_goes_back() -> None:
    assert [slaney_mel(hertz) for hertz in (0, 200, 1000)] == pytest.approx([0, 3, 15])
    assert slaney_mel(6400) == pytest.approx(15 + 27)
    hertz = torch.tensor([0.0, 50.0, 999.0, 1000.0, 1001.0, 8000.0], dtype=torch.float64)
    mels = torch.tensor([slaney_mel(float(each)) for each in hertz], dtype=torch.float64)
    torch.testing.assert_close(slaney_hertz(mels), hertz)


def test_every_filter_has_the_area_1_and_none_is_empty() -> None:
    fine = slaney_filters(80, 16000, 16000, 50.0, 8000.0)  # bins of one hertz
    torch.testing.assert_close(fine.sum(dim=0), torch.ones(80, dtype=torch.float64), atol=2e-3, rtol=0)
    assert (slaney_filters(80, WINDOW, 16000, 50.0, 8000.0).sum(dim=0) > 0).all()


def test_silence_is_the_logarithm_of_epsilon() -> None:
    torch.testing.assert_close(front_end()(torch.zeros(1, 1600)), torch.full((1, 11, 80), SILENCE))


@pytest.mark.parametrize(("num_samples", "num_frames"), [(201, 2), (319, 2), (320, 3), (32000, 201), (160000, 1001)])
def test_frames_are_centred(num_samples: int, num_frames: int) -> None:
    frontend = front_end()
    assert frontend.num_frames(num_samples) == num_frames
    assert frontend(torch.zeros(1, num_samples)).shape == (1, num_frames, 80)
    assert frontend.num_frames(frontend.num_samples(num_frames)) == num_frames
    assert frontend.first_centre == 0


def test_a_clip_too_short_to_be_reflected_is_refused() -> None:
    assert front_end().num_frames(200) == 0
    with pytest.raises(PlainError, match="200 samples"):
        front_end()(torch.zeros(1, 200))


def test_a_padded_batch_gives_what_each_clip_gives_alone() -> None:
    frontend, lengths = front_end(), [201, 5000, 1603, 3200]
    clips = [noise(length, seed=length) for length in lengths]
    batch = frontend(pad_waveforms(clips), lengths)
    for clip, length, rows in zip(clips, lengths, batch, strict=True):
        torch.testing.assert_close(rows[: frontend.num_frames(length)], frontend(clip[None])[0], atol=1e-5, rtol=1e-5)


def test_what_stands_behind_a_clip_changes_nothing() -> None:
    frontend, lengths = front_end(), [1000, 3000]
    batch = pad_waveforms([noise(1000), noise(3000, 1)])
    other = batch.clone()
    other[0, 1000:] = 7.0
    own = frontend.num_frames(1000)
    assert torch.equal(frontend(batch, lengths)[0, :own], frontend(other, lengths)[0, :own])


@pytest.mark.parametrize("waveform", [noise(1000), torch.zeros(1000)], ids=["noise", "silence"])
def test_gradients_are_finite(waveform: torch.Tensor) -> None:
    waveform = waveform[None].clone().requires_grad_()
    front_end()(waveform).sum().backward()
    assert waveform.grad is not None and torch.isfinite(waveform.grad).all()
