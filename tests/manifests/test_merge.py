"""The merge command: many parts become the whole, whatever their order; what does not fit together is said."""

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
from manifests.blocks import open_corpus
from manifests.order import place_order

Row = tuple[str, int, int, str | None]


def make(path: Path, root: Path, rows: list[Row], rates: bool = True, labels: bool = True) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    root.mkdir(parents=True, exist_ok=True)
    write_manifest(
        path,
        root,
        [row[:2] for row in rows],
        rates=[row[2] for row in rows] if rates else None,
        labels=[row[3] for row in rows] if labels else None,
    )
    return str(path)


def rows_of(path: Path) -> set[tuple[str, int, int, str | None]]:
    manifest = Manifest.load(path)
    assert manifest.sample_rates is not None
    return {
        (row.path, row.length, int(rate), row.label) for row, rate in zip(manifest, manifest.sample_rates, strict=True)
    }


def run(*parts: str | Path, out: Path) -> int:
    return main(["merge", *map(str, parts), "--out", str(out), *(["--jobs", "1"] if "--probe" in parts else [])])


ROWS = [(f"d/{index:02d}.wav", 100 + index, 8000 + index, f"l{index}" if index % 3 else None) for index in range(12)]


# ---------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
def test_parts_in_any_order_are_the_whole(tmp_path: Path, order: list[int]) -> None:
    make(tmp_path / "whole.tsv", tmp_path / "root", ROWS)
    parts = [make(tmp_path / f"part{part}.tsv", tmp_path / "root", ROWS[part::3]) for part in range(3)]
    assert run(*(parts[part] for part in order), out=tmp_path / "merged.tsv") == 0
    for ending in ("tsv", "rates"):
        assert (tmp_path / f"merged.{ending}").read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()


def test_rows_of_several_roots_are_the_same_files(tmp_path: Path) -> None:
    first = make(tmp_path / "1.tsv", tmp_path / "root" / "a" / "deep", ROWS)
    second = make(tmp_path / "2.tsv", tmp_path / "root" / "b", ROWS)
    third = make(tmp_path / "3.tsv", tmp_path / "root", [(str(tmp_path / "absolute.wav"), 1, 1, None)])
    assert run(first, second, third, out=tmp_path / "merged.tsv") == 0
    assert Manifest.load(tmp_path / "merged.tsv").root == str(tmp_path / "root")
    expected = rows_of(tmp_path / "1.tsv") | rows_of(tmp_path / "2.tsv") | rows_of(tmp_path / "3.tsv")
    assert rows_of(tmp_path / "merged.tsv") == expected
    assert len(expected) == 25


def test_a_merged_manifest_may_replace_a_part(tmp_path: Path) -> None:
    first = make(tmp_path / "1.tsv", tmp_path / "root", ROWS[:5])
    second = make(tmp_path / "2.tsv", tmp_path / "root", ROWS[5:])
    assert run(first, second, out=tmp_path / "1.tsv") == 0
    assert len(Manifest.load(tmp_path / "1.tsv")) == 12


def test_labels_stay_where_only_some_parts_have_them_and_rates_where_none_has(tmp_path: Path) -> None:
    first = make(tmp_path / "1.tsv", tmp_path / "root", ROWS[:2], rates=False)
    second = make(tmp_path / "2.tsv", tmp_path / "root", ROWS[2:4], rates=False, labels=False)
    assert run(second, first, out=tmp_path / "merged.tsv") == 0
    assert [row.label for row in Manifest.load(tmp_path / "merged.tsv")] == [None, "l1", None, None]
    assert not (tmp_path / "merged.rates").exists()


def test_places_in_a_shard_are_sorted_as_numbers(tmp_path: Path) -> None:
    names = ["s-1.tar:512:9", "s-1.tar:10240:9", "s-2.tar:512:9", "x.hdf:2", "x.hdf:10"]
    part = make(tmp_path / "1.tsv", tmp_path / "root", [(name, 1, 1, None) for name in sorted(names)])
    assert run(part, out=tmp_path / "merged.tsv") == 0
    assert [os.path.basename(row.path) for row in Manifest.load(tmp_path / "merged.tsv")] == names


@hypothesis_settings(deadline=None, max_examples=50)
@given(st.lists(st.text(st.sampled_from("ab/.:0129tarz"), min_size=1), unique=True))
def test_the_order_of_names_is_total(names: list[str]) -> None:
    by_text = sorted(names)
    assert sorted(names, key=place_order) == sorted(by_text, key=place_order)
    assert len({place_order(name) for name in names}) == len(names)


