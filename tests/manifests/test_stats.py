"""The stats command: the numbers are those of all frames together, by any number of processes, machines and stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from mae_ast_plugin.audio import moments
from mae_ast_plugin.audio.frontend import make_frontend
from mae_ast_plugin.audio.manifest import write_manifest
from mae_ast_plugin.audio.reader import read
from mae_ast_plugin.methods.statistics import read_statistics
from manifests import jobs
from manifests.__main__ import main

FEATURES = ("--feature-type", "fbank", "--feature-dim", "20")
NUM_CLIPS = 70


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Seventy clips of different lengths and levels, three rates."""
    (tmp_path / "clips").mkdir()
    rows, rates = [], []
    for number in range(NUM_CLIPS):
        rate, length = (8000, 16000, 22050)[number % 3], 1000 + 50 * number
        level = 0.01 * (1 + number)
        noise = np.random.default_rng(number).uniform(-level, level, length)
        soundfile.write(tmp_path / "clips" / f"{number:02d}.wav", noise, rate)
        rows.append((f"{number:02d}.wav", length))
        rates.append(rate)
    write_manifest(tmp_path / "train.tsv", tmp_path / "clips", rows, rates=rates)
    return tmp_path / "train.tsv"


def stats(manifest: Path, out: str = "out.json", *options: str) -> dict[str, Any]:
    path = manifest.parent / out
    assert main(["stats", str(manifest), "--out", str(path), "--jobs", "1", *FEATURES, *options]) == 0
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def all_frames(manifest: Path, seconds: float | None = None) -> np.ndarray:
    frontend, frames = make_frontend("fbank", 20), []
    for path in sorted((manifest.parent / "clips").glob("*.wav")):
        wave, _ = read(path, num_samples=None if seconds is None else int(seconds * read(path)[1]), sample_rate=16000)
        frames.append(frontend(torch.from_numpy(wave)[None])[0].double().numpy())
    return np.concatenate(frames)


def assert_same(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-12) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name in ("mean", "std", "overall_mean", "overall_std"):
            np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance)
        else:
            assert found[name] == value, name


