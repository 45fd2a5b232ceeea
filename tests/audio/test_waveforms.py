"""Waveforms as they are given become 1-D float32 tensors at one rate, or are refused in a sentence."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mae_ast_plugin.audio.resample import resample, sinc_hann
from mae_ast_plugin.audio.waveforms import FASTEST, LOUDEST, SLOWEST, as_waveforms
from mae_ast_plugin.errors import PlainError


def noise(num_samples: int, seed: int = 0) -> Tensor:
    return torch.rand(num_samples, generator=torch.Generator().manual_seed(seed)) - 0.5


def test_waveforms_at_the_wanted_rate_are_handed_on_without_a_copy() -> None:
    waves = [noise(100), noise(7, 1)]
    found = as_waveforms(waves, 16000, 16000)
    assert all(a.data_ptr() == b.data_ptr() and torch.equal(a, b) for a, b in zip(found, waves, strict=True))
    array = noise(100).numpy().copy()
    assert as_waveforms(array, 16000, 16000)[0].data_ptr() == array.ctypes.data


def test_the_callers_waveforms_are_never_written_to() -> None:
    wave, array = noise(900), noise(900, 1).numpy().copy()
    before, copy = wave.clone(), array.copy()
    as_waveforms([wave, array], [8000, 44100], 16000)
    assert torch.equal(wave, before) and np.array_equal(array, copy)


def test_a_read_only_array_is_copied_and_not_warned_about(recwarn: pytest.WarningsRecorder) -> None:
    array = np.frombuffer(noise(100).numpy().tobytes(), dtype=np.float32)
    found = as_waveforms([array], 16000, 16000)[0]
    assert np.array_equal(found, array) and found.data_ptr() != array.ctypes.data
    assert not recwarn.list


@pytest.mark.parametrize("seed", range(10))
def test_a_padded_batch_gives_what_the_list_gives(seed: int) -> None:
    draw = random.Random(seed)
    waves = [noise(draw.randrange(1, 500), row) for row in range(draw.randrange(1, 6))]
    rates = [draw.choice([8000, 16000, 22050, 48000]) for _ in waves]
    resampler = draw.choice(["soxr", "sinc_hann"])
    batch = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True, padding_value=draw.choice([0.0, float("nan")]))
    lengths = [len(wave) for wave in waves]
    listed = as_waveforms(waves, rates, 16000, resampler=resampler)
    padded = as_waveforms(batch, rates, 16000, lengths=lengths, resampler=resampler)
    assert all(torch.equal(a, b) for a, b in zip(listed, padded, strict=True))


@pytest.mark.parametrize("rate", [SLOWEST, 8000, 11025, 16000, 44100, 48000, 96000, FASTEST])
def test_every_rate_is_brought_to_the_wanted_one(rate: int) -> None:
    wave = noise(rate // 10)
    found = as_waveforms([wave], rate, 16000)[0]
    assert (found.dtype, found.dim()) == (torch.float32, 1)
    assert torch.equal(found, torch.from_numpy(resample(wave.numpy(), rate, 16000)))
    assert abs(len(found) - 1600) <= 1
    assert torch.equal(as_waveforms([wave], rate, 16000, resampler="sinc_hann")[0], sinc_hann(wave, rate, 16000))


@pytest.mark.parametrize("rate", [16000, np.int64(16000), np.float32(16000), 16000.0, torch.tensor(16000)])
def test_a_rate_may_be_any_whole_number(rate: Any) -> None:
    assert torch.equal(as_waveforms([noise(50)], rate, 16000)[0], noise(50))


def test_a_strided_and_a_half_precision_waveform_can_be_resampled() -> None:
    wave = noise(2000)
    expected = as_waveforms([wave[::2].clone()], 8000, 16000)[0]
    assert torch.equal(as_waveforms([wave[::2]], 8000, 16000)[0], expected)
    assert torch.equal(as_waveforms([wave.numpy()[::2]], 8000, 16000)[0], expected)
    half = wave.half()
    assert torch.equal(as_waveforms([half], 8000, 16000)[0], as_waveforms([half.float()], 8000, 16000)[0])


def test_the_first_sample_that_is_not_finite_is_named() -> None:
    for bad in (float("nan"), float("inf"), float("-inf")):
        for kind in (torch.float16, torch.float32, torch.float64):
            wave = noise(1000).to(kind)
            wave[[417, 900]] = bad
            with pytest.raises(PlainError, match="waveform 1 holds NaN or infinity, first at sample 417;"):
                as_waveforms([noise(3), wave], 16000, 16000)


def test_samples_on_the_scale_of_integers_pass_and_those_beyond_any_audio_do_not() -> None:
    assert len(as_waveforms([2.0**31 * noise(10)], 16000, 16000)) == 1
    for loud in (torch.tensor([0.0, 1.01 * LOUDEST]), torch.tensor([-1.01 * LOUDEST, 0.0])):
        with pytest.raises(PlainError, match=r"waveform 0 reaches 1e\+12; give floats between -1 and 1"):
            as_waveforms([loud], 16000, 16000)


def test_a_clip_is_named_by_its_number_also_in_a_batch() -> None:
    batch = torch.zeros(3, 10)
    batch[2, 4] = float("nan")
    with pytest.raises(PlainError, match=r"waveform 2 .*first at sample 4"):
        as_waveforms(batch, 16000, 16000, lengths=[10, 10, 5])
    assert len(as_waveforms(batch, 16000, 16000, lengths=[10, 10, 4])) == 3


def test_a_batch_of_integers_is_refused_as_a_list_of_them_is() -> None:
    with pytest.raises(PlainError, match=r"waveform 0 holds int16 samples; .*divide by 32768"):
        as_waveforms(np.zeros((2, 10), np.int16), 16000, 16000, lengths=[10, 10])


def test_a_mapping_as_some_libraries_give_it_is_refused_by_its_type() -> None:
    with pytest.raises(PlainError, match="the waveforms are a dict"):
        as_waveforms({"input_values": noise(10)}, 16000, 16000)  # type: ignore[arg-type]


def test_a_generator_of_waveforms_is_a_list() -> None:
    found = as_waveforms((noise(size) for size in (5, 6)), 16000, 16000)  # type: ignore[arg-type]
    assert [len(wave) for wave in found] == [5, 6]


def test_a_gradient_passes_where_nothing_is_resampled() -> None:
    wave = noise(40).requires_grad_()
    assert as_waveforms([wave], 16000, 16000)[0] is wave
    with pytest.raises(PlainError, match="no gradient passes through the resampling"):
        as_waveforms([wave], 8000, 16000)
    with torch.no_grad():
        assert len(as_waveforms([wave], 8000, 16000)[0]) == 80