def test_the_order_of_the_parts_is_kept_when_asked(tmp_path: Path) -> None:
    first = make(tmp_path / "1.tsv", tmp_path / "root", ROWS[5:])
    second = make(tmp_path / "2.tsv", tmp_path / "root", ROWS[4::-1])
    assert run(first, second, "--keep-order", out=tmp_path / "merged.tsv") == 0
    found = [row.length - 100 for row in Manifest.load(tmp_path / "merged.tsv")]
    assert found == [*range(5, 12), *range(4, -1, -1)]


def test_machines_that_scan_a_share_each_are_merged_to_what_one_would_have_found(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for index in range(60):
        soundfile.write(tmp_path / "clips" / f"{index}.wav", np.zeros(80 + index), 8000)
    (tmp_path / "clips" / "bad.wav").write_text("text")
    options = ["--jobs", "1", "--valid", "0.3", "--test", "0.3", "--out"]
    assert main(["scan", str(tmp_path / "clips"), *options, str(tmp_path / "whole")]) == 0
    for part in "12":
        share = ["--shard", f"{part}/2", *options, str(tmp_path / part)]
        assert main(["scan", str(tmp_path / "clips"), *share]) == 0
    assert run(tmp_path / "1", tmp_path / "2", out=tmp_path / "merged") == 0
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert len(names) == 7
    for name in names:
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_folders_with_other_roots_and_splits_are_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "1" / "train.tsv", tmp_path / "root" / "a", ROWS)
    make(tmp_path / "1" / "valid.tsv", tmp_path / "root" / "a", [])
    make(tmp_path / "2" / "train.tsv", tmp_path / "root" / "b", ROWS)
    (tmp_path / "1" / "unreadable.tsv").write_bytes(b"bad\xe9.wav\tis empty\n")
    (tmp_path / "2" / "unreadable.tsv").write_bytes(b"worse.wav\tis text\n")
    assert run(tmp_path / "1", tmp_path / "2", out=tmp_path / "merged") == 0
    assert len(Manifest.load(tmp_path / "merged" / "train.tsv")) == 24
    assert (tmp_path / "merged" / "valid.tsv").read_text() == f"{tmp_path / 'root'}\n"
    listed = (tmp_path / "merged" / "unreadable.tsv").read_bytes()
    assert listed == b"a/bad\xe9.wav\tis empty\nb/worse.wav\tis text\n"
    assert "valid.tsv: only 1 of 2 folders have it" in capsys.readouterr().out


def test_what_check_and_pack_write_beside_manifests_is_no_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, rows in (("1", ROWS[:6]), ("2", ROWS[6:])):
        make(tmp_path / part / "train.tsv", tmp_path / "root", rows)
        (tmp_path / part / "findings.tsv").write_text("split\tline\tname\tfinding\tdetail\n")
        (tmp_path / part / "train-unreadable.tsv").write_text(f"bad{part}.wav\tis text\n")
        (tmp_path / part / "train.unreadable").write_text(f"worse{part}.wav\tis text\n")
    assert run(tmp_path / "1", tmp_path / "2", out=tmp_path / "merged") == 0
    names = {"train.tsv", "train.rates", "train-unreadable.tsv", "train.unreadable"}
    assert {path.name for path in (tmp_path / "merged").iterdir()} == names
    assert len((tmp_path / "merged" / "train.unreadable").read_text().splitlines()) == 2
    assert f"{tmp_path / '1' / 'findings.tsv'} is left out" in capsys.readouterr().out
    assert len(open_corpus([str(tmp_path / "1")])) == 6


