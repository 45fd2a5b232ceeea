"""Clips inside tar, zip and HDF5 files are read as if they were files of their own; all of them are made here."""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ast_plugin.audio import archives, pool
from mae_ast_plugin.audio.places import container_of, open_place, peek, size_of
from mae_ast_plugin.audio.reader import probe, read, sample_rate_of

RATE = 16000
FORMATS = ("clip.wav", "clip.flac", "clip.ogg", "clip.opus", "clip.mp3", "clip.sph")
CONTAINERS = ("tar", "stored zip", "zip", "hdf5")
Files = dict[str, Path]
Places = dict[str, dict[str, str]]  # kind of container -> name -> place


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.25, 0.25, int(seconds * RATE))


# ---- names


@pytest.mark.parametrize(
    ("name", "container"),
    [
        ("a/b.flac", None),
        ("shard.tar", None),
        ("shard.tar:12", None),
        ("shard.tar:1:x", None),
        ("shard.tar:1:٣", None),  # a digit, but not of a decimal number in a manifest
        ("a:b.wav", None),
        ("shard.tgz:1:2", None),
        ("clips.zip", None),
        ("clips.zip:", None),
        ("clips.hdf:", None),
        ("clips.hdf:x", None),
        ("clips.hdf:-1", None),
        ("shard.tar:512:4000", "shard.tar"),
        ("/a b/Shard.TAR:0:1", "/a b/Shard.TAR"),
        ("a:b/shard.tar:512:4000", "a:b/shard.tar"),
        ("clips.zip:30:40", "clips.zip"),
        ("clips.zip:a/b.flac", "clips.zip"),
        ("clips.zip:a.zip:b", "clips.zip"),
        ("clips.zip:a:b", "clips.zip"),
        ("clips.h5:0", "clips.h5"),
        ("clips.hdf5:12", "clips.hdf5"),
    ],
)
def test_a_name_tells_its_container(name: str, container: str | None) -> None:
    assert container_of(name) == container


def test_a_file_whose_name_nearly_is_a_place_is_read_as_a_file(tmp_path: Path) -> None:
    for name in ("x.tar:12", "x.tar:a:b", "clips.hdf:x", "x.wav:1:2"):
        soundfile.write(tmp_path / name, noise(0.1), RATE, format="WAV")
        assert len(read(tmp_path / name)[0]) == 1600


def test_the_size_of_a_tar_member_is_its_own(files: Files, places: Places) -> None:
    for name, path in files.items():
        assert size_of(path) == size_of(places["tar"][name]) == path.stat().st_size
    assert size_of("absent.wav") == size_of("a\0.wav") == size_of(places["hdf5"]["clip.mp3"]) == 0


# ---- reading


@pytest.mark.parametrize("name", [*FORMATS, "bare.mp3", "clip.mkv"])
@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_part_is_read_as_the_file_it_was(files: Files, places: Places, kind: str, name: str) -> None:
    place, path = places[kind][name], files[name]
    np.testing.assert_array_equal(read(place)[0], read(path)[0])
    assert probe(place) == probe(path)
    assert sample_rate_of(place) == sample_rate_of(path)
    crop, _ = read(place, start=7001, num_samples=3001)
    np.testing.assert_array_equal(crop, read(path, start=7001, num_samples=3001)[0])


@pytest.mark.parametrize("name", ["clip.wav", "clip.flac", "clip.mp3", "bare.mp3", "clip.mkv"])
@pytest.mark.parametrize("kind", ["tar", "stored zip"])
def test_a_large_part_is_read_in_pieces_and_gives_the_same(
    files: Files, places: Places, kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "WHOLE_BYTES", 0)
    assert isinstance(open_place(places[kind][name]), pool.Window)
    np.testing.assert_array_equal(read(places[kind][name])[0], read(files[name])[0])
    crop, _ = read(places[kind][name], start=7001, num_samples=3001)
    np.testing.assert_array_equal(crop, read(files[name], start=7001, num_samples=3001)[0])


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_any_kind_of_tar_are_read(tmp_path: Path, packing: SimpleNamespace, files: Files, kind: int) -> None:
    content = files["clip.wav"].read_bytes()
    found = packing.tar(tmp_path / "x.tar", {"short.wav": content, "ü" * 60 + "/long.wav": content}, kind)
    for place in found.values():
        assert open_place(place).read() == content


