"""Labelled manifests: what a row's labels are, which group a clip is of, and what is refused, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.evaluation.labels import (
    LabelledClips,
    check_apart,
    check_classes,
    check_groups,
    check_known,
    groups_of,
    read_labelled,
)


def manifest(folder: Path, *rows: str, name: str = "train.tsv") -> Path:
    """A manifest of rows as they stand, with "|" for TAB."""
    path = folder / name
    path.write_text("\n".join([str(folder), *rows]).replace("|", "\t") + "\n")
    return path


def read(folder: Path, *rows: str, name: str = "train.tsv") -> LabelledClips:
    return read_labelled(manifest(folder, *rows, name=name))


def test_labels_are_split_at_commas_without_spaces_and_repetitions(tmp_path: Path) -> None:
    found = read(tmp_path, "a.wav|1|dog", "b/b.wav|1| dog , cat,dog", "c.wav|1|bird of prey,")
    assert found.labels == [("dog",), ("dog", "cat"), ("bird of prey",)]
    assert [clip.name for clip in found.clips] == ["a.wav", "b/b.wav", "c.wav"]
    assert found.lines == [2, 3, 4]
    assert found.has_several and not found.without({1}).has_several
    assert found.known() == ["bird of prey", "cat", "dog"]


def test_lines_stay_with_their_clips_when_others_are_left_out(tmp_path: Path) -> None:
    left = read(tmp_path, "a.wav|1|x", "b.wav|1|y", "c.wav|1|z").without({0, 1})
    assert (left.lines, left.labels, [clip.name for clip in left.clips]) == ([4], [("z",)], ["c.wav"])


@pytest.mark.parametrize("row", ["b.wav|1", "b.wav|1|", "b.wav|1| , "])
def test_a_row_without_a_label_is_refused_with_its_line(tmp_path: Path, row: str) -> None:
    with pytest.raises(PlainError, match=r"train\.tsv line 3 has no label: write a TAB and the label"):
        read(tmp_path, "a.wav|1|dog", row)


def test_a_single_class_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(PlainError, match=r"train\.tsv has one class only, 'dog'"):
        check_classes(read(tmp_path, "a.wav|1|dog", "b.wav|1|dog"))


def test_a_label_that_was_not_learned_is_refused_with_its_line(tmp_path: Path) -> None:
    train = read(tmp_path, "a.wav|1|dog", "b.wav|1|cat")
    test = read(tmp_path, "c.wav|1|cat", "d.wav|1|dog,cow", name="test.tsv")
    with pytest.raises(PlainError, match=r"test\.tsv line 3: the label 'cow' is in no row of .*train\.tsv"):
        check_known(test, train)
    check_known(test.without({1}), train)


def test_a_clip_that_is_learned_and_scored_is_refused_however_it_is_written(tmp_path: Path) -> None:
    train = read(tmp_path, "a.wav|1|dog", "sub/b.wav|1|cat")
    test = read(tmp_path, "c.wav|1|cat", "./sub/../sub/b.wav|1|cat", name="test.tsv")
    with pytest.raises(PlainError, match=r"test\.tsv line 3: sub/b\.wav is in .*train\.tsv as well"):
        check_apart(test, train)


def test_the_first_group_of_the_expression_names_the_group(tmp_path: Path) -> None:
    clips = read(tmp_path, "anna/0.wav|1|x", "ben/0.wav|1|x", "anna/1.wav|1|y", "ben/1.wav|1|y")
    groups = groups_of(clips, "^([^/]+)/")
    assert groups.tolist() == ["anna", "ben", "anna", "ben"]
    check_groups(clips, groups)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "is no regular expression"),
        ("anna", "has no group: put parentheses around"),
        ("(anna|x*)", r"line 3: --leave-out '\(anna\|x\*\)' finds no group in 'ben/0\.wav'"),
        ("(anna)|ben", r"line 3: .* finds no group in 'ben/0\.wav'"),
    ],
)
def test_an_expression_that_gives_no_groups_is_refused(tmp_path: Path, pattern: str, message: str) -> None:
    with pytest.raises(PlainError, match=message):
        groups_of(read(tmp_path, "anna/0.wav|1|x", "ben/0.wav|1|y"), pattern)


def test_groups_that_cannot_be_left_out_are_refused(tmp_path: Path) -> None:
    clips = read(tmp_path, "anna/0.wav|1|x", "ben/0.wav|1|x", "ben/1.wav|1|x,y")
    with pytest.raises(PlainError, match=r"all clips are of the group 'anna'; leaving one out needs two or more"):
        check_groups(clips, ["anna"] * 3)
    with pytest.raises(PlainError, match=r"line 4: all clips with the label 'y' are of the group 'ben'"):
        check_groups(clips, ["anna", "ben", "ben"])
