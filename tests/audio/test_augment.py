"""Changes of waveforms: what each does, whole batches as single ones, what undoes it."""

from __future__ import annotations

import pytest
import torch

from mae_ast_plugin.audio.augment import gain, mix, mix_labels, roll

WAVES = torch.randn(3, 100, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.mark.parametrize("decibels", [-7.0, 0.0, 6.0])
def test_gain_is_undone_by_its_opposite(decibels: float) -> None:
    louder = gain(WAVES, decibels)
    torch.testing.assert_close(gain(louder, -decibels), WAVES)
    power = louder.square().sum() / WAVES.square().sum()
    assert 10 * float(power.log10()) == pytest.approx(decibels, abs=1e-4)


@pytest.mark.parametrize("num_samples", [-50, 0, 37, 100])
def test_roll_loses_no_sample_and_is_undone_by_its_opposite(num_samples: int) -> None:
    shifted = roll(WAVES, num_samples)
    assert torch.equal(roll(shifted, -num_samples), WAVES)
    assert torch.equal(shifted[:, num_samples % 100], WAVES[:, 0])


@pytest.mark.parametrize("share", [0.5, 0.7, 1.0])
def test_a_mix_has_mean_zero_and_the_shares_it_was_given(share: float) -> None:
    mixed = mix(WAVES[0], WAVES[1], share)
    assert abs(float(mixed.mean())) < 1e-6
    expected = share * WAVES[0] + (1 - share) * WAVES[1]
    torch.testing.assert_close(mixed, expected - expected.mean())
    labels = torch.eye(2)
    assert mix_labels(labels[0], labels[1], share).tolist() == pytest.approx([share, 1 - share])


def test_batches_are_changed_as_single_waveforms() -> None:
    for change in (lambda w: gain(w, 3), lambda w: roll(w, 7), lambda w: mix(w, w.flip(-1), 0.6)):
        torch.testing.assert_close(change(WAVES), torch.stack([change(wave) for wave in WAVES]))