def test_a_list_that_machines_convert_is_merged_with_what_they_could_not_read(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for index in range(20):
        soundfile.write(tmp_path / "clips" / f"{index}.wav", np.zeros(80 + index), 8000)
    for index in range(6):
        (tmp_path / "clips" / f"bad{index}.wav").write_text("text")
    names = sorted(path.name for path in (tmp_path / "clips").iterdir())
    (tmp_path / "list.csv").write_text("filename\n" + "".join(f"{name}\n" for name in names))
    convert = ["convert", str(tmp_path / "list.csv"), "--from", "dasheng", "--root", str(tmp_path / "clips"), "--jobs"]
    assert main([*convert, "1", "--out", str(tmp_path / "whole" / "x.tsv")]) == 0
    for part in "12":
        assert main([*convert, "1", "--out", str(tmp_path / part / "x.tsv"), "--shard", f"{part}/2"]) == 0
    assert run(tmp_path / "1" / "x.tsv", tmp_path / "2" / "x.tsv", out=tmp_path / "merged" / "x.tsv") == 0
    assert run(tmp_path / "1", tmp_path / "2", out=tmp_path / "folder") == 0
    assert (tmp_path / "whole" / "x.unreadable").read_bytes().count(b"\n") == 6
    for name in ("x.tsv", "x.rates", "x.unreadable"):
        for merged in ("merged", "folder"):
            assert (tmp_path / merged / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_reading_joining_and_writing_show_their_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(tmp_path / "1.tsv", tmp_path / "root", ROWS[:5])
    second = make(tmp_path / "2.tsv", tmp_path / "root", ROWS[5:])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run(first, second, out=tmp_path / "merged.tsv") == 0
    shown = capsys.readouterr().err
    for what in ("reading 1.tsv: 100%", "reading 2.tsv: 100%", "joining 2.tsv: 100%", "writing merged.tsv: 100%"):
        assert what in shown


def test_rates_that_lack_are_read_from_the_clips_when_asked(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    soundfile.write(tmp_path / "root" / "x.wav", np.zeros(50), 12345)
    first = make(tmp_path / "1.tsv", tmp_path / "root", [("x.wav", 50, 0, None)], rates=False)
    second = make(tmp_path / "2.tsv", tmp_path / "root", ROWS[:1])
    assert run(first, second, "--probe", out=tmp_path / "merged.tsv") == 0
    rates = Manifest.load(tmp_path / "merged.tsv").sample_rates
    assert rates is not None and rates.tolist() == [8000, 12345]


def test_duplicates_are_dropped_and_counted_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make(tmp_path / "1.tsv", tmp_path / "root", ROWS[:6])
    second = make(tmp_path / "2.tsv", tmp_path, [(f"root/{name}", length + (name == "d/05.wav"), *rest)
                                                 for name, length, *rest in ROWS[4:]])  # fmt: skip
    assert run(first, second, "--drop-duplicates", out=tmp_path / "merged.tsv") == 0
    assert Manifest.load(tmp_path / "merged.tsv").lengths.tolist() == [row[1] for row in ROWS]
    assert "2 duplicates dropped, 1 of them with another length, rate or label" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- what is refused


def test_what_does_not_fit_together_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make(tmp_path / "in" / "1.tsv", tmp_path / "root", ROWS[:2])
    twice = make(tmp_path / "2.tsv", tmp_path / "root", ROWS[1:3])
    bare = make(tmp_path / "3.tsv", tmp_path / "root", ROWS[4:6], rates=False)
    absent = make(tmp_path / "5.tsv", tmp_path / "root", [("absent.wav", 1, 1, None)], rates=False)
    (tmp_path / "empty").mkdir()
    make(tmp_path / "busy" / "train.tsv", tmp_path / "root", ROWS)
    (tmp_path / "busy" / ".scan.journal").touch()
    merged, folder = tmp_path / "merged.tsv", tmp_path / "merged"
    for parts, out, sentence in (
        ([first, twice], merged, f"d/01.wav is in {first} and again in {twice}: remove it from one of them"),
        ([first, twice, first], merged, f"{first} is given twice: leave one out"),
        ([tmp_path / "in", f"{tmp_path / 'in'}/"], folder, f"{tmp_path / 'in'}/ is given twice: leave one out"),
        ([first, bare], merged, f"{bare} has no .rates beside it and {first} has: give --probe"),
        ([absent, first, "--probe"], merged, "absent.wav: does not exist"),
        ([first, tmp_path / "none.tsv"], merged, "none.tsv does not exist"),
        ([first], folder, f"--out {folder} must end in .tsv"),
        ([tmp_path / "in"], merged, "must be a folder, because the parts are folders"),
        ([tmp_path / "in", first], folder, f"{tmp_path / 'in'} is a folder and {first} is none"),
        ([tmp_path / "in", tmp_path / "empty"], folder, "empty holds no manifest"),
        ([tmp_path / "in", tmp_path / "busy"], folder, "busy holds unfinished work (.scan.journal)"),
    ):
        assert run(*parts, out=out) == 2
        assert sentence in (errors := capsys.readouterr().err)
        assert errors.startswith("manifests: ") and "Traceback" not in errors
        assert not merged.exists() and not folder.exists()
    (tmp_path / "busy" / ".scan.journal").rename(tmp_path / "busy" / ".train.plan")
    assert run(tmp_path / "busy", out=folder) == 2
    assert "busy holds unfinished work (.train.plan)" in capsys.readouterr().err
