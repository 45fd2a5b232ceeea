"""The doctor command: its verdict follows from the figures, and it measures a small recipe from end to end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mae_ast_plugin.audio.manifest import write_manifest
from manifests.__main__ import main
from manifests.doctor import figures, verdict

rehearsal = pytest.importorskip("mae_ast_plugin.launch.rehearsal", reason="doctor rehearses the training")

SMALL = (
    "--recipe", "mae_ast_tiny", "--seconds", "0.2", "--device", "cpu",
    "--set", "model.encoder_layers=1", "model.decoder_layers=1", "dataset.batch_size=3",
)  # fmt: skip


def measured(**figures: Any) -> Any:
    """A GPU with 8 cores beside it: a worker reads 100 clips/s, the step takes 400, optimiser included."""
    reading = {"flac": (30, 0.005), "member of tar": (10, 0.025)}
    values = {"device": "H200", "cores": 8, "num_clips": 144_000, "num_batches": 1000, "reading": reading}
    values |= {"feature_seconds": 0.0001, "steps": {64: 0.16}, "memory_bytes": 2**33}
    return rehearsal.Measured(**{**values, **figures})


def words(found: Any, workers_set: int = 6) -> str:
    return " ".join(verdict(found, workers_set))


def test_where_the_step_limits_there_are_workers_enough() -> None:
    said = words(measured())
    assert "The training step limits: it takes 400.0 clips/s, and a worker reads 100.0." in said
    assert "Set dataset.num_workers=5 (the recipe has 6)." in said
    assert "An epoch of 144000 clips takes about 6.0 minutes at 400.0 clips/s." in said


def test_where_reading_limits_all_cores_work_and_the_mend_is_said() -> None:
    said = words(measured(cores=2))
    assert "Reading limits: the 2 cores read 200.0 clips/s, the step would take 400.0." in said
    assert "python -m manifests pack" in said
    assert "Set dataset.num_workers=2" in said
    assert "about 12.0 minutes at 200.0 clips/s" in said


def test_on_the_cpu_reading_and_step_share_the_cores() -> None:
    said = words(measured(device="cpu", cores=2, steps={4: 0.06}))
    assert "The training step limits: step and workers share the 2 cores, of whose time reading takes 25%." in said
    assert "Set dataset.num_workers=1" in said
    assert "about 48.0 minutes at 50.0 clips/s" in said
    assert "about 4.0 hours at 50.0" in words(measured(device="cpu", cores=2, steps={4: 0.06}, num_clips=720_000))
    assert words(measured(device="cpu", cores=2, steps={4: 0.01})).startswith("Reading limits")


def test_what_the_optimiser_takes_is_shared_by_the_whole_batch() -> None:
    # 4 clips in 0.5 s, 0.1 s of which is the optimiser's; a batch has 144
    found = measured(steps={1: 0.3, 4: 0.5}, optimizer_seconds=0.1)
    assert found.step_seconds == pytest.approx(0.1 + 0.1 / 144)
    assert measured(steps={1: 0.1}, optimizer_seconds=0.2).step_seconds == pytest.approx(0.1 / 144)


def test_a_batch_that_does_not_fit_is_said() -> None:
    said = words(measured(clips_too_many=128))
    assert "A batch of 128 clips does not fit into the memory of H200: lower dataset.max_tokens" in said


def test_the_figures_name_kinds_of_files_and_what_is_unreadable() -> None:
    lines = list(figures(measured(num_unreadable=3)))
    assert any("5.00 ms a clip" in line and "flac, 30 clips" in line for line in lines)
    assert any("25.00 ms a clip" in line and "member of tar, 10 clips" in line for line in lines)
    assert any("batches of 144 clips, from steps of up to 64" in line for line in lines)
    assert any("8.00 GiB of H200" in line for line in lines)
    assert "unreadable   3 clips: `python -m manifests check` lists all" in lines


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = []
    for number in range(7):
        name = f"{number}.{'flac' if number % 2 else 'wav'}"
        soundfile.write(tmp_path / name, np.random.default_rng(number).uniform(-0.5, 0.5, 8000), 16000)
        rows.append((name, 8000))
    (tmp_path / "6.wav").write_text("no audio")
    write_manifest(tmp_path / "train.tsv", tmp_path, rows, rates=[16000] * 7)
    return tmp_path / "train.tsv"


def test_a_small_recipe_is_measured(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(manifest), *SMALL]) == 0
    said = capsys.readouterr().out
    for word in ("flac, 3 clips", "wav, 4 clips", "features ", "batches of 2 clips", "1 clips: `python -m manifests"):
        assert word in said
    assert "An epoch of 7 clips takes about" in said and "Set dataset.num_workers=" in said


def test_features_of_the_loader_are_part_of_reading(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(manifest), *SMALL, "task.features_on=loader"]) == 0
    assert "features " not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--seconds", "0"], "--seconds is 0.0; it must be more than 0"),
        (["--recipe", "absent"], "there is no recipe 'absent'"),
        (["--device", "nowhere"], "--device nowhere cannot be used here"),
        (["--set", "model.layers=2"], "'model.layers=2' is no setting that matters here"),
        (["--set", "model.encoder_layers"], "'model.encoder_layers' is no setting"),
        (["--set", "task.feature_dim=x"], "feature_dim is 'x', not of the kind int"),
        (["--set", "model.encoder_layers=0"], "model.encoder_layers is 0; it must be at least 1"),
        (["--set", "task.min_sample_size=99999"], "none of its 7 clips has between 99999"),
        (["--set", "dataset.max_tokens=null", "dataset.batch_size=null"], "neither dataset.max_tokens (samples) nor"),
        (["--set", "task.max_sample_size=${nothing}"], "the settings of mae_ast_tiny cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence_and_the_code_2(
    options: list[str], sentence: str, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(manifest), "--recipe", "mae_ast_tiny", "--device", "cpu", *options]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("INFO")]
    assert len(errors) == 1 and errors[0].startswith("manifests: ") and sentence in errors[0]


def test_without_the_trainer_the_sentence_says_what_to_install(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "mae_ast_plugin.launch.recipe_settings", raising=False)
    monkeypatch.setitem(sys.modules, "omegaconf", None)
    assert main(["doctor", str(manifest), "--device", "cpu"]) == 2
    assert 'pip install "mae-ast-plugin[train]"' in capsys.readouterr().err
    out = str(manifest.parent / "o.json")
    assert main(["stats", str(manifest), "--recipe", "mae_ast", "--out", out]) == 2
    assert '--recipe needs omegaconf: pip install "mae-ast-plugin[train]"' in capsys.readouterr().err
