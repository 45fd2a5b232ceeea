"""FSD50K: the two sets, their splits and several labels a clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from mae_ast_plugin.evaluation.labels import read_labelled
from manifests.__main__ import main


def make_clip(path: Path, num_samples: int = 80) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(num_samples, 0.1), 8000)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "FSD50K"
    for name in ("dev_audio/1.wav", "dev_audio/2.wav", "eval_audio/3.wav"):
        make_clip(folder / f"FSD50K.{name}")
    (folder / "FSD50K.ground_truth").mkdir()
    (folder / "FSD50K.ground_truth" / "dev.csv").write_text(
        'fname,labels,mids,split\n1,"Dog,Keyboard_(musical)","/m/1,/m/2",train\n2,Dog,/m/1,val\n'
    )
    (folder / "FSD50K.ground_truth" / "eval.csv").write_text('fname,labels,mids\n3,"Bark,Dog","/m/3,/m/1"\n')
    return folder


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ([], [("Dog", "Keyboard_(musical)"), ("Dog",), ("Bark", "Dog")]),
        (["--mids"], [("/m/1", "/m/2"), ("/m/1",), ("/m/3", "/m/1")]),
    ],
)
def test_the_sets_become_splits_and_every_clip_keeps_all_its_labels(
    corpus: Path, tmp_path: Path, options: list[str], labels: list[tuple[str, ...]]
) -> None:
    assert main(["fsd50k", str(corpus), "--out", str(tmp_path / "out"), "--jobs", "1", *options]) == 0
    splits = [read_labelled(tmp_path / "out" / f"{split}.tsv") for split in ("train", "valid", "test")]
    names = ["FSD50K.dev_audio/1.wav", "FSD50K.dev_audio/2.wav", "FSD50K.eval_audio/3.wav"]
    assert [split.clips[0].name for split in splits] == names
    assert [split.labels for split in splits] == [[label] for label in labels]


def test_a_set_that_was_not_fetched_is_missing_and_the_other_is_written(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "FSD50K.eval_audio" / "3.wav").unlink()
    assert main(["fsd50k", str(corpus), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "1 missing" in printed and "test: no clips" in printed and "train: 1 clips" in printed


def test_another_split_is_refused_with_its_line(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "FSD50K.ground_truth" / "dev.csv").write_text("fname,labels,mids,split\n1,Dog,/m/1,test\n")
    assert main(["fsd50k", str(corpus), "--out", str(tmp_path / "out")]) == 2
    assert "dev.csv line 2: the split is 'test', expected train or val: mend the line" in capsys.readouterr().err
