"""ESC-50: folds as splits."""

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
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in range(1, 6):
        make_clip(tmp_path / "ESC-50" / "audio" / f"{fold}-1-A-0.wav")
        rows.append(f"{fold}-1-A-0.wav,{fold},0,dog,True,1,A")
    (tmp_path / "ESC-50" / "meta").mkdir()
    (tmp_path / "ESC-50" / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "ESC-50"


def folds_of(out: Path, split: str) -> list[str]:
    path = out / f"{split}.tsv"
    return [row.split("/")[1][0] for row in path.read_text().splitlines()[1:]] if path.exists() else []


@pytest.mark.parametrize(
    ("options", "folds"),
    [
        ([], [["1", "2", "3"], ["4"], ["5"]]),
        (["--test-fold", "1", "--valid-fold", "2"], [["3", "4", "5"], ["2"], ["1"]]),
        (["--valid-fold", "0"], [["1", "2", "3", "4"], [], ["5"]]),
        (["--valid-fold", "0", "--test-fold", "0"], [["1", "2", "3", "4", "5"], [], []]),
    ],
)
def test_folds_become_splits(corpus: Path, tmp_path: Path, options: list[str], folds: list[list[str]]) -> None:
    assert main(["esc50", str(corpus), "--out", str(tmp_path / "out"), "--jobs", "1", *options]) == 0
    assert [folds_of(tmp_path / "out", split) for split in ("train", "valid", "test")] == folds


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--test-fold", "6"], "--test-fold 6: ESC-50 has the folds 1 to 5"),
        (["--valid-fold", "-1"], "--valid-fold -1: ESC-50 has the folds 1 to 5"),
        (["--test-fold", "4"], "--test-fold and --valid-fold are both 4: give two folds"),
    ],
)
def test_impossible_folds_are_refused(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert main(["esc50", str(corpus), "--out", str(tmp_path / "out"), *options]) == 2
    assert sentence in capsys.readouterr().err
