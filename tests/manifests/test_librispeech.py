"""LibriSpeech: parts as splits, speakers as labels, transcripts as the list of what should be there."""

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
    folder = tmp_path / "LibriSpeech"
    for part, speaker in (("train-clean-100", 19), ("train-other-500", 20), ("dev-clean", 84), ("test-other", 367)):
        chapter = folder / part / str(speaker) / "7"
        for number in range(2):
            make_clip(chapter / f"{speaker}-7-000{number}.flac")
        (chapter / f"{speaker}-7.trans.txt").write_text(f"{speaker}-7-0000 HELLO THERE\n{speaker}-7-0001 YES\n")
    return folder


def run(folder: Path, out: Path, *options: str) -> int:
    return main(["librispeech", str(folder), "--out", str(out), "--jobs", "1", *options])


def labels_of(out: Path, split: str) -> dict[str, str]:
    path = out / f"{split}.tsv"
    rows = (row.split("\t") for row in path.read_text().splitlines()[1:]) if path.exists() else ()
    return {name: label for name, _, label in rows}


def test_parts_become_splits_and_speakers_labels(corpus: Path, tmp_path: Path) -> None:
    assert run(corpus, tmp_path / "out") == 0
    assert labels_of(tmp_path / "out", "train") == {
        "train-clean-100/19/7/19-7-0000.flac": "19",
        "train-clean-100/19/7/19-7-0001.flac": "19",
        "train-other-500/20/7/20-7-0000.flac": "20",
        "train-other-500/20/7/20-7-0001.flac": "20",
    }
    assert set(labels_of(tmp_path / "out", "valid").values()) == {"84"}
    assert set(labels_of(tmp_path / "out", "test").values()) == {"367"}
    assert (tmp_path / "out" / "unreadable.tsv").read_bytes() == b""


def test_parts_can_be_chosen(corpus: Path, tmp_path: Path) -> None:
    assert run(corpus, tmp_path / "out", "--train", "train-clean-100,dev-clean", "--valid", "", "--test", "") == 0
    assert set(labels_of(tmp_path / "out", "train").values()) == {"19", "84"}
    assert labels_of(tmp_path / "out", "valid") == labels_of(tmp_path / "out", "test") == {}


def test_an_utterance_with_a_transcript_and_no_audio_is_missing(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "dev-clean" / "84" / "7" / "84-7-0001.flac").unlink()
    make_clip(corpus / "dev-clean" / "84" / "7" / "noise.wav")
    assert run(corpus, tmp_path / "out") == 0
    assert "2 missing or misplaced, 0 unreadable" in capsys.readouterr().out
    reasons = dict(line.split("\t") for line in (tmp_path / "out" / "unreadable.tsv").read_text().splitlines())
    listed = "is listed in dev-clean/84/7/84-7.trans.txt and is not there"
    assert reasons["dev-clean/84/7/84-7-0001.flac"].startswith(listed)
    assert reasons["dev-clean/84/7/noise.wav"].startswith("is not named SPEAKER-CHAPTER-NUMBER")


def test_clips_of_another_format_are_the_same_utterances(corpus: Path, tmp_path: Path) -> None:
    for path in corpus.rglob("*.flac"):
        make_clip(path.with_suffix(".wav"))
        path.unlink()
    assert run(corpus, tmp_path / "out") == 0
    assert len(labels_of(tmp_path / "out", "train")) == 4
    assert (tmp_path / "out" / "unreadable.tsv").read_bytes() == b""


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--train", "train-clean"],
            "--train train-clean: {} has no such folder, it has dev-clean, test-other, train-c",
        ),
        (["--valid", "test-other"], "test-other is given for valid and for test: give it once"),
        (
            ["--train", "", "--valid", "", "--test", ""],
            "{} is not LibriSpeech as it is published: it has none of train",
        ),
    ],
)
def test_parts_that_cannot_be_are_refused(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert run(corpus, tmp_path / "out", *options) == 2
    assert sentence.format(corpus) in capsys.readouterr().err
