"""What is wrong with a container or a part of it is one sentence that begins with the clip's whole name."""

from __future__ import annotations

import builtins
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mae_ast_plugin.audio import archives, pool
from mae_ast_plugin.audio.places import container_of
from mae_ast_plugin.audio.reader import AudioError, probe, read
from mae_ast_plugin.errors import PlainError

Files = dict[str, Path]
Places = dict[str, dict[str, str]]  # kind of container -> name -> place


def message_of(place: str) -> str:
    """The one sentence, which begins with the whole place, from reading and from probing."""
    with pytest.raises(AudioError) as caught:
        read(place)
    with pytest.raises(AudioError) as probed:
        probe(place)
    assert probed.value.reason == caught.value.reason
    assert str(caught.value) == f"{place}: {caught.value.reason}"
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.fixture
def shard(tmp_path: Path, packing: SimpleNamespace, files: Files) -> tuple[str, int, int]:
    """A tar with one member: its path, the member's offset and length."""
    [place] = packing.tar(tmp_path / "shard.tar", {"clip.wav": files["clip.wav"].read_bytes()}).values()
    path, offset, size = place.rsplit(":", 2)
    return path, int(offset), int(size)


@pytest.mark.parametrize("name", ["absent.tar:512:10", "absent.zip:a.wav", "absent.hdf:0"])
def test_a_container_that_is_not_there_says_so(tmp_path: Path, name: str) -> None:
    assert "does not exist" in message_of(f"{tmp_path}/{name}")


@pytest.mark.parametrize("name", ["x.tar:512:10", "x.zip:a.wav", "x.hdf:0"])
def test_a_folder_in_place_of_a_container_says_so(tmp_path: Path, name: str) -> None:
    (tmp_path / name.split(":")[0]).mkdir()
    assert "lies in a folder" in message_of(f"{tmp_path}/{name}")


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", ["x.tar:512:10", "x.zip:a.wav", "x.hdf:0"])
def test_a_pipe_in_place_of_a_container_says_so(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name.split(":")[0])
    assert "lies in what is not a regular file" in message_of(f"{tmp_path}/{name}")


def test_a_member_of_no_bytes_says_so(shard: tuple[str, int, int]) -> None:
    assert "a length of 0 bytes" in message_of(f"{shard[0]}:{shard[1]}:0")


@pytest.mark.parametrize(("further", "longer"), [(1, 0), (0, 1), (512, 0), (-512, 0), (0, 10**9), (10**12, 0)])
def test_a_place_where_no_member_is_says_so(shard: tuple[str, int, int], further: int, longer: int) -> None:
    path, offset, size = shard
    place = f"{path}:{max(0, offset + further)}:{size + longer}"
    assert f"no member of {size + longer} bytes begins at byte" in message_of(place)


def test_a_tar_that_ends_too_early_says_so(shard: tuple[str, int, int]) -> None:
    path, offset, size = shard
    os.truncate(path, offset + size - 1)
    assert f"reaches to byte {offset + size} of a file of {offset + size - 1} bytes" in message_of(
        f"{path}:{offset}:{size}"
    )


def test_a_file_that_is_no_tar_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no tar at all\n" * 1000)
    assert "the file is no tar" in message_of(f"{tmp_path}/x.tar:512:1000")


@pytest.fixture
def zipped(tmp_path: Path, packing: SimpleNamespace, files: Files) -> Path:
    packing.zip(tmp_path / "clips.zip", {"a/clip.wav": files["clip.wav"].read_bytes()})
    return tmp_path / "clips.zip"


@pytest.mark.parametrize("name", ["b.wav", "a/", "a", "A/clip.wav"])
def test_a_member_that_a_zip_does_not_have_says_so(zipped: Path, name: str) -> None:
    assert f"has no member {name!r}" in message_of(f"{zipped}:{name}")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_zip_says_so(zipped: Path, share: float) -> None:
    os.truncate(zipped, int(share * zipped.stat().st_size))
    assert "is no zip, or truncated" in message_of(f"{zipped}:a/clip.wav")


