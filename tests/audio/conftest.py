"""Clips of each format, and the same packed into each kind of container."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

RATE = 16000
FORMATS = {
    "clip.wav": ("WAV", "PCM_16"),
    "clip.flac": ("FLAC", "PCM_16"),
    "clip.ogg": ("OGG", "VORBIS"),
    "clip.opus": ("OGG", "OPUS"),
    "clip.mp3": ("MP3", "MPEG_LAYER_III"),
    "clip.sph": ("NIST", "PCM_16"),
}
CONTAINERS = ("tar", "stored zip", "zip", "hdf5")


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """White noise on the grid of 16 bits."""
    values = np.random.default_rng(seed).integers(-8000, 8000, int(seconds * RATE))
    return (values / 32768).astype(np.float32)


def pack_tar(path: Path, members: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> dict[str, str]:
    """Write a tar; give the place of each member."""
    with tarfile.open(path, "w", format=kind) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with tarfile.open(path) as archive:
        return {info.name: f"{path}:{info.offset_data}:{info.size}" for info in archive}


def pack_zip(path: Path, members: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> dict[str, str]:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return {name: f"{path}:{name}" for name in members}


def pack_hdf5(path: Path, members: dict[str, bytes]) -> dict[str, str]:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        rows = file.create_dataset("mp3", (len(members),), h5py.vlen_dtype(np.uint8))
        for row, content in enumerate(members.values()):
            rows[row] = np.frombuffer(content, np.uint8)
    return {name: f"{path}:{row}" for row, name in enumerate(members)}


def pack(kind: str, folder: Path, members: dict[str, bytes]) -> dict[str, str]:
    """Pack files into a container of some ``kind``; give the place of each."""
    if kind == "tar":
        return pack_tar(folder / "shard.tar", members)
    if kind == "hdf5":
        return pack_hdf5(folder / "clips.hdf", members)
    return pack_zip(folder / f"{kind}.zip", members, zipfile.ZIP_STORED if "stored" in kind else zipfile.ZIP_DEFLATED)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A clip of 1.5 s in the formats of libsndfile, and in one that only FFmpeg reads."""
    folder = tmp_path_factory.mktemp("files")
    for name, (file_format, subtype) in FORMATS.items():
        soundfile.write(folder / name, noise(1.5), RATE, format=file_format, subtype=subtype)
    soundfile.write(folder / "plain.wav", noise(1.5), RATE, subtype="PCM_16")
    (folder / "bare.mp3").write_bytes(_without_tag((folder / "clip.mp3").read_bytes()))
    _to_mkv(folder / "clip.mkv")
    return {path.name: path for path in folder.iterdir()}


def _without_tag(mp3: bytes) -> bytes:
    return mp3[mp3.index(mp3[:2], 4) :]


def _to_mkv(path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono", format="s16")
        samples = (noise(1.5) * 32768).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope="session")
def places(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Those clips in each container: kind -> name -> place."""
    members = {f"some folder/{name}": path.read_bytes() for name, path in files.items()}
    folder = tmp_path_factory.mktemp("containers")
    packed = {kind: pack(kind, folder, members) for kind in CONTAINERS}
    return {kind: {name.split("/")[1]: place for name, place in found.items()} for kind, found in packed.items()}


@pytest.fixture(scope="session")
def packing() -> SimpleNamespace:
    """What packs clips: ``tar``, ``zip`` and ``any`` kind of container; each gives the places of the clips."""
    return SimpleNamespace(tar=pack_tar, zip=pack_zip, any=pack)
