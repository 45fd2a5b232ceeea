"""Lists of other systems: there and back is the identity where the format can hold it, and what is refused."""

from __future__ import annotations

import json
import os
import string
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ast_plugin.audio.manifest import Manifest, write_manifest
from manifests import output
from manifests.__main__ import main

SPEECH = "/m/09x0r"
CLIPS = {"b/two words.wav": 90, "a.wav": 80, 'quo"te,comma.wav': 70, os.fsdecode(b"caf\xe9.wav"): 60}


def make_clip(path: Path, num_samples: int = 80) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as handle:
        soundfile.write(handle, np.full(num_samples, 0.1), 8000, format="WAV")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, length in CLIPS.items():
        make_clip(tmp_path / "clips" / name, length)
    return tmp_path / "clips"


def manifest_of(folder: Path, labels: list[str | None] | None, rate: int = 8000, ending: str = "") -> Path:
    path = folder.parent / "train.tsv"
    rows = [(name + ending, length) for name, length in CLIPS.items()]
    write_manifest(path, folder, rows, labels=labels, rates=[rate] * len(rows))
    return path


def convert(listing: Path, out: Path, *options: str) -> int:
    return main(["convert", str(listing), "--out", str(out), "--jobs", "1", *options])


def assert_same(one: Path, other: Path) -> None:
    assert one.read_bytes() == other.read_bytes()
    assert one.with_suffix(".rates").read_bytes() == other.with_suffix(".rates").read_bytes()


# ---------------------------------------------------------------------------------------------- there and back


