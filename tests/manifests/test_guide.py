"""The guide of the data commands is right: what it prints is run, on small files under the names that it uses."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mae_ast_plugin.audio.manifest import Manifest
from manifests.__main__ import COMMANDS, main

CORPORA = (
    "librispeech",
    "audioset",
    "esc50",
    "speechcommands",
    "fsd50k",
)  # their layouts are in the tests of their own
SLOW = ("doctor",)  # measures for a while; its own test runs it


def commands(repository: Path) -> list[list[str]]:
    text = (repository / "docs" / "data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [shlex.split(line.removeprefix("python -m manifests ")) for block in blocks for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with AUDIO, FEATURES and other programs' lists, where the commands are given."""
    draw = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / "AUDIO" / f"speaker{number % 4}" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.3 * draw.uniform(-1, 1, 16000), 16000)
    (tmp_path / "FEATURES").mkdir()
    for number in range(3):
        np.save(tmp_path / "FEATURES" / f"{number}.npy", draw.random((1, 80, 50), dtype=np.float32))
    classes = ["index,mid,display_name", "0,/m/a,a"]
    (tmp_path / "class_labels_indices.csv").write_text("\n".join(classes) + "\n")
    clips = [{"wav": f"AUDIO/speaker{number % 4}/{number}.wav", "labels": "/m/a"} for number in range(12)]
    (tmp_path / "SSAST.json").write_text(json.dumps({"data": clips}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_guide_shows_every_command(repository: Path) -> None:
    assert {command[0] for command in commands(repository)} == set(COMMANDS)


def test_every_command_of_the_guide_can_be_given(repository: Path, folder: Path) -> None:
    shown = commands(repository)
    later = ("tar", "hdf5", "split", "convert")  # need what others make
    for command in [line for line in shown if line[0] not in (*CORPORA, *SLOW, *later)]:
        if command[0] == "check":
            assert main(command) in (0, 1)
        else:
            assert main(command) == 0, command
    (folder / "PACKED" / "train.hdf").rename(folder / "CLIPS.hdf")
    (folder / "MANIFESTS" / "train.tsv").rename(folder / "ALL.tsv")
    (folder / "MANIFESTS" / "train.rates").rename(folder / "ALL.rates")
    for command in [line for line in shown if line[0] in ("split", "tar", "hdf5")]:
        assert main(command) == 0, command
        assert len(Manifest.load(folder / "MANIFESTS" / "train.tsv")) > 0
    there, back = [line for line in shown if line[0] == "convert"]
    assert main(there) == 0
    assert len(Manifest.load(folder / "TRAIN.tsv")) == 12
    for ending in ("tsv", "rates"):
        (folder / "FEATURE_MANIFESTS" / f"train.{ending}").rename(folder / f"TRAIN.{ending}")
    assert main(back) == 0
    assert "file_name" in (folder / "LIST.csv").read_text()


@pytest.mark.parametrize("corpus", CORPORA)
def test_a_corpus_that_is_not_there_is_one_sentence(
    repository: Path, folder: Path, corpus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = next(line for line in commands(repository) if line[0] == corpus)
    assert main(command) == 2
    assert command[1] in capsys.readouterr().err
