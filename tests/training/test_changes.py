"""A run that has begun meets other data or other settings: what is refused, what is told, and the ways out."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ast_plugin.audio.manifest import write_manifest
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch.changes import check_settings
from mae_ast_plugin.launch.rows import digest, first_difference, record_path, record_rows, row_checksums

if TYPE_CHECKING:
    from .conftest import Command, Corpus, Run

MIDDLE = ("dataset.max_tokens=null", "dataset.batch_size=4", "lr_scheduler.total_num_update=20")  # epochs of five
ROWS = [(f"clip {number}.wav", 100 + number) for number in range(50)]


# ---- the record of rows


def write(folder: Path, rows: list[tuple[str, int]], **columns: Any) -> Path:
    folder.mkdir(exist_ok=True)
    write_manifest(folder / "train.tsv", "/audio", rows, **columns)
    return folder / "train.tsv"


def digest_of(path: Path) -> str:
    return digest(row_checksums(path))


def test_the_root_the_labels_and_the_ends_of_lines_do_not_matter(tmp_path: Path) -> None:
    plain = write(tmp_path / "a", ROWS)
    expected = digest_of(plain)
    labelled = write(tmp_path / "b", ROWS, labels=[f"label{number}" for number in range(50)])
    assert digest_of(labelled) == expected
    one = tmp_path / "one.tsv"
    one.write_bytes(plain.read_bytes().replace(b"\t107\n", b"\t107\tits label\n"))
    assert one.read_bytes() != plain.read_bytes() and digest_of(one) == expected
    moved = tmp_path / "c.tsv"
    moved.write_bytes(plain.read_bytes().replace(b"/audio\n", b"/elsewhere/audio\n", 1).replace(b"\n", b"\r\n"))
    assert digest_of(moved) == expected
    moved.write_bytes(plain.read_bytes().rstrip(b"\n"))
    assert digest_of(moved) == expected


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_the_first_changed_row_is_found(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("rows")
    rows = data.draw(st.lists(st.tuples(st.text("ab c", min_size=1), st.integers(0, 10**6)), min_size=1, max_size=30))
    rates = data.draw(st.lists(st.sampled_from([8000, 16000, 44100]), min_size=len(rows), max_size=len(rows)))
    stored = record_rows(write(folder, rows, rates=rates), folder)
    changed = data.draw(st.integers(0, len(rows) - 1))
    kind = data.draw(st.sampled_from(["name", "length", "rate", "gone", "added"]))
    name, length = rows[changed]
    if kind == "name":
        rows[changed] = (f"{name}x", length)
    elif kind == "length":
        rows[changed] = (name, length + 1)
    elif kind == "rate":
        rates[changed] += 1
    elif kind == "gone":
        del rows[-1], rates[-1]
        changed = len(rows)
    else:
        rows.append(("new", 5))
        rates.append(8000)
        changed = len(rows) - 1
    if not rows:
        return
    now = row_checksums(write(folder, rows, rates=rates))
    assert digest(now) != stored
    assert first_difference(folder, "train", stored, now) == changed


def test_rates_are_part_of_the_rows(tmp_path: Path) -> None:
    without = digest_of(write(tmp_path / "a", ROWS))
    with_rates = digest_of(write(tmp_path / "b", ROWS, rates=[16000] * 50))
    others = digest_of(write(tmp_path / "c", ROWS, rates=[16000] * 49 + [8000]))
    assert len({without, with_rates, others}) == 3


def test_a_record_that_is_gone_or_another_runs_names_no_row(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    stored = record_rows(path, tmp_path)
    now = row_checksums(write(tmp_path, ROWS[:-1]))
    assert first_difference(tmp_path, "train", stored, now) == 49
    record_path(tmp_path, "train").write_bytes(b"damaged")
    assert first_difference(tmp_path, "train", stored, now) is None
    np.save(record_path(tmp_path, "train"), now)
    assert first_difference(tmp_path, "train", stored, now) is None


def test_blocks_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, ROWS)
    expected = row_checksums(path)
    monkeypatch.setattr("mae_ast_plugin.launch.rows.BLOCK_BYTES", 30)
    np.testing.assert_array_equal(row_checksums(path), expected)
    assert len(expected) == 50 and len(set(expected.tolist())) == 50


# ---- in a run


@pytest.fixture(scope="module")
def _begun(run_of_module: Command) -> Run:
    return run_of_module(*MIDDLE)


@pytest.fixture
def begun(_begun: Run, tmp_path: Path, corpus: Corpus) -> tuple[Run, Path]:
    """A run that stands within its first epoch, and its manifests to change; clips stay where they are."""
    shutil.copytree(_begun.folder, tmp_path / "run")
    shutil.copytree(corpus.data, tmp_path / "data")
    return type(_begun)(_begun.process, _begun.printed, tmp_path / "run"), tmp_path / "data"


def change_line(manifest: Path, number: int, change: Callable[[str], str]) -> str:
    """Change line ``number``, from 1; returns it."""
    lines = manifest.read_text().splitlines()
    lines[number - 1] = change(lines[number - 1])
    manifest.write_text("\n".join(lines) + "\n")
    return lines[number - 1]


def test_another_manifest_is_refused_with_its_first_changed_line_and_both_ways_out(
    run: Command, begun: tuple[Run, Path]
) -> None:
    before, data = begun
    line = change_line(data / "train.tsv", 7, lambda line: line[:-1] + ("3" if line[-1] != "3" else "4"))
    arguments = (*MIDDLE, f"task.data={data}", "optimization.max_update=12")
    refused = run(*arguments, folder=before.folder, status=1)
    assert f"{data}/train.tsv line 7 ({line!r}) is not what it was when {before.checkpoints} was written" in (
        refused.sentence
    )
    assert "put the old manifest back, or set checkpoint.reset_dataloader=true, once" in refused.sentence
    assert before.checkpoint()["optimizer_history"][-1]["num_updates"] == 3

    again = run(*arguments, "checkpoint.reset_dataloader=true", folder=before.folder)
    assert "going on with the new one" in again.output
    assert [int(values["num_updates"]) for values in again.logged()] == list(range(4, 13))
    assert again.checkpoint()["extra_state"]["train_iterator"]["epoch"] == 2  # 5 of epoch 1 again, 4 of epoch 2
    assert again.checkpoint()["cfg"]["checkpoint"]["reset_dataloader"] is False
    run(*arguments, "optimization.max_update=13", folder=before.folder)


def test_a_moved_corpus_is_the_same(run: Command, begun: tuple[Run, Path], corpus: Corpus, tmp_path: Path) -> None:
    before, data = begun
    (tmp_path / "moved").symlink_to(corpus.folder)
    for split in ("train", "valid"):
        change_line(data / f"{split}.tsv", 1, lambda _, split=split: f"{tmp_path}/moved/audio/{split}")  # type: ignore[misc]
    resumed = run(*MIDDLE, f"task.data={data}", "optimization.max_update=5", folder=before.folder)
    assert [int(values["num_updates"]) for values in resumed.logged()] == [4, 5]


def test_another_validation_set_is_told(run: Command, begun: tuple[Run, Path]) -> None:
    before, data = begun
    change_line(data / "valid.tsv", 3, lambda line: line + "0")
    resumed = run(*MIDDLE, f"task.data={data}", "optimization.max_update=5", folder=before.folder)
    assert f"{data}/valid.tsv line 3" in resumed.output and "going on with the new one" in resumed.output


def test_settings_that_make_other_batches_are_refused_within_an_epoch(run: Command, begun: tuple[Run, Path]) -> None:
    before, _ = begun
    refused = run(*MIDDLE, "dataset.batch_size=5", "optimization.max_update=5", folder=before.folder, status=1)
    assert "in the middle of an epoch with dataset.batch_size=4, and dataset.batch_size=5 would put" in refused.sentence
    assert "set it back, or set checkpoint.reset_dataloader=true, once" in refused.sentence


STORED = {
    "common": {"seed": 1},
    "dataset": {"batch_size": 4, "max_tokens": None, "num_workers": 3},
    "task": {"max_sample_size": 9000, "mask_type": "random_mask", "data": "/here"},
    "model": {"dropout": 0.1},
    "criterion": {},
    "optimization": {"lr": [0.1], "max_update": 5},
    "optimizer": {"weight_decay": 0.01, "lr": [0.1]},
    "lr_scheduler": {},
}


def asked(section: str = "", name: str = "", value: Any = None) -> Any:
    """The configuration that STORED was made with, one setting changed."""
    sections = {key: dict(values) for key, values in STORED.items()}
    if section:
        sections[section][name] = value
    return SimpleNamespace(
        **{key: SimpleNamespace(**values) for key, values in sections.items()},
        checkpoint=SimpleNamespace(save_dir="run/checkpoints", reset_optimizer=False),
    )


class Configuration:
    """Sections by attribute and by name, as omegaconf has them."""

    def __init__(self, changed: Any) -> None:
        self.__dict__.update(vars(changed))

    def __getitem__(self, name: str) -> dict[str, Any]:
        return vars(getattr(self, name))


def compare(exact: bool, *change: Any) -> None:
    check_settings(Configuration(asked(*change)), STORED, exact)


@pytest.mark.parametrize(
    "change",
    [("common", "seed", 2), ("dataset", "max_tokens", 10000), ("task", "max_sample_size", 8000)],
    ids=lambda change: change[1],
)
def test_the_settings_of_batches_are_free_only_at_the_start_of_an_epoch(change: tuple[str, str, Any]) -> None:
    compare(False, *change)
    with pytest.raises(PlainError, match=f"{change[0]}.{change[1]}={change[2]} would put other clips into its batches"):
        compare(True, *change)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("model", "dropout", 0.2), "going on with model.dropout=0.2, it was 0.1"),
        (("task", "mask_type", "chunk_mask"), "going on with task.mask_type=chunk_mask, it was random_mask"),
        (("optimization", "lr", [0.2]), "going on with optimization.lr=[0.2], it was [0.1]"),
        (
            ("optimizer", "weight_decay", 0.5),
            "optimizer.weight_decay=0.5 has no effect on a run that has begun with 0.01",
        ),
        (("task", "data", "/there"), ""),
        (("optimization", "max_update", 9), ""),
        (("dataset", "num_workers", 0), ""),
    ],
)
def test_other_settings_are_told(change: tuple[str, str, Any], told: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        compare(True, *change)
    assert [record.message for record in caplog.records if not record.message.startswith(told or "?")] == []
    assert len(caplog.records) == bool(told)


@pytest.mark.parametrize(
    ("value", "told"), [("all", []), ("weights", ["going on with task.decayed=weights, it was all"])]
)
def test_a_setting_that_was_not_there_yet_had_its_default(
    value: str, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        compare(True, "task", "decayed", value)
    assert [record.message for record in caplog.records] == told
