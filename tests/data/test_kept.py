"""Decoded clips that are kept: what comes back is what was put, and nothing else changes."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from mae_ast_plugin.audio.manifest import Manifest, write_manifest
from mae_ast_plugin.data import kept as module
from mae_ast_plugin.data.batching import ClipRef
from mae_ast_plugin.data.clips import ClipDataset
from mae_ast_plugin.data.kept import KeptClips
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.build import frontend_of
from mae_ast_plugin.methods.settings import TaskSettings

SIZES = np.array([100, 50, 200])
FLOATS = np.linspace(-1, 1, 100, dtype=np.float32)
SHORTS = np.arange(50, dtype=np.int16)


def file_in(folder: Path, monkeypatch: pytest.MonkeyPatch, limit: float = 1e6) -> KeptClips:
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return KeptClips(SIZES, limit)


def test_what_was_put_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = file_in(tmp_path, monkeypatch)
    kept.put(0, FLOATS)
    kept.put(1, SHORTS)
    for entry, expected in ((0, FLOATS), (1, SHORTS)):
        found = kept.get(entry)
        assert found is not None and found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    assert kept.get(2) is None
    assert not os.listdir(tmp_path), "the file has a name, which would outlive a killed process"


def test_a_clip_longer_than_planned_is_not_kept_and_its_neighbours_stay_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = file_in(tmp_path, monkeypatch)
    kept.put(1, SHORTS)
    kept.put(0, np.zeros(101, np.float32))
    assert kept.get(0) is None
    np.testing.assert_array_equal(kept.get(1), SHORTS)  # type: ignore[arg-type]


def test_another_process_that_was_not_forked_sees_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = file_in(tmp_path, monkeypatch)
    other = pickle.loads(pickle.dumps(kept))
    other.put(0, FLOATS)
    np.testing.assert_array_equal(kept.get(0), FLOATS)  # type: ignore[arg-type]


def test_a_full_file_is_told_once_and_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = file_in(tmp_path, monkeypatch, limit=10_000)
    kept.put(0, FLOATS)
    kept.limit = 10
    kept.put(1, SHORTS)
    kept.put(2, SHORTS)
    assert [record.message for record in caplog.records] == [
        "no further decoded clips are kept, they are read in each epoch: task.keep_decoded_gb=1e-08 is used up"
    ]
    assert kept.get(0) is not None and kept.get(1) is None


def test_a_full_disk_is_told_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = file_in(tmp_path, monkeypatch)

    def no_room() -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write = os.pwrite
    monkeypatch.setattr(
        module.os, "pwrite", lambda *given: write(*given) if len(given[1]) == module.WORD else no_room()
    )
    kept.put(0, FLOATS)
    kept.put(1, SHORTS)
    (record,) = caplog.records
    assert f"{tmp_path}: No space left on device; TMPDIR names another folder" in record.message
    assert kept.get(0) is None


def test_a_disk_that_cannot_be_read_is_no_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = file_in(tmp_path, monkeypatch)
    kept.put(0, FLOATS)

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(module.os, "preadv", broken)
    assert kept.get(0) is None


def test_another_kind_of_samples_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = file_in(tmp_path, monkeypatch)
    kept.put(0, FLOATS.astype(np.float64))
    assert kept.get(0) is None


def test_many_processes_tell_it_once_and_keep_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    told = tmp_path / "told"
    monkeypatch.setattr(module.logger, "warning", lambda message: os.write(file, message.encode() + b"\n"))
    file = os.open(told, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    kept = KeptClips(np.full(60, 100), limit=20 * FLOATS.nbytes)

    def put_all(first: int) -> None:
        for entry in range(first, 60, 3):
            kept.put(entry, FLOATS)

    for _ in range(2):  # workers of two epochs
        workers = [multiprocessing.get_context("fork").Process(target=put_all, args=(first,)) for first in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
    os.close(file)
    assert len(told.read_text().splitlines()) == 1
    found = [each for each in map(kept.get, range(60)) if each is not None]
    assert len(found) == 20
    assert all(np.array_equal(each, FLOATS) for each in found)


def test_without_a_folder_for_it_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlainError, match=r"task.keep_decoded_gb needs a temporary file.*set TMPDIR"):
        file_in(tmp_path / "gone", monkeypatch)


# ---- in a dataset


def corpus(folder: Path, rate: int = 16000, **task: Any) -> ClipDataset:
    """A clip of a second, one as long as a crop, one of three and a half."""
    draw, rows = np.random.default_rng(0), []
    for number, seconds in enumerate((1.0, 1.5, 3.5)):
        waveform = draw.uniform(-0.5, 0.5, int(seconds * rate))
        soundfile.write(folder / f"{number}.wav", waveform, rate, subtype="PCM_16")
        rows.append((f"{number}.wav", len(waveform)))
    write_manifest(folder / "train.tsv", folder, rows, rates=[rate] * len(rows))
    settings = TaskSettings(**{"data": str(folder), "max_sample_size": 24000, "keep_decoded_gb": 1.0, **task})
    manifest = Manifest.load(folder / "train.tsv")
    return ClipDataset("train", manifest, settings, frontend_of(settings), min_frames=16, seed=1, epoch_matters=True)


def epoch(dataset: ClipDataset, number: int, entries: list[int], workers: int = 0) -> list[torch.Tensor]:
    batches = [[ClipRef(entry, number, 0, 24000)] for entry in entries]
    loader = DataLoader(dataset, batch_sampler=batches, collate_fn=dataset.collater, num_workers=workers)
    return [batch["net_input"]["waveforms"] for batch in loader]


@pytest.mark.parametrize("rate", [16000, 44100, 8000])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_second_epoch_needs_no_files_and_hears_the_same(tmp_path: Path, rate: int, workers: int) -> None:
    dataset = corpus(tmp_path, rate)
    first = epoch(dataset, 1, [0, 1], workers)
    for path in tmp_path.glob("*.wav"):
        path.unlink()
    for before, after in zip(first, epoch(dataset, 2, [0, 1], workers), strict=True):
        assert before.dtype == after.dtype
        torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_random_crops_stay_random(tmp_path: Path) -> None:
    with_file, without = corpus(tmp_path), corpus(tmp_path, keep_decoded_gb=0.0)
    for number in (1, 2, 3):
        assert torch.equal(epoch(with_file, number, [2])[0], epoch(without, number, [2])[0])
    assert not torch.equal(epoch(with_file, 1, [2])[0], epoch(with_file, 2, [2])[0])


@pytest.mark.parametrize("task", [{"cut": "all_pieces"}, {"random_crop": False}], ids=["pieces", "from the beginning"])
def test_crops_that_stand_still_are_kept(tmp_path: Path, task: dict[str, Any]) -> None:
    dataset = corpus(tmp_path, **task)
    entries = list(range(len(dataset)))
    first = epoch(dataset, 1, entries)
    for path in tmp_path.glob("*.wav"):
        path.unlink()
    for before, after in zip(first, epoch(dataset, 2, entries), strict=True):
        assert torch.equal(before, after)


def test_what_is_longer_than_listed_is_cropped_anew_in_pieces_too(tmp_path: Path) -> None:
    with_file, without = (corpus(tmp_path, cut="pieces", keep_decoded_gb=size) for size in (1.0, 0.0))
    waveform = np.random.default_rng(1).uniform(-0.5, 0.5, 48000)
    soundfile.write(tmp_path / "1.wav", waveform, 16000, subtype="PCM_16")  # listed with half of it
    for number in (1, 2, 3):
        assert torch.equal(epoch(with_file, number, [1])[0], epoch(without, number, [1])[0])


def test_without_the_setting_there_is_no_file(tmp_path: Path) -> None:
    assert corpus(tmp_path, keep_decoded_gb=0.0).kept is None
