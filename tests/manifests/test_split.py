"""The split command: stable, complete, and groups never cross."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mae_ast_plugin.audio.manifest import Manifest, write_manifest
from manifests.__main__ import main
from manifests.output import Clip
from manifests.split import group_rows
from manifests.splits import SPLITS, choose_splits


def make(path: Path, names: list[str], labels: list[str | None] | None = None, rates: bool = True) -> Path:
    rows = [(name, 100 + index) for index, name in enumerate(names)]
    write_manifest(
        path, path.parent, rows, labels=labels, rates=[8000 + index for index in range(len(names))] if rates else None
    )
    return path


def run(path: Path, out: Path, *options: str) -> int:
    return main(["split", str(path), "--out", str(out), *options])


def split_of(out: Path) -> dict[str, str]:
    """Give the split of every clip by its name."""
    found: dict[str, str] = {}
    for split in SPLITS:
        for line in (out / f"{split}.tsv").read_text().splitlines()[1:]:
            name = line.split("\t")[0]
            assert name not in found
            found[name] = split
    return found


NAMES = [f"speaker{speaker}/{index}.wav" for speaker in range(40) for index in range(speaker % 5 + 1)]
HALVES = ["--valid", "0.3", "--test", "0.3"]


@pytest.mark.parametrize("by", ["file", "folder", "^(speaker[0-9]+)/"])
def test_every_clip_is_in_one_split_with_its_length_rate_and_label(tmp_path: Path, by: str) -> None:
    labels = [f"l{index}" if index % 2 else None for index in range(len(NAMES))]
    whole = Manifest.load(make(tmp_path / "m.tsv", NAMES, labels))
    assert run(tmp_path / "m.tsv", tmp_path / "out", *HALVES, "--by", by) == 0
    found = []
    for split in SPLITS:
        part = Manifest.load(tmp_path / "out" / f"{split}.tsv")
        assert part.sample_rates is not None
        found += list(zip(part, part.sample_rates.tolist(), strict=True))
    assert whole.sample_rates is not None
    assert sorted(found) == sorted(zip(whole, whole.sample_rates.tolist(), strict=True))


@pytest.mark.parametrize("by", ["folder", "^(speaker[0-9]+)/"])
def test_a_group_never_crosses(tmp_path: Path, by: str, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "m.tsv", NAMES)
    assert run(tmp_path / "m.tsv", tmp_path / "out", *HALVES, "--by", by) == 0
    splits = split_of(tmp_path / "out")
    groups = {(os.path.dirname(name), split) for name, split in splits.items()}
    assert len(groups) == 40
    assert set(splits.values()) == set(SPLITS)
    assert "of 40 groups" in capsys.readouterr().out


def test_labels_can_be_the_groups(tmp_path: Path) -> None:
    make(tmp_path / "m.tsv", NAMES, labels=[f"l{index % 30}" for index in range(len(NAMES))])
    assert run(tmp_path / "m.tsv", tmp_path / "out", *HALVES, "--by", "label") == 0
    labels = [{row.label for row in Manifest.load(tmp_path / "out" / f"{split}.tsv")} for split in SPLITS]
    assert sum(map(len, labels)) == len(set.union(*labels)) == 30


@hypothesis_settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**20), st.integers(0, 300), st.integers(0, 5), st.sampled_from(["file", "folder"]))
def test_adding_clips_never_moves_another(draw: int, num_more: int, seed: int, by: str) -> None:
    # fifty groups or more: of a handful, a split that stays empty is given one, and may lose it again
    random = np.random.default_rng(draw)
    first = [f"{group}/{index}.wav" for group in range(50) for index in range(random.integers(1, 5))]
    more = [f"{random.integers(100)}/{10 + index}.wav" for index in range(num_more)]

    def divide(names: list[str]) -> dict[str, str]:
        groups = group_rows("m.tsv", [Clip(name, 1, 1) for name in names], by)
        chosen = choose_splits(dict.fromkeys(groups), 0.3, 0.3, seed)
        split_of_group = {group: split for split, members in chosen.items() for group in members}
        return {name: split_of_group[group] for name, group in zip(names, groups, strict=True)}

    assert divide(first).items() <= divide(random.permutation([*first, *more]).tolist()).items()


def test_dividing_what_scan_has_listed_is_what_scan_would_have_divided(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for index in range(40):
        soundfile.write(tmp_path / "clips" / f"{index}.wav", np.zeros(80), 8000)
    scan = ["scan", str(tmp_path / "clips"), "--jobs", "1", "--out"]
    assert main([*scan, str(tmp_path / "scan"), *HALVES]) == 0
    assert main([*scan, str(tmp_path / "all"), "--valid", "0", "--test", "0"]) == 0
    assert run(tmp_path / "all" / "train.tsv", tmp_path / "out", *HALVES) == 0
    for split in SPLITS:
        assert (tmp_path / "out" / f"{split}.tsv").read_bytes() == (tmp_path / "scan" / f"{split}.tsv").read_bytes()


def test_the_order_of_rows_is_kept_and_no_rates_are_made_up(tmp_path: Path) -> None:
    make(tmp_path / "m.tsv", NAMES[::-1], rates=False)
    assert run(tmp_path / "m.tsv", tmp_path / "out", *HALVES) == 0
    for split in SPLITS:
        lengths = Manifest.load(tmp_path / "out" / f"{split}.tsv").lengths.tolist()
        assert lengths == sorted(lengths)
        assert not (tmp_path / "out" / f"{split}.rates").exists()


def test_every_step_shows_its_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "all.tsv", [f"s{number % 5}/{number}.wav" for number in range(20)])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run(path, tmp_path / "out", "--by", "folder") == 0
    shown = capsys.readouterr().err
    for what in ("reading all.tsv: 100%", "finding groups: 100%", "choosing splits: 100%", "writing train.tsv: 100%"):
        assert what in shown


def test_a_split_that_is_not_requested_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "m.tsv", NAMES)
    assert run(tmp_path / "m.tsv", tmp_path / "out", *HALVES) == 0
    before = (tmp_path / "out" / "valid.tsv").read_bytes()
    assert run(tmp_path / "m.tsv", tmp_path / "out", "--valid", "0", "--test", "0") == 0
    assert (tmp_path / "out" / "valid.tsv").read_bytes() == before
    assert len(Manifest.load(tmp_path / "out" / "train.tsv")) == len(NAMES)
    assert "valid: not requested" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--by", "label"], "line 3 has no label: mend the row or choose another --by"),
        (["--by", "^(speaker)/"], "line 2 has no group that '^(speaker)/' finds in 'speaker0/0.wav'"),
        (["--by", "speaker("], "--by 'speaker(' is no regular expression"),
        (["--by", "speaker"], "--by 'speaker' is none of file, folder, label and has no group"),
        (["--by", "^(speaker)"], "finds 1 group(s), fewer than the splits asked for"),
        (["--valid", "0.6", "--test", "0.4"], "leave nothing to train on"),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    make(tmp_path / "m.tsv", NAMES, labels=["x", *[None] * (len(NAMES) - 1)])
    assert run(tmp_path / "m.tsv", tmp_path / "out", *options) == 2
    assert sentence in (errors := capsys.readouterr().err)
    assert errors.startswith("manifests: ") and "Traceback" not in errors
    assert not (tmp_path / "out").exists()


def test_the_manifest_that_is_divided_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make(tmp_path / "train.tsv", NAMES)
    before = path.read_bytes()
    assert run(path, tmp_path) == 2
    assert "would replace the manifest that is divided" in capsys.readouterr().err
    assert path.read_bytes() == before
