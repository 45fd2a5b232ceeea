"""Clips in containers train as files do: the same crops, with workers too, and a shard that changes is noticed."""

from __future__ import annotations

import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from mae_ast_plugin.audio.manifest import Manifest, write_manifest
from mae_ast_plugin.data.batching import ClipRef
from mae_ast_plugin.data.clips import ClipDataset
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.build import frontend_of
from mae_ast_plugin.methods.settings import TaskSettings

NUM_CLIPS, NUM_SAMPLES = 6, 9000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six FLAC files, ``files.tsv``, and the same in two tar shards, ``shards.tsv``, and in a zip file, ``zip.tsv``."""
    names = [f"{number}.flac" for number in range(NUM_CLIPS)]
    for number, name in enumerate(names):
        noise = 0.1 * np.random.default_rng(number).standard_normal(NUM_SAMPLES)
        soundfile.write(tmp_path / name, noise, 16000)
    places = []
    for shard, part in (("0.tar", names[::2]), ("1.tar", names[1::2])):
        with tarfile.open(tmp_path / shard, "w") as archive:
            for name in part:
                archive.add(tmp_path / name, name)
        with tarfile.open(tmp_path / shard) as archive:
            places += [(info.name, f"{shard}:{info.offset_data}:{info.size}") for info in archive]
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in names:
            packed.write(tmp_path / name, name)
    _list_clips(tmp_path, "files", names)
    _list_clips(tmp_path, "shards", [place for _, place in sorted(places)])
    _list_clips(tmp_path, "zip", [f"x.zip:{name}" for name in names])
    return tmp_path


def _list_clips(folder: Path, split: str, names: list[str]) -> None:
    rows = [(name, NUM_SAMPLES) for name in names]
    write_manifest(folder / f"{split}.tsv", folder, rows, rates=[16000] * NUM_CLIPS)


def dataset(folder: Path, split: str) -> ClipDataset:
    task = TaskSettings(data=str(folder), max_sample_size=4000)
    manifest, frontend = Manifest.load(folder / f"{split}.tsv"), frontend_of(task)
    return ClipDataset(split, manifest, task, frontend, min_frames=16, seed=1, epoch_matters=True)


def check_against_files(folder: Path, split: str) -> None:
    files, packed = dataset(folder, "files"), dataset(folder, split)
    refs = [[ClipRef(row, epoch, 0) for row in (a, b)] for epoch in (1, 2) for a, b in ((0, 1), (5, 2), (3, 4))]
    expected = [files.collater([files[ref] for ref in batch]) for batch in refs]
    here = [packed.collater([packed[ref] for ref in batch]) for batch in refs]  # opens the containers before the fork
    loader = DataLoader(packed, batch_sampler=refs, collate_fn=packed.collater, num_workers=2)  # type: ignore[arg-type]
    for found in (here, list(loader)):
        for batch, wanted in zip(found, expected, strict=True):
            assert not batch["unreadable"]
            assert torch.equal(batch["net_input"]["waveforms"], wanted["net_input"]["waveforms"])


@pytest.mark.parametrize("split", ["shards", "zip"])
def test_containers_give_the_batches_that_files_give_with_and_without_workers(folder: Path, split: str) -> None:
    check_against_files(folder, split)


def test_rows_of_hdf5_give_the_batches_that_files_give_with_and_without_workers(folder: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "x.hdf", "w") as file:
        rows = file.create_dataset("mp3", (NUM_CLIPS,), h5py.vlen_dtype(np.uint8))
        for number in range(NUM_CLIPS):
            rows[number] = np.fromfile(folder / f"{number}.flac", np.uint8)
    _list_clips(folder, "rows", [f"x.hdf:{number}" for number in range(NUM_CLIPS)])
    check_against_files(folder, "rows")


def test_a_shard_that_changes_in_use_gives_no_clip_any_more(folder: Path) -> None:
    shards = dataset(folder, "shards")
    assert not shards[ClipRef(0, 1, 0)].unreadable
    with open(folder / "0.tar", "ab") as shard:
        shard.write(bytes(1024))
    changed = shards[ClipRef(0, 1, 0)]
    [(row, reason)] = changed.unreadable
    assert row == 0 and "0.tar:" in reason and "was changed while in use" in reason
    assert len(changed.waveform) == 4000  # its neighbour, of the other shard
    os.remove(folder / "1.tar")
    with pytest.raises(PlainError, match="6 clips in a row are unreadable") as caught:
        shards[ClipRef(1, 1, 0)]
    assert "1.tar:" in str(caught.value) and "has disappeared while in use" in str(caught.value)
