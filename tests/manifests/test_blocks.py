"""Rows of several manifests: every row in one block of one machine, results in order, sentences about the inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ast_plugin.audio.manifest import write_manifest
from mae_ast_plugin.errors import PlainError
from manifests.blocks import BLOCK_ROWS, in_order, open_corpus, rows_of
from manifests.jobs import Share


def make(path: Path, num_rows: int, rates: bool = True) -> Path:
    rows = [(f"{path.stem}{row}.wav", row) for row in range(num_rows)]
    write_manifest(path, path.parent, rows, rates=[8000 + row for row in range(num_rows)] if rates else None)
    return path


@pytest.mark.parametrize("total", [1, 3])
@pytest.mark.parametrize("sizes", [(1,), (BLOCK_ROWS, 1), (2 * BLOCK_ROWS + 5, BLOCK_ROWS - 1, 7)])
def test_every_row_is_in_one_block_of_one_machine(sizes: tuple[int, ...], total: int, tmp_path: Path) -> None:
    paths = [make(tmp_path / f"split{number}.tsv", size) for number, size in enumerate(sizes)]
    corpus = open_corpus([str(path) for path in paths])
    found = {}
    for number in range(1, total + 1):
        for block, first in corpus.blocks(Share(number, total)).items():
            for place, row in enumerate(rows_of(block)):
                assert first + place not in found
                found[first + place] = row
    rates = corpus.rates.tolist()
    assert found == {row: (corpus[row].path, corpus.lengths[row], rates[row]) for row in range(len(corpus))}
    assert len(corpus) == sum(sizes)


def test_a_row_knows_its_split_line_and_name(tmp_path: Path) -> None:
    corpus = open_corpus([str(make(tmp_path / "a.tsv", 3)), str(make(tmp_path / "b.tsv", 2, rates=False))])
    assert corpus[4] == ("b", 3, "b1.wav", str(tmp_path / "b1.wav"))
    assert corpus.rates.tolist() == [8000, 8001, 8002, 0, 0]
    assert list(rows_of(f"{tmp_path / 'b.tsv'} lines 3-3")) == [(str(tmp_path / "b1.wav"), 1, None)]


def test_manifests_of_the_same_file_name_are_called_by_their_paths(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    paths = [str(make(tmp_path / folder / "train.tsv", 1)) for folder in ("a", "b")]
    assert open_corpus(paths).names == paths


def test_a_folder_gives_its_manifests_but_not_the_lists_of_failures(tmp_path: Path) -> None:
    for name in ("train", "valid"):
        make(tmp_path / f"{name}.tsv", 1)
    for name in ("unreadable", "findings"):
        (tmp_path / f"{name}.tsv").write_text("a\tno manifest\n")
    assert open_corpus([str(tmp_path)]).names == ["train", "valid"]


def test_a_manifest_that_was_changed_is_read_again(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tsv", 3)
    assert len(open_corpus([str(path)])) == 3
    make(path, 5)
    assert len(open_corpus([str(path)])) == 5


def test_a_folder_without_manifests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlainError, match=r"holds no manifest \(.tsv\): make one with `python -m manifests scan`"):
        open_corpus([str(tmp_path)])


def test_a_manifest_given_twice_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tsv", 1)
    with pytest.raises(PlainError, match=r"a.tsv is given twice: give each manifest once"):
        open_corpus([str(tmp_path), str(path)])


@settings(deadline=None, max_examples=50)
@given(st.permutations(range(8)))
def test_results_come_in_order_whatever_order_they_arrive_in(arrival: list[int]) -> None:
    names = [f"item{number}" for number in range(8)]
    results = ((names[number], number) for number in arrival)
    assert list(in_order(names, results)) == [(name, number) for number, name in enumerate(names)]
