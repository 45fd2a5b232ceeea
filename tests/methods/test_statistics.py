"""Statistics of mel bins from tables and files, and what a wrong one is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.limits import idle_settings, problems
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings
from mae_ast_plugin.methods.statistics import TABLES, read_statistics


@pytest.mark.parametrize(("name", "num_bins"), [("audioset_32khz_128", 128), ("audioset_32khz_64", 64)])
def test_the_tables_have_a_number_for_each_bin(name: str, num_bins: int) -> None:
    mean, deviation = read_statistics(name, num_bins)
    assert mean.shape == deviation.shape == (num_bins,)
    assert json.loads(TABLES[name].read_text())["about"]


def test_a_file_of_ones_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"mean": [1, 2.5], "std": [3, 4]}))
    mean, deviation = read_statistics(str(path), 2)
    assert mean.tolist() == [1.0, 2.5] and deviation.tolist() == [3.0, 4.0]
    assert mean.dtype == torch.float32


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "no JSON object"),
        ("[]", "no JSON object"),
        ('{"mean": [1, 2]}', "no JSON object"),
        ('{"mean": [1, 2], "std": ["a", 1]}', "no JSON object"),
        ('{"mean": [1, 2], "std": [1]}', "2 means and 1 deviations"),
        ('{"mean": [1, 2, 3], "std": [1, 2, 3]}', "3 means and 3 deviations, but there are 2 mel bins"),
        ('{"mean": [1, 2], "std": [0, 1]}', "a deviation of 0"),
    ],
)
def test_a_wrong_file_is_one_sentence(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(content)
    with pytest.raises(PlainError, match=words) as caught:
        read_statistics(str(path), 2)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_file_that_is_not_there_names_the_tables() -> None:
    with pytest.raises(PlainError, match="audioset_32khz_128"):
        read_statistics("nowhere.json", 128)


def test_settings_check_the_statistics_before_training() -> None:
    model = ModelSettings(input_norm="fixed", input_statistics="audioset_32khz_64")
    assert any("64 means" in sentence for sentence in problems(model, TaskSettings()))
    assert not list(problems(model, TaskSettings(feature_dim=64)))
    assert [
        sentence.split()[0]
        for sentence in idle_settings(replace(model, input_norm="batch"), TaskSettings(feature_dim=64))
    ] == ["model.input_statistics"]
