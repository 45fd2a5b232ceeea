"""What every corpus' command does with the clips that its layout lists: written, counted, refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mae_ast_plugin.audio.manifest import Manifest
from mae_ast_plugin.evaluation.labels import check_known, read_labelled
from manifests import output
from manifests.__main__ import main
from manifests.csv_lists import read_columns

COMMANDS = ["librispeech", "audioset", "esc50", "speechcommands", "fsd50k"]
CATEGORIES = ["dog", "rain"]


def make_clip(path: Path, num_samples: int = 80) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(num_samples, 0.1), 8000)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """ESC-50 with two clips in every fold."""
    folder = tmp_path / "esc"
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in range(1, 6):
        for target, category in enumerate(CATEGORIES):
            name = f"{fold}-7-A-{target}.wav"
            make_clip(folder / "audio" / name, 80 + fold)
            rows.append(f"{name},{fold},{target},{category},True,7,A")
    (folder / "meta").mkdir()
    (folder / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")
    return folder


def run(folder: Path, out: Path, *options: str) -> int:
    return main(["esc50", str(folder), "--out", str(out), "--jobs", "1", *options])


def rows_of(out: Path, split: str) -> list[str]:
    return (out / f"{split}.tsv").read_text().splitlines()[1:]


def test_every_split_has_its_clips_with_length_rate_and_label_in_order_of_names(corpus: Path, tmp_path: Path) -> None:
    assert run(corpus, tmp_path / "out") == 0
    assert rows_of(tmp_path / "out", "valid") == ["audio/4-7-A-0.wav\t84\tdog", "audio/4-7-A-1.wav\t84\train"]
    assert rows_of(tmp_path / "out", "test") == ["audio/5-7-A-0.wav\t85\tdog", "audio/5-7-A-1.wav\t85\train"]
    train = Manifest.load(tmp_path / "out" / "train.tsv")
    assert train.root == str(corpus)
    assert [row.path for row in train] == sorted(row.path for row in train)
    assert train.sample_rates is not None and set(train.sample_rates.tolist()) == {8000}
    assert (tmp_path / "out" / "unreadable.tsv").read_bytes() == b""


def test_the_labels_are_those_that_evaluation_reads(corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path / "out")
    train, test = (read_labelled(tmp_path / "out" / f"{split}.tsv") for split in ("train", "test"))
    assert train.known() == CATEGORIES
    assert test.labels == [("dog",), ("rain",)]
    check_known(test, train)


def test_neither_processes_nor_machines_change_what_is_listed(corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path / "one")
    assert main(["esc50", str(corpus), "--out", str(tmp_path / "two"), "--jobs", "2"]) == 0
    for name in ("train.tsv", "train.rates", "valid.tsv", "test.tsv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    parts = []
    for part in ("1/2", "2/2"):
        out = tmp_path / part
        assert run(corpus, out, "--shard", part) == 0
        parts += [row for path in out.glob("*.tsv") for row in path.read_text().splitlines()[1:]]
    assert sorted(parts) == sorted(
        row for split in ("train", "valid", "test") for row in rows_of(tmp_path / "one", split)
    )


def test_missing_and_unreadable_clips_are_counted_and_named_and_the_rest_is_written(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "audio" / "1-7-A-0.wav").unlink()
    (corpus / "audio" / "5-7-A-0.wav").write_bytes(b"")
    assert run(corpus, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "1 missing or misplaced, 1 unreadable" in printed
    assert "train: 5 clips" in printed and "train: 2 labels\n" in printed
    reasons = dict(line.split("\t") for line in (tmp_path / "out" / "unreadable.tsv").read_text().splitlines())
    assert reasons["audio/1-7-A-0.wav"] == "is listed in meta/esc50.csv and is not there: fetch it or go without"
    assert reasons["audio/5-7-A-0.wav"].startswith("is empty")
    assert rows_of(tmp_path / "out", "test") == ["audio/5-7-A-1.wav\t85\train"]


def test_labels_that_training_does_not_know_are_counted(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for fold in (1, 2, 3):
        (corpus / "audio" / f"{fold}-7-A-1.wav").unlink()
    run(corpus, tmp_path / "out")
    assert "test: 2 labels, 1 of them not in train" in capsys.readouterr().out


def test_a_split_of_an_earlier_run_is_not_passed_over_in_silence(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(corpus, tmp_path / "out")
    assert run(corpus, tmp_path / "out", "--valid-fold", "0") == 0
    assert f"valid: no clips, {tmp_path / 'out' / 'valid.tsv'} of an earlier run is left" in capsys.readouterr().out


def test_an_interrupted_command_goes_on_and_ends_with_the_same_bytes(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(corpus, tmp_path / "whole")
    probed: list[str] = []
    really_probe = output.probe

    def probe(path: str) -> object:
        probed.append(path)
        if len(probed) == 5:
            raise KeyboardInterrupt
        return really_probe(path)

    monkeypatch.setattr(output, "probe", probe)
    with pytest.raises(KeyboardInterrupt):
        run(corpus, tmp_path / "out")
    assert not (tmp_path / "out" / "train.tsv").exists()
    assert run(corpus, tmp_path / "out") == 0
    assert len(probed) == 5 + 6
    assert {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()
    }


# ---------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_is_another_is_refused_in_one_sentence_that_says_what_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    make_clip(tmp_path / "clips" / "a.wav")
    assert main([command, str(tmp_path / "clips"), "--out", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err
    assert "as it is published: it has no" in errors or "has none of balanced_train_segments.csv" in errors
    assert errors.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_does_not_exist_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main([command, str(tmp_path / "absent"), "--out", str(tmp_path / "out")]) == 2
    assert "absent is not a folder: give the folder of" in capsys.readouterr().err


def test_no_readable_clip_is_one_sentence_and_the_reasons_are_listed(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (corpus / "audio").iterdir():
        path.write_bytes(b"")
    assert run(corpus, tmp_path / "out") == 2
    assert "no clip of ESC-50 below" in capsys.readouterr().err
    assert len((tmp_path / "out" / "unreadable.tsv").read_text().splitlines()) == 10


def test_a_clip_that_is_listed_twice_is_refused(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(corpus / "meta" / "esc50.csv", "a") as table:
        table.write("1-7-A-0.wav,5,0,dog,True,7,A\n")
    assert run(corpus, tmp_path / "out") == 2
    sentence = "audio/1-7-A-0.wav is listed twice by ESC-50, for train and for test: remove one"
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "line 1: has no column 'filename', it has nothing"),
        ("name,fold,category\n", "line 1: has no column 'filename', it has name, fold, category"),
        ("filename,fold,category\na.wav,1\n", "line 2: has 2 cells and the header has 3: mend the line"),
        ('filename,fold,category\na.wav,1,"dog\n', "line 2: is no delimited text (unexpected end of data)"),
        ("filename,fold,category\na.wav,1,dog\nb.wav,6,dog\n", "line 3: the fold is '6', and ESC-50 has 1 to 5"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, sentence: str
) -> None:
    (corpus / "meta" / "esc50.csv").write_text(content)
    assert run(corpus, tmp_path / "out") == 2
    assert f"{corpus / 'meta' / 'esc50.csv'} {sentence}" in capsys.readouterr().err


def test_names_in_another_encoding_name_their_files(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_bytes(b"\xef\xbb\xbffilename,x\r\ncaf\xe9.wav,1\r\n\r\n")
    assert list(read_columns(table, ["filename"])) == [(2, [os.fsdecode(b"caf\xe9.wav")])]
