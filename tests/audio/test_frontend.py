"""Every front end against a slow float64 implementation of the same convention, and the laws of frames and batches."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from mae_ast_plugin.audio.frontend import FrontEnd, make_frontend, pad_waveforms
from mae_ast_plugin.errors import PlainError

WINDOW, HOP, FFT, EPSILON = 400, 160, 512, 1.1920929e-07
SILENCE = -15.942385


def noise(num_samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(seed))


# -------------------------------------------------------------- the conventions again, a frame and a bin at a time


def slow_frames(waveform: np.ndarray) -> list[np.ndarray]:
    starts = range(0, len(waveform) - WINDOW + 1, HOP)
    return [waveform[start : start + WINDOW] - waveform[start : start + WINDOW].mean() for start in starts]


def slow_power(frame: np.ndarray) -> np.ndarray:
    sharp = np.array([frame[i] - 0.97 * frame[max(i - 1, 0)] for i in range(WINDOW)])
    window = (0.5 - 0.5 * np.cos(2 * math.pi * np.arange(WINDOW) / (WINDOW - 1))) ** 0.85
    return np.abs(np.fft.rfft(sharp * window, FFT)) ** 2


def mel(hertz: float) -> float:
    return 1127 * math.log(1 + hertz / 700)


def slow_log_mel(waveform: np.ndarray, num_bins: int) -> np.ndarray:
    step = (mel(8000) - mel(20)) / (num_bins + 1)
    filters = np.zeros((num_bins, FFT // 2 + 1))
    for number in range(num_bins):
        centre = mel(20) + (number + 1) * step
        for place in range(FFT // 2):  # the Nyquist bin belongs to no filter
            filters[number, place] = max(0.0, 1 - abs(mel(place * 16000 / FFT) - centre) / step)
    energies = np.array([filters @ slow_power(frame) for frame in slow_frames(waveform)])
    return np.log(np.maximum(energies, EPSILON))


def slow_spectrogram(waveform: np.ndarray, num_columns: int) -> np.ndarray:
    rows = []
    for frame in slow_frames(waveform):
        row = np.log(np.maximum(slow_power(frame), EPSILON))
        row[0] = math.log(max((frame**2).sum(), 1.0))
        rows.append(row[:num_columns])
    return np.array(rows)


def slow_mfcc(waveform: np.ndarray, num_columns: int) -> np.ndarray:
    columns = []
    for order in range(num_columns):
        cosine = np.cos(math.pi * order * (np.arange(23) + 0.5) / 23) * math.sqrt((2 if order else 1) / 23)
        columns.append(slow_log_mel(waveform, 23) @ cosine * (1 + 11 * math.sin(math.pi * order / 22)))
    return np.stack(columns, axis=1)


def slow_deltas(features: np.ndarray) -> np.ndarray:
    def slope(x: np.ndarray) -> np.ndarray:
        last = len(x) - 1
        rows = [sum(k * x[min(max(t + k, 0), last)] for k in range(-2, 3)) / 10 for t in range(len(x))]
        return np.array(rows)

    return np.concatenate([features, slope(features), slope(slope(features))], axis=1)


SLOW: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "fbank": slow_log_mel,
    "spectrogram": slow_spectrogram,
    "mfcc": slow_mfcc,
}
COLUMNS = [
    ("fbank", 128),
    ("fbank", 64),
    ("fbank", 7),
    ("spectrogram", 257),
    ("spectrogram", 100),
    ("mfcc", 13),
    ("mfcc", 5),
]


@pytest.mark.parametrize(("feature_type", "num_columns"), COLUMNS)
@pytest.mark.parametrize("num_samples", [400, 2003])
def test_each_kind_of_features_equals_the_slow_implementation(
    feature_type: str, num_columns: int, num_samples: int
) -> None:
    waveform = noise(num_samples)
    fast = make_frontend(feature_type, num_columns)(waveform[None])[0].numpy()
    slow = SLOW[feature_type](waveform.double().numpy(), num_columns)
    assert fast.shape == slow.shape
    difference = np.abs(fast - slow)
    assert difference.mean() < 3e-5
    assert difference.max() < 3e-3


@pytest.mark.parametrize("num_samples", [400, 560, 1999])
def test_deltas_equal_the_slow_implementation(num_samples: int) -> None:
    waveform = noise(num_samples)
    frontend = make_frontend("fbank", 64, deltas=True)
    assert frontend.num_features == 192
    static = make_frontend("fbank", 64)(waveform[None])[0].double().numpy()
    np.testing.assert_allclose(frontend(waveform[None])[0].numpy(), slow_deltas(static), atol=1e-5)


# --------------------------------------------------------------------------------------------------------------- laws


@pytest.fixture(params=["fbank", "hanning_fbank", "mfcc", "spectrogram"])  # kinds with centred frames: files beside
def frontend(request: pytest.FixtureRequest) -> FrontEnd:
    return make_frontend(request.param, 13, deltas=True)


@pytest.mark.parametrize(
    ("num_samples", "num_frames"),
    [(0, 0), (399, 0), (400, 1), (559, 1), (560, 2), (16000, 98), (159744, 996), (160000, 998)],
)
def test_only_whole_windows_are_frames(frontend: FrontEnd, num_samples: int, num_frames: int) -> None:
    assert frontend.num_frames(num_samples) == num_frames
    if 0 < num_samples <= 16000 and num_frames:
        assert frontend(noise(num_samples)[None]).shape == (1, num_frames, frontend.num_features)


@pytest.mark.parametrize("num_frames", [1, 2, 97])
def test_num_samples_is_the_shortest_clip_of_so_many_frames(frontend: FrontEnd, num_frames: int) -> None:
    assert frontend.num_frames(frontend.num_samples(num_frames)) == num_frames
    assert frontend.num_frames(frontend.num_samples(num_frames) - 1) == num_frames - 1


def test_a_batch_equals_its_clips_one_by_one(frontend: FrontEnd) -> None:
    clips = torch.stack([noise(1777, seed) for seed in range(3)])
    alone = torch.cat([frontend(clip[None]) for clip in clips])
    torch.testing.assert_close(frontend(clips), alone, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("num_clips", "num_samples"), [(45, 8000), (1, 700_000)], ids=["many short", "one long"])
def test_clips_of_several_blocks_have_the_features_of_a_graph(num_clips: int, num_samples: int) -> None:
    frontend = make_frontend("fbank", 40)
    clips = torch.stack([noise(num_samples, seed) for seed in range(num_clips)])
    in_graph = frontend(clips.requires_grad_())
    assert in_graph.requires_grad
    torch.testing.assert_close(frontend(clips.detach()), in_graph.detach(), rtol=1e-5, atol=1e-4)


def test_padding_behind_a_clip_leaves_its_own_frames_as_they_are() -> None:
    frontend = make_frontend("fbank", 80)
    clips = [noise(length, length) for length in (400, 1501, 4000)]
    batch = frontend(pad_waveforms(clips))
    for features, clip in zip(batch, clips, strict=True):
        torch.testing.assert_close(
            features[: frontend.num_frames(len(clip))], frontend(clip[None])[0], rtol=0, atol=1e-4
        )


def test_waveforms_are_padded_with_zeros_at_their_ends() -> None:
    batch = pad_waveforms([torch.ones(3), torch.ones(5)], shortest=7)
    assert batch.tolist() == [[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0]]
    assert pad_waveforms([torch.ones(3)]).shape == (1, 3)


def test_features_stay_float32_under_autocast(frontend: FrontEnd) -> None:
    clip = noise(2000)[None]
    expected = frontend(clip)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = frontend(clip)
        halved = frontend(clip.bfloat16())
    assert features.dtype == halved.dtype == torch.float32
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


def test_a_constant_offset_of_the_waveform_changes_nothing() -> None:
    frontend, clip = make_frontend("fbank", 80), noise(3000)[None]
    torch.testing.assert_close(frontend(clip + 0.25), frontend(clip), rtol=0, atol=2e-3)


def test_twice_the_level_adds_the_logarithm_of_four() -> None:
    frontend, clip = make_frontend("fbank", 80), noise(3000)[None]
    torch.testing.assert_close(frontend(2 * clip), frontend(clip) + math.log(4), rtol=0, atol=1e-4)


@pytest.mark.parametrize("hertz", [300, 1000, 5000])
def test_a_sine_is_loudest_in_the_bin_around_its_frequency(hertz: int) -> None:
    sine = torch.sin(2 * math.pi * hertz * torch.arange(4000) / 16000)
    loudest = make_frontend("fbank", 80)(sine[None])[0].argmax(dim=1)
    centre = (mel(hertz) - mel(20)) / (mel(8000) - mel(20)) * 81 - 1
    assert (loudest - centre).abs().max() <= 1


@pytest.mark.parametrize("num_bins", [7, 64, 80, 128])
def test_silence_is_the_logarithm_of_the_smallest_step_everywhere(num_bins: int) -> None:
    silence = make_frontend("fbank", num_bins)(torch.zeros(2, 1000))
    torch.testing.assert_close(silence, torch.full_like(silence, SILENCE), rtol=0, atol=1e-6)


def test_of_128_bins_the_fourth_is_always_silent_and_no_other() -> None:
    loud = make_frontend("fbank", 128)(noise(8000)[None])[0]
    torch.testing.assert_close(loud[:, 3], torch.full_like(loud[:, 3], SILENCE), rtol=0, atol=1e-6)
    assert (loud.amax(dim=0) > SILENCE + 1).nonzero().flatten().tolist() == [*range(3), *range(4, 128)]


@pytest.mark.parametrize("num_bins", [64, 80])
def test_of_fewer_bins_none_is_always_silent(num_bins: int) -> None:
    assert (make_frontend("fbank", num_bins)(noise(8000)[None]) > SILENCE + 1).any(dim=1).all()


# ------------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize("num_samples", [1, 399])
def test_a_clip_shorter_than_a_window_is_a_plain_error(frontend: FrontEnd, num_samples: int) -> None:
    with pytest.raises(PlainError, match=rf"{num_samples} samples .* one analysis window of 400 samples"):
        frontend(torch.zeros(1, num_samples))


def test_an_unknown_kind_of_features_is_a_plain_error_that_lists_the_known_ones() -> None:
    with pytest.raises(PlainError, match=r"task\.feature_type is 'wav'.*fbank, spectrogram, mfcc"):
        make_frontend("wav")


def test_more_columns_than_mfcc_has_is_a_plain_error() -> None:
    with pytest.raises(PlainError, match=r"task\.feature_dim is 14, but feature_type mfcc has 13 columns"):
        make_frontend("mfcc", 14)


def test_more_columns_than_a_spectrogram_has_is_a_plain_error() -> None:
    with pytest.raises(PlainError, match=r"task\.feature_dim is 258"):
        make_frontend("spectrogram", 258)


@pytest.mark.parametrize("feature_type", ["fbank", "spectrogram", "mfcc"])
def test_differences_of_a_padded_clip_are_those_of_the_clip_alone(feature_type: str) -> None:
    frontend = make_frontend(feature_type, 13, 16000, deltas=True)
    generator = torch.Generator().manual_seed(1)
    clips = [torch.rand(length, generator=generator) - 0.5 for length in (4000, 2345, 400)]
    frames = [frontend.num_frames(len(clip)) for clip in clips]
    together = frontend(pad_waveforms(clips), [len(clip) for clip in clips])
    for row, clip in enumerate(clips):
        torch.testing.assert_close(together[row, : frames[row]], frontend(clip[None])[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("num_frames", [2001, 3000, 3001, 4500])
def test_a_long_clip_has_the_features_of_its_pieces(num_frames: int) -> None:
    made = make_frontend("fbank")
    waves = torch.rand(2, made.num_samples(num_frames) + 59, generator=torch.Generator().manual_seed(0)) - 0.5
    whole = made(waves)
    assert whole.shape == (2, num_frames, 128)
    for first in range(0, num_frames, 700):
        end = min(first + 700, num_frames)
        piece = made(waves[:, first * made.hop : made.num_samples(end)])
        torch.testing.assert_close(whole[:, first:end], piece, atol=1e-5, rtol=0)
