"""``statistics``: means and deviations of the mel bins of a folder, as a training takes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mae_ast_plugin.__main__ import main
from mae_ast_plugin.audio.frontend import make_frontend
from mae_ast_plugin.audio.reader import read
from mae_ast_plugin.methods.statistics import read_statistics

FEATURES = ("--feature-type", "emphasised_mel", "--feature-dim", "20")


def test_they_are_those_of_all_frames(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "own.json"
    assert main(["statistics", str(clips), "--out", str(out), *FEATURES]) == 0
    assert "5 clips, 0 left out" in capsys.readouterr().out
    frontend = make_frontend("emphasised_mel", 20)
    waves = [torch.from_numpy(read(str(path), sample_rate=16000)[0]) for path in sorted(clips.rglob("*.wav"))]
    frames = torch.cat([frontend(wave[None])[0] for wave in waves])
    mean, deviation = read_statistics(str(out), 20)
    torch.testing.assert_close(mean, frames.mean(dim=0), rtol=0, atol=1e-4)
    torch.testing.assert_close(deviation, frames.std(dim=0, correction=0), rtol=0, atol=1e-4)
    said = capsys.readouterr().out
    assert said == ""


def test_one_mean_and_deviation_of_all_bins_are_said(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["statistics", str(clips), "--out", str(tmp_path / "own.json"), *FEATURES]) == 0
    said = dict(word.split("=") for word in capsys.readouterr().out.split() if "=" in word)
    frontend = make_frontend("emphasised_mel", 20)
    waves = [torch.from_numpy(read(str(path), sample_rate=16000)[0]) for path in sorted(clips.rglob("*.wav"))]
    frames = torch.cat([frontend(wave[None])[0] for wave in waves])
    assert abs(float(said["model.input_mean"]) - float(frames.mean())) < 2e-4
    assert abs(float(said["model.input_std"]) - float(frames.std(correction=0))) < 2e-4


def test_a_share_of_the_clips_and_of_their_beginnings_is_enough(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clips / "broken.wav").write_bytes(b"no audio")
    out = tmp_path / "own.json"
    assert main(["statistics", str(clips), "--out", str(out), "--clips", "3", "--seconds", "0.2", *FEATURES]) == 0
    assert "clips, " in capsys.readouterr().out
    read_statistics(str(out), 20)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--clips", "0"), "--clips is 0; it must be more than 0"),
        (("--seconds", "0.001"), "none of the 5 clips could be read and is long enough"),
        (("--feature-type", "fbank", "--feature-dim", "128"), "mel bin 3 never changes"),
    ],
)
def test_a_mistake_is_one_sentence(
    options: tuple[str, ...], words: str, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "own.json"
    assert main(["statistics", str(clips), "--out", str(out), *FEATURES, *options]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not out.exists()
