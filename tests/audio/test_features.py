"""Spectrograms in .npy files: crops, the two shapes, every way to be wrong. All are made here."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ast_plugin.audio.features import is_features, num_bins_of, probe_features, read_features
from mae_ast_plugin.audio.outcomes import AudioError, AudioInfo
from mae_ast_plugin.audio.reader import probe, read

ARRAY = np.random.default_rng(0).standard_normal((5, 40)).astype(np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("features") / "clip.npy"
    np.save(path, ARRAY[None])
    return path


def test_frames_come_first_and_the_length_counts_them(path: Path) -> None:
    features = read_features(path)
    assert (features.dtype, features.flags.c_contiguous) == (np.float32, True)
    np.testing.assert_array_equal(features, ARRAY.T)
    assert probe(path) == probe_features(path) == AudioInfo(40, 100, 1)
    assert num_bins_of(path) == 5


@given(st.integers(0, 39), st.none() | st.integers(1, 60))
@settings(deadline=None, max_examples=50)
def test_any_crop_is_the_slice_of_the_whole(path: Path, start: int, num_frames: int | None) -> None:
    stop = None if num_frames is None else start + num_frames
    np.testing.assert_array_equal(read_features(path, start, num_frames), ARRAY.T[start:stop])


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_other_floats_shapes_and_orders_become_the_same(tmp_path: Path, dtype: str, order: str) -> None:
    array = np.round(ARRAY * 16) / 16
    np.save(tmp_path / "a.npy", array.astype(dtype, order=order))  # type: ignore[call-overload]
    features = read_features(tmp_path / "a.npy", 3, 10)
    assert features.dtype == np.dtype("=f4")
    np.testing.assert_array_equal(features, array.T[3:13])


def test_features_are_told_by_the_ending() -> None:
    assert is_features("a/b.npy") and is_features(Path("b.npy"))
    assert not is_features("a.npy.flac") and not is_features("npy")


# ---- what is wrong


def message_of(path: Path, start: int = 0) -> str:
    with pytest.raises(AudioError) as caught:
        read_features(path, start)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert "\n" not in caught.value.reason
    return caught.value.reason


def saved(path: Path, array: object, **options: bool) -> Path:
    np.save(path, array, **options)  # type: ignore[arg-type]
    return path


def test_a_missing_or_empty_file_and_a_folder_say_so(tmp_path: Path) -> None:
    assert "does not exist" in message_of(tmp_path / "absent.npy")
    assert "is a folder" in message_of(tmp_path)
    (tmp_path / "empty.npy").touch()
    assert "is empty (0 bytes)" in message_of(tmp_path / "empty.npy")


@pytest.mark.parametrize("share", [0.01, 0.2, 0.999])
def test_a_truncated_array_says_so(path: Path, tmp_path: Path, share: float) -> None:
    content = path.read_bytes()
    (tmp_path / "cut.npy").write_bytes(content[: int(share * len(content))])
    assert "is truncated or no NumPy array" in message_of(tmp_path / "cut.npy")
    with pytest.raises(AudioError, match="is truncated"):
        probe(tmp_path / "cut.npy")


def test_what_is_no_array_of_floats_says_so(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("1, 2, 3\n" * 20)
    assert "no NumPy array" in message_of(tmp_path / "text.npy")
    assert "no NumPy array" in message_of(saved(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True))
    assert "holds int64, not floats" in message_of(saved(tmp_path / "i.npy", ARRAY.astype(np.int64)))
    archive = io.BytesIO()
    np.savez(archive, a=ARRAY)
    (tmp_path / "z.npy").write_bytes(archive.getvalue())
    assert "holds several arrays" in message_of(tmp_path / "z.npy")


@pytest.mark.parametrize("shape", [(7,), (2, 5, 40), (1, 1, 5, 40), (5, 0), (1, 0, 40), ()])
def test_another_shape_says_which(tmp_path: Path, shape: tuple[int, ...]) -> None:
    assert "has the shape (" in message_of(saved(tmp_path / "a.npy", np.zeros(shape, np.float32)))


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_value_that_is_not_finite_says_where_unless_it_lies_outside_the_crop(tmp_path: Path, value: float) -> None:
    array = ARRAY.copy()
    array[3, 17] = value
    assert message_of(saved(tmp_path / "a.npy", array), 5).startswith("frame 17 is not finite")
    assert len(read_features(tmp_path / "a.npy", 18)) == 22


def test_a_crop_beyond_the_end_says_so(path: Path) -> None:
    assert "starts at frame 40, beyond the end of its 40 frames" in message_of(path, 40)


def test_features_where_audio_is_wanted_say_so(path: Path) -> None:
    with pytest.raises(AudioError, match="holds a NumPy array, not audio"):
        read(path)