def test_to_ssast_and_back_is_the_identity(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = manifest_of(folder, ["/m/b", "/m/a,/m/b", "/m/c", "/m/a"])
    assert convert(path, tmp_path / "data.json") == 0
    assert "lengths and rates are not in it" in capsys.readouterr().out
    assert convert(tmp_path / "data.json", tmp_path / "back.tsv", "--root", str(folder)) == 0
    assert_same(path, tmp_path / "back.tsv")


def test_ssast_gets_absolute_paths_and_the_classes_beside_them(folder: Path, tmp_path: Path) -> None:
    convert(manifest_of(folder, ["/m/b", "/m/a,/m/b", "/m/c", "/m/a"]), tmp_path / "data.json")
    data = json.loads((tmp_path / "data.json").read_text())["data"]
    assert data[0] == {"wav": str(folder / "b" / "two words.wav"), "labels": "/m/b"}
    assert [entry["labels"] for entry in data] == ["/m/b", "/m/a,/m/b", "/m/c", "/m/a"]
    classes = (tmp_path / "data_labels.csv").read_text()
    assert classes == "index,mid,display_name\n0,/m/a,/m/a\n1,/m/b,/m/b\n2,/m/c,/m/c\n"


@pytest.mark.parametrize("labels", [None, ["x", None, "x,y", "z"]])
def test_to_dasheng_and_back_is_the_identity(folder: Path, tmp_path: Path, labels: list[str | None] | None) -> None:
    path = manifest_of(folder, labels)
    assert convert(path, tmp_path / "dasheng.tsv") == 0
    assert (tmp_path / "dasheng.tsv").read_bytes().splitlines()[0] == (b"filename\tlabels" if labels else b"filename")
    assert convert(tmp_path / "dasheng.tsv", tmp_path / "back.tsv", "--root", str(folder)) == 0
    assert_same(path, tmp_path / "back.tsv")


@pytest.mark.parametrize("rate", [100, 50])
def test_to_msm_mae_and_back_is_the_identity_without_labels(folder: Path, tmp_path: Path, rate: int) -> None:
    for index, (name, num_frames) in enumerate(CLIPS.items()):
        shape = (1, 80, num_frames) if index % 2 else (80, num_frames)
        np.save(folder / f"{name}.npy", np.zeros(shape, np.float32))
    path = manifest_of(folder, None, rate, ending=".npy")
    assert convert(path, tmp_path / "msm.csv") == 0
    assert (tmp_path / "msm.csv").read_bytes().splitlines()[:3] == [b"file_name", b"b/two words.wav.npy", b"a.wav.npy"]
    options = [] if rate == 100 else ["--frame-rate", str(rate)]
    assert convert(tmp_path / "msm.csv", tmp_path / "back.tsv", "--root", str(folder), *options) == 0
    assert_same(path, tmp_path / "back.tsv")


NAMES = st.lists(
    st.text(string.ascii_letters + " \"',;#é日", min_size=1, max_size=8), min_size=1, max_size=5, unique=True
)
LABELS = st.text(string.ascii_letters + " \"'/é", min_size=1, max_size=5).map(str.strip).filter(bool)


@settings(deadline=None, max_examples=30)
@given(names=NAMES, labels=st.data(), target=st.sampled_from(["data.json", "dasheng.tsv"]))
def test_any_names_and_labels_survive_the_way_there_and_back(
    names: list[str], labels: st.DataObject, target: str
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "clips"
        for name in names:
            make_clip(folder / f"{name}.wav")
        chosen = labels.draw(st.lists(LABELS, min_size=len(names), max_size=len(names)))
        path, rows = Path(temporary) / "train.tsv", [(f"{name}.wav", 80) for name in names]
        write_manifest(path, folder, rows, labels=chosen, rates=[8000] * len(names))
        assert convert(path, Path(temporary) / target) == 0
        assert convert(Path(temporary) / target, Path(temporary) / "back.tsv") == 0  # all share one root
        assert_same(path, Path(temporary) / "back.tsv")


# ---------------------------------------------------------------------------------------------- what is read


def test_relative_paths_begin_in_the_folder_of_the_list(folder: Path) -> None:
    (folder / "list.csv").write_text("file_name,split\n./a.wav,x\n./b/two words.wav,y\n")
    assert convert(folder / "list.csv", folder / "train.tsv") == 0
    manifest = Manifest.load(folder / "train.tsv")
    assert [(row.path, row.length) for row in manifest] == [
        (str(folder / "a.wav"), 80),
        (str(folder / "b" / "two words.wav"), 90),
    ]


def test_absolute_paths_share_a_root(folder: Path, tmp_path: Path) -> None:
    entries = [{"wav": str(folder / "b" / "two words.wav"), "labels": SPEECH}, {"wav": str(folder / "a.wav")}]
    (tmp_path / "data.json").write_text(json.dumps({"data": entries}))
    assert convert(tmp_path / "data.json", tmp_path / "train.tsv") == 0
    assert (tmp_path / "train.tsv").read_text() == f"{folder}\nb/two words.wav\t90\t{SPEECH}\na.wav\t80\n"


def test_a_clip_that_is_listed_twice_stays_twice_with_each_its_label(folder: Path, tmp_path: Path) -> None:
    (folder / "list.tsv").write_text("filename\tlabel\na.wav\tx\na.wav\ty\n")
    assert convert(folder / "list.tsv", tmp_path / "train.tsv", "--from", "dasheng") == 0
    assert (tmp_path / "train.tsv").read_text().splitlines()[1:] == ["a.wav\t80\tx", "a.wav\t80\ty"]


@pytest.mark.parametrize(
    ("text", "options", "labels"),
    [
        ("filename\tlabel\tsplit\na.wav\tdog\tpart0\n", [], "dog"),
        ("filename,category\na.wav,dog\n", [], "dog"),
        ("filename\tfold\tclass\na.wav\t1\tdog\n", ["--label-column", "class"], "dog"),
        ("path,x,y\na.wav,dog,b\n", ["--filename-column", "path", "--label-column", "x"], "dog"),
        ("filename\tfold\tclass\na.wav\t1\tdog\n", [], None),
    ],
)
def test_the_label_of_dasheng_is_a_column(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, options: list[str], labels: str | None
) -> None:
    (folder / "list.txt").write_text(text)
    assert convert(folder / "list.txt", folder / "train.tsv", *options) == 0
    assert Manifest.load(folder / "train.tsv")[0].label == labels
    columns = text.splitlines()[0].replace("\t", ",").split(",")
    assert capsys.readouterr().out.count("is left out (--label-column") == len(columns) - 1 - (labels is not None)


def test_the_golden_list_of_ssast_is_read(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    case = Path(request.config.getoption("--golden-dir")) / "ssast" / "dataloader"
    if not case.is_dir():
        pytest.skip(f"{case} is not there")
    options = ["--classes", str(case / "labels.csv")]
    assert convert(case / "data.json", tmp_path / "train.tsv", *options) == 0
    rows = list(Manifest.load(tmp_path / "train.tsv"))
    assert [Path(row.path).name for row in rows] == ["0.wav", "1.wav", "2.wav"]
    assert [row.label for row in rows] == ["/m/aa0,/m/aa2", "/m/aa1", "/m/aa2,/m/aa3,/m/aa0"]


def test_what_cannot_be_read_is_listed_and_the_rest_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(folder / "flat.npy", np.zeros(3, np.float32))
    (folder / "list.csv").write_text('file_name\nabsent.wav\na.wav\nflat.npy\n"ta\tb.wav"\n')
    assert convert(folder / "list.csv", tmp_path / "train.tsv", "--from", "msm_mae") == 0
    assert "3 unreadable (listed in" in capsys.readouterr().out
    reasons = dict(line.split("\t") for line in (tmp_path / "train.unreadable").read_text().splitlines())
    assert reasons["absent.wav"].startswith("does not exist")
    assert "shape (3,)" in reasons["flat.npy"]
    assert "has a TAB" in reasons["ta\\tb.wav"]
    assert len(Manifest.load(tmp_path / "train.tsv")) == 1


def test_machines_divide_a_list(folder: Path, tmp_path: Path) -> None:
    (folder / "list.csv").write_text("file_name\n" + "".join(f"{number}.wav\n" for number in range(12)))
    for number in range(12):
        make_clip(folder / f"{number}.wav", 80 + number)
    convert(folder / "list.csv", tmp_path / "all.tsv")
    parts = []
    for part in (1, 2, 3):
        assert convert(folder / "list.csv", tmp_path / f"{part}.tsv", "--shard", f"{part}/3") == 0
        parts += (tmp_path / f"{part}.tsv").read_text().splitlines()[1:]
    assert sorted(parts) == sorted((tmp_path / "all.tsv").read_text().splitlines()[1:])


def test_an_interrupted_conversion_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = manifest_of(folder, None)
    convert(path, tmp_path / "dasheng.tsv")
    probed: list[str] = []
    really_probe = output.probe

    def probe(path: str) -> object:
        probed.append(path)
        if len(probed) == 3:
            raise KeyboardInterrupt
        return really_probe(path)

    monkeypatch.setattr(output, "probe", probe)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "dasheng.tsv", tmp_path / "back.tsv", "--root", str(folder))
    assert convert(tmp_path / "dasheng.tsv", tmp_path / "back.tsv", "--root", str(folder)) == 0
    assert len(probed) == len(CLIPS) + 1
    assert_same(path, tmp_path / "back.tsv")


# ---------------------------------------------------------------------------------------------- what is written


def test_labels_and_repeated_names_that_are_lost_are_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("a/1.npy", 5), ("b/1.npy", 5)]
    write_manifest(tmp_path / "train.tsv", folder, rows, labels=["x", "y"])
    assert convert(tmp_path / "train.tsv", tmp_path / "msm.csv") == 0
    printed = capsys.readouterr().out
    assert f"paths in it are relative to {folder}" in printed
    assert "the labels of 2 clips are not in it" in printed
    assert convert(tmp_path / "train.tsv", tmp_path / "dasheng.tsv") == 0
    assert "names repeat (2 clips are '1')" in capsys.readouterr().out


def test_one_label_for_all_that_have_none(folder: Path, tmp_path: Path) -> None:
    convert(manifest_of(folder, [None, "/m/a", None, None]), tmp_path / "data.json", "--label", SPEECH)
    data = json.loads((tmp_path / "data.json").read_text())["data"]
    assert [entry["labels"] for entry in data] == [SPEECH, "/m/a", SPEECH, SPEECH]


def test_splits_share_one_list_of_classes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "classes.csv").write_text('index,mid,display_name\n0,x,"the x, alone"\n')
    path = manifest_of(folder, ["x", "x", "y", "x"])
    assert convert(path, tmp_path / "data.json", "--classes", str(tmp_path / "classes.csv")) == 2
    assert f"{path} line 4: the label 'y' is not in {tmp_path / 'classes.csv'}" in capsys.readouterr().err
    path = manifest_of(folder, ["x"] * 4)
    assert convert(path, tmp_path / "data.json", "--classes", str(tmp_path / "classes.csv")) == 0
    assert not (tmp_path / "data_labels.csv").exists()


