"""Many files in order, in groups that fit into memory, embedded as each would be alone; bad files are only reported."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from mae_ast_plugin import corpus
from mae_ast_plugin.audio.listing import Listed
from mae_ast_plugin.audio.outcomes import AudioError
from mae_ast_plugin.audio.reader import read
from mae_ast_plugin.corpus import as_arrays, read_groups
from mae_ast_plugin.encoder import AudioEncoder
from mae_ast_plugin.methods.build import autoencoder_of, frontend_of
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings

MODEL = ModelSettings(
    ast_kernel_size_chan=16, ast_kernel_stride_chan=16, ast_kernel_size_time=4, ast_kernel_stride_time=4,
    encoder_layers=2, decoder_layers=1, encoder_embed_dim=8, decoder_embed_dim=8, encoder_ffn_embed_dim=16,
    encoder_attention_heads=2,
)  # fmt: skip
LENGTHS = (8000, 700, 16000, 5001, 1, 12000, 3000)
RATES = (16000, 8000, 22050, 16000, 16000, 48000, 8000)


@pytest.fixture(scope="module")
def encoder() -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder(frontend_of(TaskSettings(feature_dim=32)), autoencoder_of(MODEL, 32)).eval()


def write_clips(folder: Path, lengths: Sequence[int], rates: Sequence[int] | None = None) -> list[Listed]:
    clips = []
    for row, length in enumerate(lengths):
        path = folder / f"{row}.wav"
        noise = np.random.default_rng(row).uniform(-0.5, 0.5, length)
        soundfile.write(path, noise, rates[row] if rates else 16000, subtype="FLOAT")
        clips.append(Listed(path.name, str(path), None))
    return clips


@pytest.fixture
def clips(tmp_path: Path) -> list[Listed]:
    return write_clips(tmp_path, LENGTHS, RATES)


def spoil(clips: Sequence[Listed], rows: Sequence[int]) -> None:
    for row in rows:
        Path(clips[row].path).write_text("<html>not found</html>")


@pytest.mark.parametrize("group_seconds", [0.01, 0.5, 1.0, 3.0, 1000.0])
@pytest.mark.parametrize("readers", [1, 2, 5])
def test_groups_hold_every_clip_once_and_in_order(clips: list[Listed], group_seconds: float, readers: int) -> None:
    groups = list(read_groups(clips, group_seconds, readers))
    assert [row for group in groups for row in group.rows] == list(range(len(clips)))
    assert [rate for group in groups for rate in group.rates] == list(RATES)
    for group in groups:
        for row, waveform in zip(group.rows, group.waveforms, strict=True):
            assert np.array_equal(waveform, read(clips[row].path)[0])


@pytest.mark.parametrize("group_seconds", [0.3, 1.0, 2.5])
def test_a_group_is_bounded_with_its_padding(tmp_path: Path, group_seconds: float) -> None:
    lengths = [800] * 20 + [48000] + [800] * 3 + [16000, 800, 16000] + [1600] * 9
    clips = write_clips(tmp_path, lengths)
    groups = list(read_groups(clips, group_seconds))
    for group in groups:
        longest = max(lengths[row] for row in group.rows) / 16000
        assert len(group.rows) == 1 or len(group.rows) * longest <= group_seconds
    assert [20] in [group.rows for group in groups]  # the long clip is alone
    assert len(groups) < len(clips)


def test_a_group_is_bounded_in_its_number_of_clips(clips: list[Listed], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "GROUP_CLIPS", 3)
    spoil(clips, [1])
    assert [len(group) for group in read_groups(clips, 1e9)] == [3, 3, 1]


def test_unreadable_files_are_reported_by_their_row_and_the_others_are_read(clips: list[Listed]) -> None:
    spoil(clips, [0, 3, 6])
    clips[4] = Listed("absent.wav", clips[4].path + ".absent", None)
    for group_seconds in (0.1, 1000.0):
        groups = list(read_groups(clips, group_seconds))
        reasons = {row: reason for group in groups for row, reason in group.unreadable.items()}
        assert [row for group in groups for row in group.rows] == [1, 2, 5]
        assert {row for row, reason in reasons.items() if "holds text, not audio" in reason} == {0, 3, 6}
        assert "does not exist" in reasons[4]
        assert sum(map(len, groups)) == len(clips)


def test_rows_of_groups_follow_each_other_with_unreadable_ones_among_them(clips: list[Listed]) -> None:
    spoil(clips, [2, 3])
    done = 0
    for group in read_groups(clips, 0.6):
        assert sorted([*group.rows, *group.unreadable]) == list(range(done, done + len(group)))
        done += len(group)
    assert done == len(clips)


def test_a_list_of_bad_files_only_is_reported_whole(clips: list[Listed]) -> None:
    spoil(clips, range(len(clips)))
    (group,) = read_groups(clips, 1.0)
    assert group.rows == [] and sorted(group.unreadable) == list(range(len(clips)))


def test_no_clips_make_no_groups() -> None:
    assert list(read_groups([], 10.0)) == []


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    started: list[str] = []

    def counting(path: str) -> Any:
        started.append(path)
        return read(path)

    monkeypatch.setattr(corpus, "read", counting)
    return started


def test_no_more_is_read_ahead_than_a_group_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = count_reads(monkeypatch)
    clips = write_clips(tmp_path, [3200] * 40)
    for number, _ in enumerate(read_groups(clips, 0.2), start=1):  # a clip each
        assert len(started) <= number + 3
    started.clear()
    list(read_groups(clips, 1e9))
    assert len(started) == 40


def test_whoever_stops_early_leaves_no_thread_behind(clips: list[Listed]) -> None:
    before = threading.active_count()
    for _ in read_groups(clips, 0.01):
        break
    assert threading.active_count() == before


def test_an_error_that_is_no_files_fault_is_not_swallowed(clips: list[Listed], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> Any:
        raise MemoryError

    monkeypatch.setattr(corpus, "read", fail)
    with pytest.raises(MemoryError):
        list(read_groups(clips, 1.0))


def test_a_file_that_is_gone_when_its_turn_comes_is_reported(
    clips: list[Listed], monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(path: str) -> Any:
        if path == clips[2].path:
            Path(path).unlink()
        return read(path)

    monkeypatch.setattr(corpus, "read", vanish)
    groups = list(read_groups(clips, 1000.0))
    assert list(groups[0].unreadable) == [2] and "does not exist" in groups[0].unreadable[2]


@torch.no_grad()
@pytest.mark.parametrize("layers", [None, (), (1, 0)])
@pytest.mark.parametrize("batch_seconds", [0.05, 0.3, 100.0])
def test_files_are_embedded_as_their_waveforms_are(
    clips: list[Listed], encoder: AudioEncoder, layers: Sequence[int] | None, batch_seconds: float
) -> None:
    spoil(clips, [3])
    encoder.batch_seconds = batch_seconds
    found: dict[int, list[np.ndarray]] = {}
    for group in read_groups(clips, 4 * batch_seconds):
        if group.rows:
            embedded = encoder(group.waveforms, group.rates, layers=layers)
            states = [as_arrays(each, embedded.lengths) for each in (embedded.frames, *embedded.hidden_states)]
            found |= {row: [arrays[place] for arrays in states] for place, row in enumerate(group.rows)}
    assert list(found) == [row for row in range(len(clips)) if row != 3]
    for row, arrays in found.items():
        waveform, rate = read(clips[row].path)
        alone = encoder([waveform], rate, layers=layers)
        for array, states_of_one in zip(arrays, (alone.frames, *alone.hidden_states), strict=True):
            np.testing.assert_allclose(array, states_of_one[0].numpy(), atol=1e-5, rtol=1e-5)


def test_an_error_of_the_reader_keeps_its_reason_without_the_path(clips: list[Listed]) -> None:
    spoil(clips, [0])
    with pytest.raises(AudioError) as caught:
        read(clips[0].path)
    assert next(read_groups(clips, 0.1)).unreadable == {0: caught.value.reason}
    assert clips[0].path not in caught.value.reason
