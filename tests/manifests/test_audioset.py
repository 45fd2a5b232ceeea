"""AudioSet: clips found by video id, lists as splits, several labels a clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from manifests.__main__ import main


def make_clip(path: Path, num_samples: int = 80) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(num_samples, 0.1), 8000)


HEADER = "# Segments csv created Sunday\n# num_ytids=3\n# YTID, start_seconds, end_seconds, positive_labels\n"
BALANCED = ["--4gqARaEJE", "Y_balanced_", "missing-abc"]
UNBALANCED = ["Yunbalanced", "0_unbalance"]
EVALUATION = ["eval-000000"]


def rows_of(videos: list[str], start: str = "30.000") -> str:
    return HEADER + "".join(f'{video}, {start}, 40.000, "/m/068hy,/t/dd00{len(video)}"\n' for video in videos)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "audioset"
    for name in (
        "balanced_train/Y--4gqARaEJE.wav",
        "balanced_train/Y_balanced_.flac",
        "unbalanced_train/part00/Yunbalanced_30_40.wav",
        "unbalanced_train/part01/0_unbalance_30000_40000.wav",
        "eval/Yeval-000000_30.000_40.000.wav",
    ):
        make_clip(folder / name)
    (folder / "balanced_train_segments.csv").write_text(rows_of(BALANCED))
    (folder / "unbalanced_train_segments.csv").write_text(rows_of(UNBALANCED))
    (folder / "eval_segments.csv").write_text(rows_of(EVALUATION))
    return folder


def run(folder: Path, out: Path, *options: str) -> int:
    return main(["audioset", str(folder), "--out", str(out), "--jobs", "1", *options])


def labels_of(out: Path, split: str) -> dict[str, str]:
    path = out / f"{split}.tsv"
    rows = (row.split("\t") for row in path.read_text().splitlines()[1:]) if path.exists() else ()
    return {name: label for name, _, label in rows}


def test_clips_are_found_by_video_however_they_are_named(corpus: Path, tmp_path: Path) -> None:
    assert run(corpus, tmp_path / "out") == 0
    assert set(labels_of(tmp_path / "out", "train")) == {
        "balanced_train/Y--4gqARaEJE.wav",
        "balanced_train/Y_balanced_.flac",
        "unbalanced_train/part00/Yunbalanced_30_40.wav",
        "unbalanced_train/part01/0_unbalance_30000_40000.wav",
    }
    assert labels_of(tmp_path / "out", "test") == {"eval/Yeval-000000_30.000_40.000.wav": "/m/068hy,/t/dd0011"}


def test_a_video_that_is_not_there_is_counted_and_named(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(corpus, tmp_path / "out")
    assert "1 missing or misplaced, 0 unreadable" in capsys.readouterr().out
    reasons = (tmp_path / "out" / "unreadable.tsv").read_text()
    assert reasons.startswith("missing-abc\tis listed in balanced_train_segments.csv and is not there")


def test_files_of_no_listed_segment_and_second_copies_are_counted(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_clip(corpus / "more" / "Y--4gqARaEJE.wav")
    make_clip(corpus / "more" / "notes-and-more.wav")
    make_clip(corpus / "more" / "unknown-abc.wav")
    assert run(corpus, tmp_path / "out") == 0
    assert f"3 files below {corpus} are of no listed segment" in capsys.readouterr().out
    assert "balanced_train/Y--4gqARaEJE.wav" in labels_of(tmp_path / "out", "train")


@pytest.mark.parametrize(("stated", "found"), [("30", 1), ("30.4", 1), ("30000", 1), ("0", 0), ("40", 0), ("40000", 0)])
def test_another_segment_of_the_same_video_does_not_get_its_labels(tmp_path: Path, stated: str, found: int) -> None:
    make_clip(tmp_path / "clips" / f"Yunbalanced_{stated}_1.wav")
    make_clip(tmp_path / "clips" / "eval-000000.wav")
    (tmp_path / "clips" / "unbalanced_train_segments.csv").write_text(rows_of(["Yunbalanced"]))
    (tmp_path / "clips" / "eval_segments.csv").write_text(rows_of(["eval-000000"]))
    assert run(tmp_path / "clips", tmp_path / "out") == 0
    assert len(labels_of(tmp_path / "out", "train")) == found


def test_the_balanced_set_alone_can_be_trained_on(corpus: Path, tmp_path: Path) -> None:
    assert run(corpus, tmp_path / "out", "--train", "balanced") == 0
    assert len(labels_of(tmp_path / "out", "train")) == 2
    assert len(labels_of(tmp_path / "out", "test")) == 1


def test_validation_takes_a_share_of_train_and_leaves_test_alone(corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path / "all")
    assert run(corpus, tmp_path / "out", "--valid", "0.5", "--seed", "1") == 0
    train, valid = (labels_of(tmp_path / "out", split) for split in ("train", "valid"))
    assert train and valid
    assert train | valid == labels_of(tmp_path / "all", "train")
    assert labels_of(tmp_path / "out", "test") == labels_of(tmp_path / "all", "test")


def test_lists_may_lie_elsewhere(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    for path in corpus.glob("*.csv"):
        path.rename(tmp_path / "lists" / path.name)
    assert run(corpus, tmp_path / "out", "--lists", str(tmp_path / "lists")) == 0
    assert len(labels_of(tmp_path / "out", "train")) == 4


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--train", "half"], "--train half: give balanced, unbalanced or both"),
        (["--valid", "1"], "--valid 1.0 leaves nothing to train on"),
        (["--lists", "/nowhere"], "/nowhere has none of balanced_train_segments.csv"),
    ],
)
def test_impossible_options_are_refused(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert run(corpus, tmp_path / "out", *options) == 2
    assert sentence in capsys.readouterr().err


def test_a_set_without_its_list_is_refused(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus / "unbalanced_train_segments.csv").unlink()
    assert run(corpus, tmp_path / "out", "--train", "balanced,unbalanced") == 2
    assert f"--train unbalanced: {corpus} has no unbalanced_train_segments.csv" in capsys.readouterr().err


@pytest.mark.parametrize("row", ["abcdefghijk, 30.000, 40.000", 'abcdefghijk, soon, 40.000, "/m/1"'])
def test_a_damaged_list_is_refused_with_its_line(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], row: str
) -> None:
    (corpus / "eval_segments.csv").write_text(HEADER + row + "\n")
    assert run(corpus, tmp_path / "out") == 2
    assert 'eval_segments.csv line 4: expected YTID, start, end, "labels" and found' in capsys.readouterr().err


def test_a_video_in_two_lists_is_refused(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus / "eval_segments.csv").write_text(rows_of(BALANCED))
    assert run(corpus, tmp_path / "out") == 2
    assert "is listed twice by AudioSet, for train and for test" in capsys.readouterr().err
