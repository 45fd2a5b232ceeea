"""The tar command: what it lists of a shard, what it says of damaged ones, what it refuses."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mae_ast_plugin.audio.manifest import Manifest
from mae_ast_plugin.audio.reader import read
from manifests import members, tar
from manifests.__main__ import main
from manifests.output import find_out
from manifests.shards import key_of


def wav(num_samples: int = 80, rate: int = 8000, kind: str = "WAV") -> bytes:
    written = io.BytesIO()
    soundfile.write(written, np.full(num_samples, 0.1), rate, format=kind)
    return written.getvalue()


def make_shard(
    path: Path, members: Sequence[tuple[str, bytes]], kind: int = tarfile.PAX_FORMAT
) -> list[tarfile.TarInfo]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with tarfile.open(path) as archive:
        return archive.getmembers()


def zipped(members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return written.getvalue()


def run(shards: Path, out: Path, *options: str) -> int:
    return main(["tar", str(shards), "--out", str(out), "--jobs", "1", "--valid", "0", "--test", "0", *options])


def rows_of(path: Path) -> list[tuple[str, int, str | None]]:
    manifest = Manifest.load(path)
    return [(os.path.relpath(row.path, manifest.root), row.length, row.label) for row in manifest]


def problems_of(out: Path) -> dict[str, str]:
    return dict(line.split("\t") for line in (out / "unreadable.tsv").read_text().splitlines())


# ---------------------------------------------------------------------------------------------- what is listed


def test_each_row_is_the_clip_with_its_length_its_rate_and_its_label(tmp_path: Path) -> None:
    members = [("a.wav", wav(80)), ("a.json", b'{"label": "dog"}'), ("b.flac", wav(90, 16000, "FLAC"))]
    members += [("b.cls", b"7\n"), ("c.txt", b"a bird\n sings"), ("c.WAV", wav(100)), ("d.wav", wav(110))]
    infos = {info.name: info for info in make_shard(tmp_path / "s.tar", members)}
    assert run(tmp_path / "s.tar", tmp_path / "out") == 0
    manifest = Manifest.load(tmp_path / "out" / "train.tsv")
    expected = [("a.wav", 80, "dog"), ("b.flac", 90, "7"), ("c.WAV", 100, "a bird sings"), ("d.wav", 110, None)]
    assert rows_of(tmp_path / "out" / "train.tsv") == [
        (f"s.tar:{infos[name].offset_data}:{infos[name].size}", length, label) for name, length, label in expected
    ]
    assert manifest.sample_rates is not None and manifest.sample_rates.tolist() == [8000, 16000, 8000, 8000]
    for row in manifest:
        assert len(read(row.path)[0]) == row.length


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_odd_names_are_found(tmp_path: Path, kind: int) -> None:
    names = ["long/" * 60 + "name.wav", "ü日本.wav", "with space.wav", "./dot/folder.v1/x.wav", "co:lon.wav"]
    make_shard(tmp_path / "s.tar", [(name, wav(80 + index)) for index, name in enumerate(names)], kind)
    assert run(tmp_path / "s.tar", tmp_path / "out") == 0
    assert [length for _, length, _ in rows_of(tmp_path / "out" / "train.tsv")] == [80, 81, 82, 83, 84]


def test_a_dot_in_the_base_name_is_no_reason_to_lose_a_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = [("x.left.wav", wav(80)), ("x.right.wav", wav(90)), ("x.right.cls", b"of right"), ("x.cls", b"of key")]
    make_shard(tmp_path / "s.tar", members)
    assert run(tmp_path / "s.tar", tmp_path / "out") == 0
    assert [row[1:] for row in rows_of(tmp_path / "out" / "train.tsv")] == [(80, "of key"), (90, "of right")]
    assert "2 clips have a dot in their base name" in capsys.readouterr().out


def test_keys_without_audio_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_shard(tmp_path / "s.tar", [("a.wav", wav()), ("b.txt", b"text only"), ("c.jpg", b"picture")])
    assert run(tmp_path / "s.tar", tmp_path / "out") == 0
    assert len(rows_of(tmp_path / "out" / "train.tsv")) == 1
    assert "2 keys without audio were left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "key"),
    [("a.wav", "a"), ("a.b.wav", "a"), ("x.y/a.b.wav", "x.y/a"), (".hidden.wav", ".hidden"), ("x/plain", "x/plain")],
)
def test_a_key_is_what_stands_before_the_first_dot_of_the_base_name(name: str, key: str) -> None:
    assert key_of(name) == key


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_listed_by_the_names_of_its_members_with_labels(tmp_path: Path, kind: int) -> None:
    members = {"d/b.flac": wav(90, 16000, "FLAC"), "d/b.cls": b"7", "a ü.wav": wav(80), "a ü.json": b'{"label": "dog"}'}
    extra = {"d/": b"", "__MACOSX/d/._b.flac": b"none", "notes.txt": b"no clip"}
    (tmp_path / "s.zip").write_bytes(zipped(members | extra, kind))
    make_shard(tmp_path / "t.tar", [("c.wav", wav(70))])
    assert run(tmp_path, tmp_path / "out") == 0
    path = tmp_path / "out" / "train.tsv"
    assert rows_of(path)[:2] == [("s.zip:a ü.wav", 80, "dog"), ("s.zip:d/b.flac", 90, "7")]
    assert [row[1] for row in rows_of(path)[2:]] == [70]
    for row in Manifest.load(path):
        assert len(read(row.path)[0]) == row.length
    assert problems_of(tmp_path / "out") == {}


def test_what_is_wrong_in_a_zip_is_said(tmp_path: Path) -> None:
    members = {"good.wav": wav(), "good.json": b"{", "empty.wav": b"", "page.wav": b"<html>", "t\tab.wav": wav()}
    whole = zipped(members)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "s.zip").write_bytes(whole)
    (tmp_path / "in" / "cut.zip").write_bytes(whole[:-30])
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert [row[0] for row in rows_of(tmp_path / "out" / "train.tsv")] == ["s.zip:good.wav"]
    problems = problems_of(tmp_path / "out")
    for where, sentence in (
        ("cut.zip", "is truncated or damaged"),
        ("s.zip/empty.wav", "is empty"),
        ("s.zip/good.json", "holds no label"),
        ("s.zip/t\\tab.wav", "has a TAB"),
        ("s.zip:page.wav", "holds text, not audio"),
    ):
        assert sentence in problems.pop(where)
    assert problems == {}


def test_another_field_and_lists_of_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = [("a.wav", wav()), ("a.json", b'{"tags": ["x", 3], "label": "no"}'), ("b.wav", wav(90))]
    make_shard(tmp_path / "s.tar", [*members, ("b.json", b'{"tags": null}')])
    assert run(tmp_path / "s.tar", tmp_path / "out", "--label", "tags") == 0
    assert [row[2] for row in rows_of(tmp_path / "out" / "train.tsv")] == ["x,3", None]
    assert "1 clips have no label" in capsys.readouterr().out


def test_rows_follow_the_shards_and_then_the_places_in_them(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        make_shard(tmp_path / "in" / f"s-{number:02d}.tar", [(f"{index}.wav", wav(80 + index)) for index in range(30)])
    assert run(tmp_path / "in", tmp_path / "out") == 0
    rows = rows_of(tmp_path / "out" / "train.tsv")
    assert [name.split(":")[0] for name, _, _ in rows] == [f"s-{n:02d}.tar" for n in (1, 2, 10) for _ in range(30)]
    assert [length for _, length, _ in rows] == [*range(80, 110)] * 3


def test_the_manifest_does_not_depend_on_processes_nor_on_the_division_among_machines(tmp_path: Path) -> None:
    for number in range(6):
        members = [(f"{index}.wav", wav(80 + index)) for index in range(4)]
        make_shard(tmp_path / "in" / f"s{number}.tar", [*members, ("bad.wav", b"text")])
    whole = ["--valid", "0", "--test", "0", "--out"]
    for count in ("1", "2"):
        assert main(["tar", str(tmp_path / "in"), "--jobs", count, *whole, str(tmp_path / count)]) == 0
    for part in ("1", "2"):
        options = ["--shard", f"{part}/2", "--jobs", "1", *whole, str(tmp_path / f"part{part}")]
        assert main(["tar", str(tmp_path / "in"), *options]) == 0
    assert main(["merge", str(tmp_path / "part1"), str(tmp_path / "part2"), "--out", str(tmp_path / "merged")]) == 0
    for name in ("train.tsv", "train.rates", "unreadable.tsv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "merged" / name).read_bytes()
    assert len(rows_of(tmp_path / "part1" / "train.tsv")) not in (0, 24)


def test_interrupted_work_goes_on_and_reads_no_shard_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        make_shard(tmp_path / "in" / f"s{number}.tar", [("a.wav", wav(80 + number)), ("a.cls", b"%d" % number)])
    assert run(tmp_path / "in", tmp_path / "whole") == 0
    indexed, original = [], tar.read_shard

    def stop_at_the_fourth(path: str, field: str) -> object:
        if len(indexed) == 3:
            raise KeyboardInterrupt
        indexed.append(path)
        return original(path, field)

    monkeypatch.setattr(tar, "read_shard", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out" / "train.tsv").exists()
    monkeypatch.setattr(tar, "read_shard", lambda path, field: indexed.append(path) or original(path, field))

    def stop_after(*arguments: object, **options: object) -> None:
        find_out(*arguments, **options)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(members, "find_out", stop_after)
        run(tmp_path / "in", tmp_path / "out")
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert len(indexed) == len(set(indexed)) == 5
    for name in ("train.tsv", "train.rates", "unreadable.tsv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "out").glob(".*"))


def test_the_published_shards_give_their_keys_and_labels(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    case = Path(pytestconfig.getoption("--golden-dir")) / "dasheng" / "pipeline_shards"
    if not case.is_dir():
        pytest.skip(f"{case} is not there")
    assert run(case / "shards", tmp_path / "out") == 0
    crops = json.loads((case / "config.json").read_text())["sequence"]["with_json"]
    expected = {key: str(fields["label"]) for key, fields in zip(crops["keys"], crops["json"], strict=True)}
    found = {}
    for shard in sorted((case / "shards").glob("*.tar")):
        with tarfile.open(shard) as archive:
            found |= {f"{shard.name}:{info.offset_data}:{info.size}": key_of(info.name) for info in archive}
    rows = rows_of(tmp_path / "out" / "train.tsv")
    assert [(found[name], label) for name, _, label in rows] == list(expected.items())


# ---------------------------------------------------------------------------------------------- what is damaged


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    make_shard(tmp_path / "s.tar", [(f"{index}.wav", wav(800)) for index in range(3)])
    return tmp_path / "s.tar"


def cut(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:num_bytes])


SIZE = 2560  # of a member with its header, 1644 bytes of audio


@pytest.mark.parametrize(
    ("num_bytes", "num_clips", "where", "sentence"),
    [
        (2 * SIZE + 1000, 2, "s.tar/2.wav", "is cut off, the shard ends"),
        (2 * SIZE + 1000, 2, "s.tar", "is truncated or damaged (unexpected end of data)"),
        (2 * SIZE + 100, 2, "s.tar", "is cut off at byte 5220"),
        (2 * SIZE, 2, "s.tar", "has no end mark"),
    ],
)
def test_of_a_truncated_shard_the_complete_clips_are_kept_and_the_rest_is_said(
    shard: Path, tmp_path: Path, num_bytes: int, num_clips: int, where: str, sentence: str
) -> None:
    cut(shard, num_bytes)
    assert run(shard, tmp_path / "out") == 0
    assert len(rows_of(tmp_path / "out" / "train.tsv")) == num_clips
    assert sentence in problems_of(tmp_path / "out")[where]


def test_a_damaged_header_is_said_with_its_place(shard: Path, tmp_path: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[SIZE : SIZE + 100] = b"\xff" * 100
    shard.write_bytes(data)
    assert run(shard, tmp_path / "out") == 0
    assert len(rows_of(tmp_path / "out" / "train.tsv")) == 1
    assert f"is damaged at byte {SIZE}" in problems_of(tmp_path / "out")["s.tar"]


def test_a_shard_that_goes_on_behind_its_end_is_said(shard: Path, tmp_path: Path) -> None:
    shard.write_bytes(shard.read_bytes() * 2)
    assert run(shard, tmp_path / "out") == 0
    assert "goes on behind its end mark" in problems_of(tmp_path / "out")["s.tar"]


def test_what_is_wrong_with_single_members_is_said(tmp_path: Path) -> None:
    members = [("good.wav", wav()), ("empty.wav", b""), ("page.wav", b"<html>"), ("twice.wav", wav(80))]
    members += [("twice.wav", wav(90)), ("good.json", b"{"), ("twice.json", b'{"label": {"a": 1}}')]
    make_shard(tmp_path / "s.tar", members)
    with tarfile.open(tmp_path / "s.tar", "a") as archive:
        link = tarfile.TarInfo("link.wav")
        link.type, link.linkname = tarfile.SYMTYPE, "good.wav"
        archive.addfile(link)
    assert run(tmp_path / "s.tar", tmp_path / "out") == 0
    assert [length for _, length, _ in rows_of(tmp_path / "out" / "train.tsv")] == [80, 90]
    problems = problems_of(tmp_path / "out")
    assert "is empty (0 bytes)" in problems["s.tar/empty.wav"]
    assert "is replaced by a later member" in problems["s.tar/twice.wav"]
    assert "is a link to 'good.wav'" in problems["s.tar/link.wav"]
    assert "holds no label (Expecting property name" in problems["s.tar/good.json"]
    assert "neither text, nor a number" in problems["s.tar/twice.json"]
    (page,) = [reason for name, reason in problems.items() if name.startswith("s.tar:")]
    assert "holds text, not audio" in page and "(page.wav)" in page
    assert len(problems) == 6


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        (
            "s.tar",
            gzip.compress(b"x", mtime=0),
            "is compressed with gzip, so no clip in it can be reached alone: unpack it with",
        ),
        ("s.tar", b"\x28\xb5\x2f\xfd....", "is compressed with zstd"),
        ("s.tar.gz", gzip.compress(b"x", mtime=0), "s.tar.gz is compressed with gzip"),
        ("s.wds", b"no tar" * 100, "ends in neither .tar nor .zip"),
        ("s.tar", zipped({}), "is a zip file, and readers know it by its name: rename it to end in .zip"),
        ("s.zip", b"no zip" * 100, "does not begin as a zip file does"),
        ("s.zip", zipped({}), "no clip below"),
        ("s.tar", b"no tar" * 100, "is no tar (invalid header): copy it again"),
        ("s.tar", b"", "is no tar (empty header)"),
        ("s.tar", None, "cannot be read: No such file"),
        ("s.tar", bytes(10240), "no clip below"),
    ],
)
def test_what_is_no_plain_tar_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes | None, sentence: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    assert run(tmp_path / name, tmp_path / "out") == 2
    assert sentence in (errors := capsys.readouterr().err)
    assert errors.startswith("manifests: ") and "Traceback" not in errors


def test_a_folder_without_shards_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, tmp_path / "out") == 2
    assert "holds no file that ends in .tar or .zip" in capsys.readouterr().err


def test_a_field_that_no_clip_has_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_shard(tmp_path / "s.tar", [("a.wav", wav()), ("a.json", b'{"label": "x"}')])
    assert run(tmp_path / "s.tar", tmp_path / "out", "--label", "lable") == 2
    assert "has the field 'lable' of --label" in capsys.readouterr().err
