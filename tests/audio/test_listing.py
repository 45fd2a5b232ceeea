"""Folders, manifests and files become one list of clips, in the order given; what is not there is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mae_ast_plugin.audio.listing import EXTENSIONS, Listed, list_clips
from mae_ast_plugin.audio.manifest import ManifestError, write_manifest
from mae_ast_plugin.errors import PlainError

NAMES = ("b.wav", "a.flac", "notes.txt", "sub/c.WAV", "sub/deeper/d.mp3", "sub/e", "wav")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "clips"


def names(clips: list[Listed]) -> list[str]:
    return [clip.name for clip in clips]


def test_a_folder_gives_its_audio_files_by_their_endings(folder: Path) -> None:
    clips = list_clips([folder])
    assert names(clips) == ["a.flac", "b.wav", "sub/c.WAV", "sub/deeper/d.mp3"]
    assert [clip.path for clip in clips] == [str(folder / name) for name in names(clips)]
    assert {clip.label for clip in clips} == {None}


def test_every_ending_is_found_in_either_case(tmp_path: Path) -> None:
    endings = EXTENSIONS.split(",")
    for ending in endings:
        (tmp_path / f"low.{ending}").touch()
        (tmp_path / f"high.{ending.upper()}").touch()
    assert len(list_clips([tmp_path])) == 2 * len(endings)


def test_the_list_does_not_depend_on_how_the_folder_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    for given in ("clips", "clips/", "./clips", str(folder), folder):
        assert names(list_clips([given])) == names(list_clips([folder]))
        assert names(list_clips(given)) == names(list_clips([folder]))  # one, not the letters of its name


def test_a_manifest_gives_its_rows_with_their_labels(folder: Path) -> None:
    manifest = folder.parent / "train.tsv"
    rows = [("sub/c.WAV", 10), ("b.wav", 20), ("not/there.wav", 30), ("b.wav", 20)]
    write_manifest(manifest, folder, rows, labels=["x", "y", None, "z"])
    clips = list_clips([manifest])
    assert names(clips) == [name for name, _ in rows]
    assert [clip.label for clip in clips] == ["x", "y", None, "z"]
    assert clips[0].path == str(folder / "sub/c.WAV")


def test_a_manifest_without_labels_has_none(folder: Path) -> None:
    write_manifest(folder.parent / "valid.TSV", folder, [("b.wav", 20)])
    assert list_clips([folder.parent / "valid.TSV"]) == [Listed("b.wav", str(folder / "b.wav"), None)]


def test_a_file_by_name_is_taken_whatever_its_ending(folder: Path) -> None:
    path = folder / "sub" / "e"
    assert list_clips([path]) == [Listed(str(path), str(path), None)]


def test_parts_of_containers_keep_their_names(folder: Path) -> None:
    (folder / "shard.tar").touch()
    names_in = ["shard.tar:512:4000", "sub/clips.zip:a b/c.flac", "clips.hdf:12", "/abs/clips.zip:../odd"]
    write_manifest(folder.parent / "m.tsv", folder, [(name, 10) for name in names_in])
    clips = list_clips([folder.parent / "m.tsv"])
    assert [clip.path for clip in clips] == [os.path.join(folder, name) for name in names_in]
    assert names(clips)[:3] == names_in[:3]
    [alone] = list_clips([f"{folder}/shard.tar:512:4000"])
    assert alone.path == f"{folder}/shard.tar:512:4000"
    with pytest.raises(PlainError, match="does not exist"):
        list_clips([f"{folder}/absent.tar:512:4000"])


def test_inputs_follow_each_other(folder: Path) -> None:
    write_manifest(folder.parent / "m.tsv", folder, [("b.wav", 20)], labels=["x"])
    clips = list_clips([folder / "b.wav", folder / "sub", str(folder.parent / "m.tsv"), folder / "b.wav"])
    assert names(clips) == [str(folder / "b.wav"), "c.WAV", "deeper/d.mp3", "b.wav", str(folder / "b.wav")]


def test_links_are_followed_once_and_loops_end(folder: Path) -> None:
    (folder / "again").symlink_to(folder)
    (folder / "sub" / "up").symlink_to("..")
    (folder / "other.wav").symlink_to(folder / "b.wav")
    assert names(list_clips([folder])) == ["a.flac", "b.wav", "other.wav", "sub/c.WAV", "sub/deeper/d.mp3"]


def test_a_linked_folder_outside_is_listed_behind_the_others(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "f.wav").touch()
    (folder / "0").symlink_to(tmp_path / "outside")
    assert names(list_clips([folder]))[-1] == "0/f.wav"


def test_what_cannot_be_read_is_listed_too_for_the_reader_to_say_why(folder: Path) -> None:
    (folder / "broken.wav").symlink_to("nowhere.wav")
    os.mkfifo(folder / "pipe.wav")
    listed = names(list_clips([folder]))
    assert sorted(listed[-2:]) == ["broken.wav", "pipe.wav"] and len(listed) == 6


@pytest.mark.parametrize("name", ["absent", "absent.wav", "absent.tsv"])
def test_what_does_not_exist_is_refused_by_its_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(PlainError, match=rf"{name} does not exist: correct the path"):
        list_clips([tmp_path / name])


def test_a_link_that_leads_nowhere_is_refused_where_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.wav").symlink_to("nowhere.wav")
    with pytest.raises(PlainError, match=r"broken\.wav does not exist"):
        list_clips([tmp_path / "broken.wav"])


def test_a_folder_without_audio_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "text.txt").touch()
    with pytest.raises(PlainError, match=r"holds no file that ends in wav,flac,"):
        list_clips([tmp_path])


def test_no_inputs_are_refused() -> None:
    with pytest.raises(PlainError, match="nothing to read"):
        list_clips([])


def test_a_wrong_manifest_is_refused_with_its_line(folder: Path) -> None:
    (folder / "bad.tsv").write_text(f"{folder}\nb.wav\t20\nb.wav twenty\n")
    with pytest.raises(ManifestError, match="line 3"):
        list_clips([folder / "bad.tsv"])
