"""Speech Commands: words as labels, lists as splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from manifests.__main__ import main


def make_clip(path: Path, num_samples: int = 80) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(num_samples, 0.1), 8000)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "commands"
    for word in ("yes", "no", "cat"):
        for speaker in ("aa", "bb", "cc"):
            make_clip(folder / word / f"{speaker}_nohash_0.wav")
    make_clip(folder / "_background_noise_" / "pink.wav", 800)
    (folder / "validation_list.txt").write_text("yes/bb_nohash_0.wav\ncat/bb_nohash_0.wav\n")
    (folder / "testing_list.txt").write_text("yes/cc_nohash_0.wav\nno/cc_nohash_0.wav\n")
    return folder


def labels_of(out: Path, split: str) -> dict[str, str]:
    rows = (row.split("\t") for row in (out / f"{split}.tsv").read_text().splitlines()[1:])
    return {name: label for name, _, label in rows}


def test_the_lists_are_the_splits_and_the_noise_is_left_out(corpus: Path, tmp_path: Path) -> None:
    assert main(["speechcommands", str(corpus), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    assert labels_of(tmp_path / "out", "valid") == {"yes/bb_nohash_0.wav": "yes", "cat/bb_nohash_0.wav": "cat"}
    assert labels_of(tmp_path / "out", "test") == {"yes/cc_nohash_0.wav": "yes", "no/cc_nohash_0.wav": "no"}
    assert labels_of(tmp_path / "out", "train") == {
        "cat/aa_nohash_0.wav": "cat",
        "cat/cc_nohash_0.wav": "cat",
        "no/aa_nohash_0.wav": "no",
        "no/bb_nohash_0.wav": "no",
        "yes/aa_nohash_0.wav": "yes",
    }


def test_clips_of_another_format_stay_in_their_split(corpus: Path, tmp_path: Path) -> None:
    for path in corpus.glob("[ync]*/*.wav"):
        make_clip(path.with_suffix(".flac"))
        path.unlink()
    assert main(["speechcommands", str(corpus), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    assert sorted(labels_of(tmp_path / "out", "test")) == ["no/cc_nohash_0.flac", "yes/cc_nohash_0.flac"]
    assert (tmp_path / "out" / "unreadable.tsv").read_bytes() == b""


def test_words_that_are_not_asked_for_are_unknown(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["speechcommands", str(corpus), "--out", str(out), "--jobs", "1", "--words", "yes, no"]) == 0
    assert labels_of(out, "valid") == {"yes/bb_nohash_0.wav": "yes", "cat/bb_nohash_0.wav": "unknown"}


def test_a_listed_clip_that_is_not_there_is_named(corpus: Path, tmp_path: Path) -> None:
    (corpus / "no" / "cc_nohash_0.wav").unlink()
    assert main(["speechcommands", str(corpus), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    reasons = (tmp_path / "out" / "unreadable.tsv").read_text()
    assert reasons.startswith("no/cc_nohash_0.wav\tis listed in validation_list.txt or testing_list.txt and is not")


def test_a_word_that_is_not_there_is_refused(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speechcommands", str(corpus), "--out", str(tmp_path / "out"), "--words", "yes,dog"]) == 2
    assert f"--words: {corpus} has no folder 'dog', it has cat, no, yes" in capsys.readouterr().err


def test_a_clip_in_both_lists_is_refused_with_its_line(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "testing_list.txt").write_text("no/cc_nohash_0.wav\nyes/bb_nohash_0.wav\n")
    assert main(["speechcommands", str(corpus), "--out", str(tmp_path / "out")]) == 2
    sentence = "testing_list.txt line 2: yes/bb_nohash_0.wav is in validation_list.txt too: remove it"
    assert sentence in capsys.readouterr().err


def test_a_folder_without_words_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("validation_list.txt", "testing_list.txt"):
        (tmp_path / name).touch()
    (tmp_path / "_background_noise_").mkdir()
    assert main(["speechcommands", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "it has no folder of a word" in capsys.readouterr().err