def test_a_large_number_in_a_tar_header_is_understood(tmp_path: Path, packing: SimpleNamespace, files: Files) -> None:
    [place] = packing.tar(tmp_path / "x.tar", {"clip.wav": files["clip.wav"].read_bytes()}).values()
    path, offset, size = place.rsplit(":", 2)
    content = bytearray(Path(path).read_bytes())
    field = int(offset) - 512 + 124
    content[field : field + 12] = b"\x80" + int(size).to_bytes(11, "big")
    Path(path).write_bytes(content)
    assert len(read(place)[0]) == 1.5 * RATE


def test_stored_bytes_of_a_zip_are_read_by_their_place(tmp_path: Path, packing: SimpleNamespace, files: Files) -> None:
    content = files["clip.flac"].read_bytes()
    packing.zip(tmp_path / "x.zip", {"a.flac": content}, zipfile.ZIP_STORED)
    offset = (tmp_path / "x.zip").read_bytes().index(content)
    np.testing.assert_array_equal(read(f"{tmp_path}/x.zip:{offset}:{len(content)}")[0], read(files["clip.flac"])[0])


def test_a_stored_member_with_notes_in_its_header_is_found(tmp_path: Path, files: Files) -> None:
    content = files["clip.wav"].read_bytes()
    info = zipfile.ZipInfo("clip.wav")
    info.extra = b"UT\x05\x00\x03abcd"  # the time of the file, as the zip command writes it
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, content)
    assert open_place(f"{tmp_path}/x.zip:clip.wav").read() == content


@pytest.mark.parametrize("kind", ["file", *CONTAINERS])
def test_a_look_at_the_beginning_does_not_move_the_reader(
    files: Files, places: Places, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "WHOLE_BYTES", 0)
    content = files["clip.wav"].read_bytes()
    with open_place(files["clip.wav"] if kind == "file" else places[kind]["clip.wav"]) as handle:
        begin = handle.read(100)
        assert peek(handle, 50, 10) == content[10:60]
        assert begin + (handle.read(100) or b"") == content[:200]


def test_what_the_tar_command_writes_is_read(tmp_path: Path, files: Files) -> None:
    soundfile.write(tmp_path / "a.flac", noise(1), RATE)
    subprocess.run(["tar", "cf", "x.tar", "a.flac"], cwd=tmp_path, check=True)
    with tarfile.open(tmp_path / "x.tar") as archive:
        [info] = archive.getmembers()
    place = f"{tmp_path}/x.tar:{info.offset_data}:{info.size}"
    np.testing.assert_array_equal(read(place)[0], read(tmp_path / "a.flac")[0])


@pytest.mark.parametrize(("file_format", "share"), [("WAV", 0.04), ("FLAC", 0.25)])
@pytest.mark.parametrize("kind", ["tar", "stored zip"])
def test_only_the_wanted_crop_of_a_long_clip_is_read(
    tmp_path: Path, packing: SimpleNamespace, kind: str, file_format: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(60), RATE, format=file_format)
    [place] = packing.any(kind, tmp_path, {"long": buffer.getvalue()}).values()
    read(place, start=0, num_samples=1)  # the list of a zip's members is read once
    num_bytes = 0
    originals = {name: getattr(pool.OpenFile, name) for name in ("read", "read_into")}

    def counted(name: str) -> Callable[..., object]:
        def call(self: pool.OpenFile, target: int | memoryview, offset: int) -> object:
            nonlocal num_bytes
            num_bytes += target if isinstance(target, int) else len(target)
            return originals[name](self, target, offset)

        return call

    for name in originals:
        monkeypatch.setattr(pool.OpenFile, name, counted(name))
    crop, _ = read(place, start=30 * RATE, num_samples=RATE)
    assert len(crop) == RATE
    assert 0 < num_bytes < share * len(buffer.getvalue())


@pytest.fixture(scope="module")
def corpus(files: Files, places: Places) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Each format's whole waveform, and all the places where it lies."""
    return {
        name: (read(files[name])[0], [str(files[name]), *(places[kind][name] for kind in CONTAINERS)])
        for name in ("clip.wav", "clip.flac", "clip.ogg")
    }


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_any_crop_is_the_slice_of_the_whole(
    corpus: dict[str, tuple[np.ndarray, list[str]]], data: st.DataObject
) -> None:
    whole, names = corpus[data.draw(st.sampled_from(sorted(corpus)))]
    start = data.draw(st.integers(0, len(whole) - 1))
    num_samples = data.draw(st.none() | st.integers(1, len(whole) + 10))
    crop, _ = read(data.draw(st.sampled_from(names)), start=start, num_samples=num_samples)
    expected = whole[start : None if num_samples is None else start + num_samples]
    np.testing.assert_allclose(crop, expected, atol=1e-5)