def test_an_option_without_effect_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(manifest_of(folder, None), tmp_path / "dasheng.tsv", "--classes", "x", "--frame-rate", "10")
    printed = capsys.readouterr().out
    assert "--classes has no effect from tsv to dasheng" in printed
    assert "--frame-rate has no effect from tsv to dasheng" in printed


# ---------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.json", '{"data": [', "x.json line 1: is no JSON (Expecting value): write it again"),
        ("x.json", b"\xff\xfe{", "x.json is no text in UTF-8"),
        ("x.json", '[{"wav": "a.wav"}]', 'x.json is no list of SSAST: expected {"data": [{"wav": PATH'),
        ("x.json", '{"data": [{"path": "a.wav"}]}', "x.json item 1 has no path: expected"),
        ("x.json", '{"data": [{"wav": "a.wav", "labels": ["x"]}]}', "item 1: its labels are ['x']: write one text"),
        ("x.json", '{"data": [{"wav": "a.wav", "labels": "x\\ty"}]}', "item 1: the label has a TAB or a line break"),
        ("x.json", '{"data": []}', "x.json holds no clip"),
        (
            "x.csv",
            "name\na.wav\n",
            "line 1: 'name' is neither the root folder of a manifest nor a header with 'filename'",
        ),
        ("x.csv", "", "line 1: '' is neither the root folder"),
        ("x.csv", "file_name,x\n,1\n", "x.csv line 2: the column 'file_name' is empty"),
        ("x.csv", "filename,x\n,1\n", "x.csv line 2: the column 'filename' is empty"),
        ("x.csv", 'filename\n"a.wav\n', "x.csv line 2: is no delimited text"),
        ("x.csv", "file_name\nabsent.wav\n", "no clip of {folder}/x.csv can be read below {folder}: see"),
    ],
)
def test_a_list_that_is_wrong_is_refused_with_its_place(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | bytes, sentence: str
) -> None:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert convert(folder / name, tmp_path / "out.tsv") == 2
    errors = capsys.readouterr().err
    assert sentence.replace("{folder}", str(folder)) in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "out.tsv").exists()


