"""The demo's own decisions: what a class is, where results lie, and mistakes told in one sentence.

The whole of it, with its training, is run by ``tests/test_readme.py``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mae_ast_plugin.demo import __main__ as program
from mae_ast_plugin.demo.__main__ import MIN_PER_CLASS, labelled_clips, main, read_labelled, results_name, run
from mae_ast_plugin.demo.results import read_losses
from mae_ast_plugin.errors import PlainError


def touch(folder: Path, number: int, ending: str = "wav") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        (folder / f"{index:02d}.{ending}").touch()


def write_clips(folder: Path, number: int) -> None:
    touch(folder, number)
    for path in folder.glob("*.wav"):
        soundfile.write(path, np.full(800, 0.1), 8000)


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the demo ended with."""
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


# ---- classes


def test_folders_with_enough_clips_are_classes_whatever_their_depth(tmp_path: Path) -> None:
    touch(tmp_path / "dog", MIN_PER_CLASS)
    touch(tmp_path / "birds" / "wren", MIN_PER_CLASS + 1)
    paths, labels = labelled_clips(tmp_path)
    assert {label: labels.count(label) for label in labels} == {"dog": MIN_PER_CLASS, "birds/wren": MIN_PER_CLASS + 1}
    assert [path.parent.relative_to(tmp_path).as_posix() for path in paths] == labels


def test_folders_with_few_clips_hidden_files_and_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    touch(tmp_path / "dog", MIN_PER_CLASS)
    touch(tmp_path / "rare", MIN_PER_CLASS - 1)
    (tmp_path / "rare" / ".listing").touch()
    touch(tmp_path / ".thumbnails", MIN_PER_CLASS)
    touch(tmp_path / ".cache" / "dog", MIN_PER_CLASS)
    assert set(labelled_clips(tmp_path)[1]) == {"dog"}


def test_clips_beside_the_classes_are_no_class(tmp_path: Path) -> None:
    touch(tmp_path, MIN_PER_CLASS)
    assert labelled_clips(tmp_path) == ([], [])
    touch(tmp_path / "dog", MIN_PER_CLASS)
    assert set(labelled_clips(tmp_path)[1]) == {"dog"}


def test_a_class_of_which_too_few_clips_can_be_read_is_not_scored(tmp_path: Path) -> None:
    write_clips(tmp_path / "dog", MIN_PER_CLASS)
    write_clips(tmp_path / "cat", MIN_PER_CLASS - 1)
    for folder in ("dog", "cat", "notes"):
        touch(tmp_path / folder, MIN_PER_CLASS, "txt")
    waveforms, labels = read_labelled(tmp_path, sample_rate=8000)
    assert labels == ["dog"] * MIN_PER_CLASS
    assert [len(waveform) for waveform in waveforms] == [800] * MIN_PER_CLASS


def test_a_flat_folder_is_told_that_it_has_no_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clips(tmp_path / "flat", 3)
    monkeypatch.setattr(program, "make_manifests", lambda *_: None)
    monkeypatch.setattr(program, "pretrain", lambda _, folder, __: folder.mkdir(parents=True))
    monkeypatch.setattr(program, "read_losses", lambda _: {"train": [(1, 3.0), (2, 2.0)]})
    monkeypatch.setattr(program, "draw_loss", lambda *_: None)
    monkeypatch.setattr(program, "draw_pictures", lambda *_: None)
    assert main(["--data", str(tmp_path / "flat"), "--out", str(tmp_path / "out")]) == 0
    assert "\nno scores: the folder has no classes (two or more sub-folders with 10 clips" in capsys.readouterr().out


# ---- where results lie


def test_results_of_two_folders_of_one_name_lie_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert results_name(tmp_path / "a" / "audio") != results_name(tmp_path / "b" / "audio")
    monkeypatch.chdir(tmp_path)
    assert results_name(Path("a", "audio")) == results_name(tmp_path / "b" / ".." / "a" / "audio")


@pytest.mark.parametrize("name", ["Field Recordings (2020)", "été", "a=b,c", "{x}", "corpus", "'", "-", "1"])
def test_a_folder_of_any_name_gives_results_a_name_that_a_setting_may_hold(name: str, tmp_path: Path) -> None:
    found = results_name(tmp_path / name)
    assert re.fullmatch(r"[A-Za-z0-9_]+", found)
    assert found != "corpus"  # where the synthetic sound lies


# ---- mistakes


def test_a_folder_that_does_not_exist_ends_in_one_sentence_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 1
    assert "nowhere is no folder; give DATA=FOLDER" in sentence(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_audio_ends_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path / "papers", 2, "pdf")
    assert main(["--data", str(tmp_path / "papers"), "--out", str(tmp_path / "out")]) == 1
    assert "papers holds no file that ends in wav" in sentence(capsys).replace(" .wav", " wav")


def test_a_command_that_fails_shows_its_last_line_and_where_the_rest_is(tmp_path: Path) -> None:
    script = "import sys; print('first'); print('what went wrong', file=sys.stderr); sys.exit(3)"
    with pytest.raises(PlainError) as caught:
        run([sys.executable, "-c", script], tmp_path / "log")
    assert "ended with status 3: what went wrong" in str(caught.value)
    assert str(tmp_path / "log") in str(caught.value)
    assert "first" in (tmp_path / "log").read_text()


def test_a_command_that_fails_silently_says_so(tmp_path: Path) -> None:
    with pytest.raises(PlainError, match="ended with status 5: no output"):
        run([sys.executable, "-c", "raise SystemExit(5)"], tmp_path / "log")


# ---- the loss


def test_losses_are_read_from_the_log_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "hydra_train.log").write_text(
        '[2026-01-01 00:00:00,000][train_inner][INFO] - {"epoch": 1, "loss": "12.5", "num_updates": "5"}\n'
        '[2026-01-01 00:00:00,000][train][INFO] - {"epoch": 1, "train_loss": "9", "train_num_updates": "6"}\n'
        "[2026-01-01 00:00:00,000][train_inner][INFO] - {a sentence in braces} and more\n"
        '[2026-01-01 00:00:01,000][valid][INFO] - {"epoch": 1, "valid_loss": "11.5", "valid_num_updates": "6"}\n'
    )
    assert read_losses(tmp_path) == {"train": [(5, 12.5)], "valid": [(6, 11.5)]}


def test_a_log_without_losses_is_a_plain_error(tmp_path: Path) -> None:
    (tmp_path / "hydra_train.log").write_text("nothing of the kind\n")
    with pytest.raises(PlainError, match="was the run shorter than"):
        read_losses(tmp_path)