def test_damage_in_a_zip_says_so(zipped: Path) -> None:
    content = bytearray(zipped.read_bytes())
    content[2000:2100] = bytes(100)
    zipped.write_bytes(content)
    assert "the member is truncated or damaged" in message_of(f"{zipped}:a/clip.wav")


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_whose_list_leads_elsewhere_says_so(
    tmp_path: Path, packing: SimpleNamespace, files: Files, kind: int
) -> None:
    path = tmp_path / "x.zip"
    packing.zip(path, {"clip.wav": files["clip.wav"].read_bytes()}, kind)
    content = bytearray(path.read_bytes())
    content[:4] = b"gone"
    path.write_bytes(content)
    assert "again" in message_of(f"{path}:clip.wav")


def test_an_encrypted_member_says_so(zipped: Path) -> None:
    content = bytearray(zipped.read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + place] |= 1
    zipped.write_bytes(content)
    assert "the member is encrypted" in message_of(f"{zipped}:a/clip.wav")


def test_an_unknown_way_of_packing_says_so(zipped: Path) -> None:
    content = bytearray(zipped.read_bytes())
    for signature, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(signature) + place] = 97
    zipped.write_bytes(content)
    assert "is packed in an unknown way" in message_of(f"{zipped}:a/clip.wav")


def test_what_is_no_audio_in_a_container_says_so(tmp_path: Path, packing: SimpleNamespace) -> None:
    members = {"page": b"<html>404</html>\n" * 50, "none": b"", "noise": np.random.default_rng(0).bytes(3000)}
    found = packing.zip(tmp_path / "x.zip", members)
    assert "holds text, not audio" in message_of(found["page"])
    assert "is empty (0 bytes)" in message_of(found["none"])
    assert "is no audio that libsndfile or FFmpeg can open" in message_of(found["noise"])


def test_a_row_beyond_the_last_says_so(places: Places) -> None:
    container = container_of(places["hdf5"]["clip.mp3"])
    count = len(places["hdf5"])
    assert f"has {count} rows, the last is {count - 1}" in message_of(f"{container}:{count}")


def test_an_hdf5_file_without_encoded_files_says_so(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["wav"] = np.zeros((2, 100))
    with h5py.File(tmp_path / "numbers.h5", "w") as file:
        file["mp3"] = np.zeros((2, 100))
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file.create_group("mp3")
    for name in ("other.h5", "numbers.h5", "group.h5"):
        assert "has no dataset 'mp3'" in message_of(f"{tmp_path}/{name}:0")


@pytest.mark.parametrize("content", [b"", b"text\n" * 100])
def test_a_file_that_is_no_hdf5_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.hdf").write_bytes(content)
    assert "is no HDF5, or truncated" in message_of(f"{tmp_path}/x.hdf:0")


def test_a_missing_library_names_the_extra_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.hdf").write_bytes(b"")
    original = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "h5py":
            raise ImportError(name)
        return original(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PlainError, match=r"pip install 'mae-ast-plugin\[hdf5\]'") as caught:
        read(f"{tmp_path}/x.hdf:0")
    assert not isinstance(caught.value, AudioError)  # such a clip must not be replaced by its neighbour


@pytest.mark.parametrize("name", ["clip.wav", "clip.mp3", "bare.mp3", "clip.mkv"])
def test_a_system_that_fails_to_read_is_an_error_and_not_an_end(
    places: Places, name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(archives, "WHOLE_BYTES", 0)
    original: Callable[..., int] = pool.OpenFile.read_into

    def failing(self: pool.OpenFile, target: memoryview, offset: int) -> int:
        handle = places["tar"][name].rsplit(":", 2)
        if offset + len(target) > int(handle[1]) + int(handle[2]) // 2:
            raise OSError(5, "Input/output error")
        return original(self, target, offset)

    monkeypatch.setattr(pool.OpenFile, "read_into", failing)
    with pytest.raises(AudioError, match="cannot be read: Input/output error"):
        read(places["tar"][name])
    assert "Traceback" not in capfd.readouterr().err
