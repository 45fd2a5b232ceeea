"""Means and deviations that add up: parts in any order are the whole, pieces and constant bins are right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ast_plugin.audio import moments
from mae_ast_plugin.audio.frontend import make_frontend
from mae_ast_plugin.audio.moments import Moments, moments_of_clip
from mae_ast_plugin.audio.outcomes import AudioError


def frames(seed: int, num_frames: int, offset: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(num_frames, 5)) * [0.1, 1, 2, 3, 4] + offset).astype(np.float32)


def assert_those_of(found: Moments, features: np.ndarray) -> None:
    exact = features.astype(np.float64)
    assert found.num_frames == len(features)
    np.testing.assert_allclose(found.mean, exact.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.std, exact.std(axis=0), rtol=1e-9, atol=1e-12)
    mean, std = found.overall()
    assert mean == pytest.approx(exact.mean())
    assert std == pytest.approx(exact.std())


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.sampled_from([0.0, 1e3, -1e6]), st.randoms())
def test_parts_in_any_order_are_the_whole(sizes: list[int], offset: float, random: object) -> None:
    parts = [frames(number, size, offset) for number, size in enumerate(sizes)]
    order = list(range(len(parts)))
    random.shuffle(order)  # type: ignore[attr-defined]
    found = Moments.zero(5)
    for number in order:
        found += Moments.of(parts[number])
    assert_those_of(found, np.concatenate(parts))


def test_a_constant_bin_has_a_deviation_of_exactly_zero() -> None:
    parts = [frames(seed, 7) for seed in range(5)]
    for part in parts:
        part[:, 3] = np.float32(-13.815511)
    found = sum((Moments.of(part) for part in parts), Moments.zero(5))
    assert found.constant_bin() == 3
    assert found.std[3] == 0
    assert Moments.of(frames(0, 7)).constant_bin() is None


def test_the_table_gives_the_same_again() -> None:
    found = Moments.of(frames(0, 100))
    again = Moments.from_table(json.loads(json.dumps(found.table())))
    assert again.num_frames == 100
    assert (again.mean == found.mean).all()
    np.testing.assert_allclose(again.squares, found.squares, rtol=1e-14)


@pytest.mark.parametrize("change", [{"frames": -1}, {"mean": [1.0]}, {"std": "x"}, {"mean": None}, {"frames": None}])
def test_another_table_is_refused(change: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Moments.from_table({**Moments.of(frames(0, 9)).table(), **change})


@pytest.fixture
def clip(tmp_path: Path) -> tuple[str, np.ndarray]:
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 40000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    return str(tmp_path / "a.wav"), wave


def test_a_clip_has_the_moments_of_its_features(clip: tuple[str, np.ndarray]) -> None:
    frontend = make_frontend("fbank", 40)
    path, wave = clip
    assert_those_of(moments_of_clip(path, frontend), frontend(torch.from_numpy(wave)[None])[0].numpy())
    assert_those_of(moments_of_clip(path, frontend, 0.5), frontend(torch.from_numpy(wave[:8000])[None])[0].numpy())


def test_a_long_clip_goes_in_pieces(clip: tuple[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    frontend = make_frontend("fbank", 40)
    path, wave = clip
    monkeypatch.setattr(moments, "PIECE_SECONDS", 1)
    pieces = [frontend(torch.from_numpy(wave[at : at + 16000])[None])[0].numpy() for at in (0, 16000, 32000)]
    assert_those_of(moments_of_clip(path, frontend), np.concatenate(pieces))


def test_a_clip_shorter_than_a_frame_has_none(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(10), 16000)
    assert moments_of_clip(str(tmp_path / "a.wav"), make_frontend("fbank", 40)).num_frames == 0


def test_features_are_taken_as_they_are(tmp_path: Path) -> None:
    stored = frames(0, 250)
    np.save(tmp_path / "a.npy", stored.T[None])
    frontend = make_frontend("fbank", 5)
    assert_those_of(moments_of_clip(str(tmp_path / "a.npy"), frontend), stored)
    assert_those_of(moments_of_clip(str(tmp_path / "a.npy"), frontend, 1.0), stored[:98])
    with pytest.raises(AudioError, match="has 5 mel bins, not 128"):
        moments_of_clip(str(tmp_path / "a.npy"), make_frontend("fbank", 128))