def test_they_are_those_of_all_frames_together(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, frames = stats(manifest), all_frames(manifest)
    np.testing.assert_allclose(found["mean"], frames.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found["std"], frames.std(axis=0), rtol=1e-9)
    assert found["overall_mean"] == pytest.approx(frames.mean())
    assert found["overall_std"] == pytest.approx(frames.std())
    assert (found["frames"], found["clips"], found["short"], found["unreadable"]) == (len(frames), NUM_CLIPS, 0, 0)
    said = capsys.readouterr().out
    assert f"model.input_mean={frames.mean():.4f} model.input_std={frames.std():.4f}" in said
    assert f"{NUM_CLIPS} clips, " in said and "median" in said


def test_training_takes_the_file(manifest: Path) -> None:
    found = stats(manifest)
    mean, std = read_statistics(str(manifest.parent / "out.json"), 20)
    torch.testing.assert_close(mean, torch.tensor(found["mean"]))
    torch.testing.assert_close(std, torch.tensor(found["std"]))


def test_durations_and_hours_are_those_of_the_rows(manifest: Path) -> None:
    found = stats(manifest)
    seconds = [(1000 + 50 * number) / (8000, 16000, 22050)[number % 3] for number in range(NUM_CLIPS)]
    assert sum(found["durations"].values()) == NUM_CLIPS
    assert found["hours"] == pytest.approx(sum(round(value, 2) for value in seconds) / 3600)
    manifest.with_suffix(".rates").unlink()
    assert stats(manifest)["durations"] == found["durations"]


def test_only_the_beginning_of_each_clip(manifest: Path) -> None:
    found, frames = stats(manifest, "out.json", "--seconds", "0.05"), all_frames(manifest, 0.05)
    np.testing.assert_allclose(found["mean"], frames.mean(axis=0), rtol=1e-9)
    assert found["frames"] == len(frames)


def test_the_number_of_processes_changes_no_bit(manifest: Path) -> None:
    assert stats(manifest, "one.json") == stats(manifest, "two.json", "--jobs", "2")


def test_it_does_not_matter_which_clips_are_done_first(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, each = stats(manifest), jobs.each
    monkeypatch.setattr(jobs, "each", lambda *things, **options: reversed(list(each(*things, **options))))
    assert stats(manifest) == found


def test_the_parts_of_several_machines_are_the_whole(manifest: Path) -> None:
    parts = [f"part{number}.json" for number in (1, 2)]
    sizes = [stats(manifest, part, "--shard", f"{number}/2")["clips"] for number, part in enumerate(parts, start=1)]
    assert min(sizes) > 0 and sum(sizes) == NUM_CLIPS
    for order in (parts, parts[::-1]):
        paths = [str(manifest.parent / part) for part in order]
        assert main(["stats", "--merge", *paths, "--out", str(manifest.parent / "merged.json")]) == 0
        assert_same(json.loads((manifest.parent / "merged.json").read_text()), stats(manifest))


def test_a_share_without_clips_can_be_joined(manifest: Path) -> None:
    for number in (1, 4):  # there are three blocks
        stats(manifest, f"part{number}.json", "--shard", f"{number}/4")
    paths = [str(manifest.parent / f"part{number}.json") for number in (4, 1)]
    assert main(["stats", "--merge", *paths, "--out", str(manifest.parent / "merged.json")]) == 0
    first = json.loads((manifest.parent / "part1.json").read_text())
    assert_same(json.loads((manifest.parent / "merged.json").read_text()), first)


def test_interrupted_and_going_on_changes_no_bit(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = stats(manifest), []

    def counted(path: str, **options: Any) -> Any:
        calls.append(path)
        if len(calls) == 40:
            raise KeyboardInterrupt
        return read(path, **options)

    monkeypatch.setattr(moments, "read", counted)
    with pytest.raises(KeyboardInterrupt):
        stats(manifest, "again.json")
    assert stats(manifest, "again.json") == whole
    assert len(calls) == 40 + NUM_CLIPS - 32  # the first block of 32 was not read again
    assert not list(manifest.parent.glob(".*"))


def test_unreadable_and_short_clips_are_counted(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = stats(manifest)
    folder = manifest.parent / "clips"
    (folder / "text.wav").write_text("no audio")
    soundfile.write(folder / "short.wav", np.ones(9), 8000)
    with open(manifest, "a") as rows, open(manifest.with_suffix(".rates"), "a") as rates:
        rows.write("text.wav\t9\nshort.wav\t9\nabsent.wav\t9\n")
        rates.write("8000\n" * 3)
    found = stats(manifest)
    assert (found["clips"], found["short"], found["unreadable"]) == (NUM_CLIPS, 1, 2)
    assert (found["mean"], found["frames"]) == (whole["mean"], whole["frames"])
    assert "2 clips unreadable, 1 shorter than a frame" in capsys.readouterr().out


def test_features_of_files_are_taken_as_they_are(tmp_path: Path) -> None:
    stored = [np.random.default_rng(number).normal(size=(1, 20, 50 + number)).astype(np.float32) for number in range(3)]
    for number, features in enumerate(stored):
        np.save(tmp_path / f"{number}.npy", features)
    write_manifest(tmp_path / "train.tsv", tmp_path, [(f"{number}.npy", 50 + number) for number in range(3)])
    found, frames = stats(tmp_path / "train.tsv"), np.concatenate(stored, axis=2)[0].T.astype(np.float64)
    np.testing.assert_allclose(found["mean"], frames.mean(axis=0), rtol=1e-9)
    assert found["durations"] == {"0.50": 1, "0.51": 1, "0.52": 1}


def test_a_recipe_says_which_features(manifest: Path) -> None:
    pytest.importorskip("omegaconf")
    found = stats(manifest, "out.json", "--recipe", "maskspec_tiny", "--seconds", "0.05")
    assert (found["feature_type"], found["feature_dim"], found["sample_rate"]) == ("emphasised_mel", 64, 16000)
    assert len(found["mean"]) == 64


def test_the_durations_are_drawn(manifest: Path) -> None:
    pytest.importorskip("matplotlib")
    stats(manifest, "out.json", "--plot", str(manifest.parent / "durations.png"))
    assert (manifest.parent / "durations.png").read_bytes().startswith(b"\x89PNG")


def test_a_bin_that_never_changes_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 16000)
    write_manifest(tmp_path / "train.tsv", tmp_path, [("a.wav", 8000)])
    assert stats(tmp_path / "train.tsv")["std"] == [0.0] * 20
    assert "mel bin 0 never changes, so training refuses that file" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--jobs", "0"], "--jobs 0 is too few"),
        (["--feature-dim", "0"], "--feature-dim is 0; it must be more than 0"),
        (["--sample-rate", "-1"], "--sample-rate is -1; it must be more than 0"),
        (["--seconds", "nan"], "--seconds is nan; it must be more than 0"),
        (["--merge", "a.json"], "give either manifests to measure, or --merge"),
        (["--plot", "a.txt"], "--plot a.txt has an ending that is not drawn: give one of .png"),
        (["--feature-type", "mfcc", "--feature-dim", "99"], "feature_type mfcc has 13 columns"),
        (["--recipe", "absent"], "there is no recipe 'absent'"),
    ],
)
def test_a_mistake_is_one_sentence_and_the_code_2(
    options: list[str],
    sentence: str,
    manifest: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(jobs, "each", None)  # nothing is measured before
    assert main(["stats", str(manifest), "--out", str(manifest.parent / "o.json"), "--jobs", "1", *options]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("manifests: ") and sentence in errors and errors.count("\n") == 1
    assert not (manifest.parent / "o.json").exists()


def test_nothing_to_measure_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_manifest(tmp_path / "train.tsv", tmp_path, [("absent.wav", 9)])
    assert main(["stats", str(tmp_path / "train.tsv"), "--out", str(tmp_path / "o.json"), "--jobs", "1"]) == 2
    assert "none of the clips can be used: 1 are unreadable, 0 are shorter than a frame" in capsys.readouterr().err
    assert main(["stats", "--out", str(tmp_path / "o.json")]) == 2
    assert "give either manifests to measure" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "text", '{"feature_type": "fbank"}', '{"mean": [1], "std": [1], "frames": 1}']
)
def test_a_file_that_stats_did_not_write_is_not_joined(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text(content)
    assert main(["stats", "--merge", str(tmp_path / "a.json"), "--out", str(tmp_path / "o.json")]) == 2
    assert "a.json was not written by `python -m manifests stats`" in capsys.readouterr().err


def test_files_of_other_features_are_not_joined(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stats(manifest, "a.json")
    stats(manifest, "b.json", "--feature-type", "hanning_fbank")
    paths = [str(manifest.parent / name) for name in ("a.json", "b.json")]
    assert main(["stats", "--merge", *paths, "--out", str(manifest.parent / "o.json")]) == 2
    assert "b.json has other features than" in capsys.readouterr().err
    assert main(["stats", "--merge", "absent.json", "--out", str(manifest.parent / "o.json")]) == 2
    assert "absent.json does not exist" in capsys.readouterr().err
