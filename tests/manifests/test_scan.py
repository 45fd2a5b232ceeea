"""The scan command: what it lists, how it splits, what it says when something is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mae_ast_plugin.audio.listing import find_files
from mae_ast_plugin.audio.manifest import Manifest, ManifestError
from manifests import jobs
from manifests.__main__ import main
from manifests.splits import SPLITS, choose_splits


def make_clip(path: str | Path, seconds: float = 0.01, rate: int = 8000) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as handle:
        soundfile.write(handle, np.zeros(int(seconds * rate)) + 0.1, rate, format="WAV")


def names_of(path: Path) -> list[str]:
    lines = path.read_bytes().split(b"\n")[1:-1]
    return [os.fsdecode(line.split(b"\t")[0]) for line in lines]


def run(folder: Path, out: Path, *options: str) -> int:
    return main(["scan", str(folder), "--out", str(out), "--jobs", "1", *options])


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    for index in range(20):
        make_clip(folder / f"part{index % 3}" / f"clip{index:02d}.wav", seconds=0.01 + index / 1000, rate=8000 + index)
    return folder


def test_the_splits_hold_every_clip_once_with_its_length_and_rate(clips: Path, tmp_path: Path) -> None:
    assert run(clips, tmp_path / "out", "--valid", "0.2", "--test", "0.2") == 0
    found = {}
    for split in SPLITS:
        manifest = Manifest.load(tmp_path / "out" / f"{split}.tsv")
        assert manifest.root == str(clips)
        assert manifest.sample_rates is not None
        for row, rate in zip(manifest, manifest.sample_rates, strict=True):
            assert row.path not in found
            found[row.path] = (row.length, rate)
    assert len(found) == 20
    for path, (length, rate) in found.items():
        info = soundfile.info(path)
        assert (info.frames, info.samplerate) == (length, rate)
    assert (tmp_path / "out" / "unreadable.tsv").read_bytes() == b""


def test_the_manifest_does_not_depend_on_the_number_of_processes(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clips / "broken.wav").write_text("text")
    monkeypatch.setattr(jobs, "ITEMS_PER_TASK", 2)
    for count in ("1", "2"):
        assert main(["scan", str(clips), "--out", str(tmp_path / count), "--jobs", count]) == 0
    for name in ("train.tsv", "valid.tsv", "test.tsv", "train.rates", "unreadable.tsv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_rows_stand_in_the_order_of_their_paths(clips: Path, tmp_path: Path) -> None:
    run(clips, tmp_path / "out")
    names = names_of(tmp_path / "out" / "train.tsv")
    assert names == sorted(names)


def test_a_relative_folder_becomes_an_absolute_root(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["scan", "clips", "--out", "out", "--jobs", "1"]) == 0
    assert Manifest.load("out/train.tsv").root == str(clips)


# ---------------------------------------------------------------------------------------------- splits


def test_a_clip_keeps_its_split_when_others_are_added() -> None:
    names = [f"clip{index}.wav" for index in range(2000)]
    before = choose_splits(names[:1000], 0.1, 0.1, seed=7)
    after = choose_splits(names, 0.1, 0.1, seed=7)
    for split in SPLITS:
        assert set(before[split]) <= set(after[split])


def test_the_shares_are_about_those_asked_for_and_the_seed_matters() -> None:
    names = [f"clip{index}.wav" for index in range(5000)]
    splits = choose_splits(names, 0.2, 0.1, seed=0)
    assert abs(len(splits["valid"]) / 5000 - 0.2) < 0.03
    assert abs(len(splits["test"]) / 5000 - 0.1) < 0.03
    assert splits["valid"] != choose_splits(names, 0.2, 0.1, seed=1)["valid"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("valid", "test"), [(0.01, 0.01), (0.5, 0.49), (0.99, 0.0), (0.0, 0.99)])
@pytest.mark.parametrize("num_clips", [1, 2, 3, 10])
def test_a_tiny_corpus_has_clips_to_train_on_and_then_to_validate(
    num_clips: int, valid: float, test: float, seed: int
) -> None:
    names = [f"{index}.wav" for index in range(num_clips)]
    splits = choose_splits(names, valid, test, seed)
    assert sorted(name for split in splits.values() for name in split) == sorted(names)
    assert splits["train"]
    num_requested = 1 + (valid > 0) + (test > 0)
    if num_clips >= 3:
        assert sum(1 for split in splits.values() if split) == num_requested
    elif num_clips == 2 and not splits["test"]:
        assert splits["valid"]


def test_an_empty_split_is_written_and_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_clip(tmp_path / "clips" / "only.wav")
    assert run(tmp_path / "clips", tmp_path / "out") == 0
    assert "valid: too few clips for this split" in capsys.readouterr().out
    assert names_of(tmp_path / "out" / "train.tsv") == ["only.wav"]
    with pytest.raises(ManifestError, match="has no rows"):
        Manifest.load(tmp_path / "out" / "valid.tsv")


def test_a_split_that_is_not_requested_is_left_alone(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(clips, tmp_path / "out")
    before = (tmp_path / "out" / "valid.tsv").read_bytes()
    assert run(clips, tmp_path / "out", "--valid", "0", "--test", "0") == 0
    assert (tmp_path / "out" / "valid.tsv").read_bytes() == before
    assert len(Manifest.load(tmp_path / "out" / "train.tsv")) == 20
    assert "valid: not requested" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- what is found


@pytest.mark.parametrize(
    "name", [b"with space.wav", "ü日本.WAV".encode(), b"latin\xe9.wav", b"-dash.wav", b"ca\rr.wav"]
)
def test_odd_names_are_listed_and_can_be_read_back(tmp_path: Path, name: bytes) -> None:
    path = os.path.join(tmp_path, "clips", os.fsdecode(name))
    make_clip(path)
    assert run(tmp_path / "clips", tmp_path / "out") == 0
    assert Manifest.load(tmp_path / "out" / "train.tsv")[0].path == path


def test_what_cannot_be_read_is_listed_with_its_reason(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clips / "empty.wav").touch()
    (clips / "page.wav").write_text("<html>")
    (clips / "nowhere.wav").symlink_to(clips / "absent")
    os.mkfifo(clips / "pipe.wav")
    make_clip(os.path.join(clips, "tab\tin name.wav"))
    make_clip(os.path.join(clips, "line\nin name.wav"))
    assert run(clips, tmp_path / "out") == 0
    lines = (tmp_path / "out" / "unreadable.tsv").read_text().splitlines()
    reasons = dict(line.split("\t") for line in lines)
    assert "is empty (0 bytes)" in reasons["empty.wav"]
    assert "holds text" in reasons["page.wav"]
    assert reasons["nowhere.wav"] == "is a link that leads nowhere"
    assert reasons["pipe.wav"] == "is not a regular file"
    assert "has a TAB or a line break" in reasons["tab\\tin name.wav"]
    assert "has a TAB or a line break" in reasons["line\\nin name.wav"]
    assert "6 unreadable" in capsys.readouterr().out
    assert sum(len(names_of(tmp_path / "out" / f"{split}.tsv")) for split in SPLITS) == 20


def test_links_are_followed_and_loops_end(clips: Path, tmp_path: Path) -> None:
    make_clip(tmp_path / "elsewhere" / "far.wav")
    (clips / "a_link_outside").symlink_to(tmp_path / "elsewhere")
    (clips / "a_link_inside").symlink_to(clips / "part0")
    (clips / "part1" / "loop").symlink_to(clips)
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    (clips / "self").symlink_to(clips / "self")
    unreadable: dict[str, str] = {}
    names = list(find_files(str(clips), (".wav",), unreadable))
    assert len(names) == len(set(names)) == 21
    assert "a_link_outside/far.wav" in names
    assert not any(name.startswith("a_link_inside") for name in names)
    assert unreadable == {}


def test_clips_outside_the_limits_of_length_are_counted(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_clip(clips / "short.wav", seconds=0.001)
    make_clip(clips / "long.wav", seconds=0.5)
    assert run(clips, tmp_path / "out", "--min-seconds", "0.005", "--max-seconds", "0.2") == 0
    assert "0 unreadable" in (printed := capsys.readouterr().out)
    assert "1 too short, 1 too long" in printed
    assert "train: " in printed and "hours in" in printed


def test_only_the_asked_endings_are_listed(clips: Path, tmp_path: Path) -> None:
    (clips / "notes.txt").write_text("no audio")
    soundfile.write(clips / "a.flac", np.zeros(100), 8000)
    assert run(clips, tmp_path / "out", "--ext", ".FLAC, ogg") == 0
    assert names_of(tmp_path / "out" / "train.tsv") == ["a.flac"]


# ---------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--valid", "0.6", "--test", "0.4"], "leave nothing to train on"),
        (["--valid", "-0.1"], "leave nothing to train on"),
        (["--valid", "nan"], "leave nothing to train on"),
        (["--min-seconds", "5", "--max-seconds", "1"], "--min-seconds 5.0 must lie between"),
        (["--jobs", "0"], "--jobs 0 is too few"),
        (["--ext", "xyz"], "holds no file that ends in .xyz"),
        (["--min-seconds", "100"], "no clip below"),
    ],
)
def test_a_mistake_is_one_sentence_and_the_code_2(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert run(clips, tmp_path / "out", *options) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("manifests: ")
    assert sentence in errors
    assert "Traceback" not in errors


def test_a_folder_that_does_not_exist_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "absent", tmp_path / "out") == 2
    assert "is not a folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_readable_is_one_sentence_and_still_lists_the_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "empty.wav").touch()
    assert run(tmp_path / "clips", tmp_path / "out") == 2
    assert "no clip below" in capsys.readouterr().err
    assert b"empty.wav\tis empty" in (tmp_path / "out" / "unreadable.tsv").read_bytes()
    assert not (tmp_path / "out" / "train.tsv").exists()


def test_an_output_that_is_no_folder_is_one_sentence(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("a file")
    assert run(clips, tmp_path / "out") == 2
    assert "choose another --out" in capsys.readouterr().err