@pytest.mark.parametrize(
    ("out", "options", "sentence"),
    [
        ("x.txt", [], "x.txt does not tell the format by .tsv, .json or .csv: give --to"),
        ("x.tsv", ["--to", "tsv"], "train.tsv is a list of the format tsv already"),
        ("train.tsv", [], "train.tsv is the list itself: give another file"),
        ("x.json", ["--from", "dasheng", "--to", "tsv"], "x.json: the name of a manifest ends in .tsv"),
        ("x.tsv", ["--from", "dasheng", "--to", "tsv", "--frame-rate", "0"], "--frame-rate 0 is no rate"),
        ("x.json", [], "train.tsv line 2 has no label, and SSAST reads no clip without: give --label ID"),
        ("x.csv", [], "two words.wav does not end in .npy, and MSM-MAE reads log-mels only"),
        ("x.json", ["--classes", "/nowhere.csv"], "/nowhere.csv cannot be read: No such file"),
        ("x.tsv", ["--from", "ssast", "--to", "tsv"], "train.tsv is no text in UTF-8 and so no JSON"),
        ("x.tsv", ["--from", "msm_mae"], "train.tsv line 1: has no column 'file_name', it has"),
        ("x.json", ["--shard", "1/1", "--jobs", "0"], "--jobs 0 is too few"),
    ],
)
def test_options_that_cannot_be_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, options: list[str], sentence: str
) -> None:
    assert convert(manifest_of(folder, None), tmp_path / out, *options) == 2
    assert sentence in capsys.readouterr().err


def test_a_list_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(tmp_path / "absent.json", tmp_path / "out.tsv") == 2
    assert "absent.json is not a file: give a manifest or a list" in capsys.readouterr().err


def test_a_root_that_is_not_there_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "list.csv").write_text("file_name\na.wav\n")
    assert convert(folder / "list.csv", folder / "out.tsv", "--root", "/nowhere") == 2
    assert "--root /nowhere is not a folder: give the folder that the paths of" in capsys.readouterr().err


def test_parts_of_shards_are_refused_for_systems_that_read_files(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(tmp_path / "train.tsv", folder, [("a.tar:512:90", 5)], labels=["x"])
    assert convert(tmp_path / "train.tsv", tmp_path / "data.json") == 2
    errors = capsys.readouterr().err
    assert f"line 2: {folder}/a.tar:512:90 is a part of {folder}/a.tar, and SSAST reads files" in errors
