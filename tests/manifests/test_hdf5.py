"""HDF5 files in MaskSpec's layout: listed with their labels, written, and what is said of files of another layout."""

from __future__ import annotations

import builtins
import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file

from mae_ast_plugin.audio.manifest import Manifest, write_manifest
from mae_ast_plugin.audio.reader import probe, read
from manifests import output
from manifests.__main__ import main

h5py = pytest.importorskip("h5py")

CLASSES = [f"/m/{number:03d}" for number in range(11)]


def mp3(num_samples: int = 4000, rate: int = 32000, channels: int = 1) -> bytes:
    written = io.BytesIO()
    samples = 0.3 * np.sin(np.arange(num_samples * channels) / 20).reshape(num_samples, channels)
    soundfile.write(written, samples, rate, format="MP3")
    return written.getvalue()


def make_file(path: Path, num_rows: int, target: np.ndarray | None, names: bool = True) -> Path:
    with h5py.File(path, "w") as file:
        clips = file.create_dataset("mp3", (num_rows,), h5py.vlen_dtype(np.uint8))
        for row in range(num_rows):
            clips[row] = np.frombuffer(mp3(4000 + 100 * row), np.uint8)
        if names:
            file["audio_name"] = np.array([f"Y{row}.mp3" for row in range(num_rows)], "S20")
        if target is not None:
            file["target"] = target
    return path


def pack_bits(rows: list[list[int]], num_classes: int = len(CLASSES)) -> np.ndarray:
    bits = np.zeros((len(rows), num_classes), bool)
    for row, present in enumerate(rows):
        bits[row, present] = True
    return np.packbits(bits, axis=1)


@pytest.fixture
def classes(tmp_path: Path) -> str:
    lines = [f'{number},{mid},"name, of {number}"\n' for number, mid in enumerate(CLASSES)]
    (tmp_path / "classes.csv").write_text("".join(["index,mid,display_name\n", *lines]))
    return str(tmp_path / "classes.csv")


def run(path: Path, out: Path, *options: str) -> int:
    return main(["hdf5", str(path), "--out", str(out), "--jobs", "1", "--valid", "0", "--test", "0", *options])


def pack(source: Path, out: Path, *options: str) -> int:
    return main(["pack", str(source), "--out", str(out), "--jobs", "1", "--hdf5", *options])


def labels_in(path: Path) -> list[str | None]:
    return [row.label for row in Manifest.load(path)]


# ---------------------------------------------------------------------------------------------- listing


def test_each_row_of_the_file_is_a_row_with_the_numbers_of_its_classes(tmp_path: Path) -> None:
    path = make_file(tmp_path / "x.hdf", 12, pack_bits([[0, 10], [7], [8], *[[]] * 9]))
    assert run(path, tmp_path / "out") == 0
    manifest = Manifest.load(tmp_path / "out" / "train.tsv")
    assert [os.path.basename(row.path) for row in manifest] == [f"x.hdf:{row}" for row in range(12)]
    assert [row.label for row in manifest] == ["0,10", "7", "8", *[None] * 9]
    assert manifest.sample_rates is not None and set(manifest.sample_rates.tolist()) == {32000}
    for row in manifest:
        assert len(read(row.path)[0]) == row.length


def test_classes_are_named_when_their_list_is_given(tmp_path: Path, classes: str) -> None:
    path = make_file(tmp_path / "x.h5", 2, pack_bits([[0, 10], [7]]))
    assert run(path, tmp_path / "out", "--classes", classes) == 0
    assert labels_in(tmp_path / "out" / "train.tsv") == ["/m/000,/m/010", "/m/007"]


def test_openmics_floats_are_labels_where_they_were_judged_and_likely(tmp_path: Path) -> None:
    likely, judged = [[0.9, 0.2, 0.7], [0.5, 0.9, 0.1]], [[1, 1, 0], [1, 0, 1]]
    path = make_file(tmp_path / "x.hdf5", 2, np.array(np.concatenate([likely, judged], axis=1), np.float32))
    assert run(path, tmp_path / "out") == 0
    assert labels_in(tmp_path / "out" / "train.tsv") == ["0", "0"]


def test_a_file_without_labels_or_names_is_listed_too(tmp_path: Path) -> None:
    assert run(make_file(tmp_path / "x.hdf", 2, None, names=False), tmp_path / "out") == 0
    assert labels_in(tmp_path / "out" / "train.tsv") == [None, None]


def test_a_row_that_is_no_audio_is_listed_with_its_name(tmp_path: Path) -> None:
    path = make_file(tmp_path / "x.hdf", 2, None)
    with h5py.File(path, "a") as file:
        file["mp3"][1] = np.frombuffer(b"<html>", np.uint8)
    assert run(path, tmp_path / "out") == 0
    (line,) = (tmp_path / "out" / "unreadable.tsv").read_text().splitlines()
    assert line.startswith("x.hdf:1\t") and line.endswith("(Y1.mp3)")


def test_shares_of_machines_are_merged_to_the_whole(tmp_path: Path) -> None:
    path = make_file(tmp_path / "x.hdf", 12, pack_bits([[row % 11] for row in range(12)]))
    assert run(path, tmp_path / "whole") == 0
    for part in "12":
        assert run(path, tmp_path / part, "--shard", f"{part}/2") == 0
    assert main(["merge", str(tmp_path / "2"), str(tmp_path / "1"), "--out", str(tmp_path / "merged")]) == 0
    for name in ("train.tsv", "train.rates", "unreadable.tsv"):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_interrupted_work_goes_on_and_probes_no_row_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_file(tmp_path / "x.hdf", 8, pack_bits([[row] for row in range(8)]))
    assert run(path, tmp_path / "whole") == 0
    probed: list[str] = []

    def stop_at_the_sixth(name: str) -> object:
        if len(probed) == 5:
            raise KeyboardInterrupt
        probed.append(name)
        return probe(name)

    monkeypatch.setattr(output, "probe", stop_at_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        run(path, tmp_path / "out")
    monkeypatch.setattr(output, "probe", lambda name: probed.append(name) or probe(name))
    assert run(path, tmp_path / "out") == 0
    assert len(probed) == len(set(probed)) == 8
    for name in ("train.tsv", "train.rates", "unreadable.tsv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "out").glob(".*"))


def test_the_published_files_give_their_lengths_and_labels(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    case = Path(pytestconfig.getoption("--golden-dir")) / "maskspec" / "hdf5_mp3"
    if not case.is_dir():
        pytest.skip(f"{case} is not there")
    assert run(case / "clips.hdf", tmp_path / "a") == 0
    assert run(case / "clips_unlabelled.hdf", tmp_path / "b") == 0
    assert Manifest.load(tmp_path / "a" / "train.tsv").lengths.tolist() == [22400, 40000]
    targets = load_file(case / "expected.safetensors")["target"]
    expected = [",".join(str(number) for number in np.flatnonzero(target)) for target in targets]
    assert labels_in(tmp_path / "a" / "train.tsv") == expected
    assert labels_in(tmp_path / "b" / "train.tsv") == [None, None]


# ---------------------------------------------------------------------------------------------- writing


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    soundfile.write(folder / "a.wav", 0.3 * np.sin(np.arange(9000) / 20), 32000)
    soundfile.write(folder / "b.flac", 0.3 * np.sin(np.arange(8000) / 20), 16000)
    (folder / "right.mp3").write_bytes(mp3(5000))
    (folder / "stereo.mp3").write_bytes(mp3(5000, channels=2))
    (folder / "page.wav").write_text("<html>")
    rows = [("a.wav", 9000), ("b.flac", 8000), ("page.wav", 1), ("right.mp3", 5000), ("stereo.mp3", 5000)]
    write_manifest(tmp_path / "m.tsv", folder, rows, labels=["/m/010,/m/000", None, "/m/003", "/m/001", "/m/002"])
    return tmp_path / "m.tsv"


def test_a_written_file_has_the_layout_and_is_listed_with_the_same_rows(
    manifest: Path, tmp_path: Path, classes: str
) -> None:
    assert pack(manifest, tmp_path / "out", "--classes", classes) == 0
    with h5py.File(tmp_path / "out" / "m.hdf") as file:
        assert file["audio_name"][:].tolist() == [b"a.mp3", b"b.mp3", b"right.mp3", b"stereo.mp3"]
        np.testing.assert_array_equal(file["target"][:], pack_bits([[0, 10], [], [1], [2]]))
        assert file["mp3"][2].tobytes() == (tmp_path / "clips" / "right.mp3").read_bytes()
        assert file["mp3"][3].tobytes() != (tmp_path / "clips" / "stereo.mp3").read_bytes()
    assert run(tmp_path / "out" / "m.hdf", tmp_path / "listed", "--classes", classes) == 0
    written, listed = Manifest.load(tmp_path / "out" / "m.tsv"), Manifest.load(tmp_path / "listed" / "train.tsv")
    assert [(row.path, row.length) for row in written] == [(row.path, row.length) for row in listed]
    assert [row.label for row in written] == ["/m/010,/m/000", None, "/m/001", "/m/002"]
    assert [row.label for row in listed] == ["/m/000,/m/010", None, "/m/001", "/m/002"]
    assert "page.wav\tholds text" in (tmp_path / "out" / "m-unreadable.tsv").read_text()


def test_written_clips_are_the_clips_at_32_khz_with_no_delay(manifest: Path, tmp_path: Path, classes: str) -> None:
    assert pack(manifest, tmp_path / "out", "--classes", classes) == 0
    for row, name in zip(Manifest.load(tmp_path / "out" / "m.tsv"), ["a.wav", "b.flac"], strict=False):
        expected, _ = read(tmp_path / "clips" / name, sample_rate=32000)
        waveform, rate = read(row.path)
        assert (len(waveform), rate) == (len(expected), 32000)
        np.testing.assert_allclose(waveform[1000:-1000], expected[1000:-1000], atol=0.03)


def test_the_same_clips_give_the_same_bytes_whole_and_in_parts(manifest: Path, tmp_path: Path, classes: str) -> None:
    for name in ("one", "two"):
        assert pack(manifest, tmp_path / name, "--classes", classes) == 0
    assert (tmp_path / "one" / "m.hdf").read_bytes() == (tmp_path / "two" / "m.hdf").read_bytes()
    assert pack(manifest, tmp_path / "parts", "--classes", classes, "--per-shard", "2") == 0
    assert sorted(path.name for path in (tmp_path / "parts").glob("*.hdf")) == [f"m-00000{n}.hdf" for n in range(3)]
    with h5py.File(tmp_path / "one" / "m.hdf") as whole:
        found = []
        for path in sorted((tmp_path / "parts").glob("*.hdf")):
            with h5py.File(path) as part:
                found += [clip.tobytes() for clip in part["mp3"]]
        assert found == [clip.tobytes() for clip in whole["mp3"]]


def test_labels_that_are_numbers_need_no_list(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(mp3())
    write_manifest(tmp_path / "m.tsv", tmp_path, [("a.mp3", 4000)], labels=["3,12"])
    assert pack(tmp_path / "m.tsv", tmp_path / "out") == 0
    assert run(tmp_path / "out" / "m.hdf", tmp_path / "listed") == 0
    assert labels_in(tmp_path / "listed" / "train.tsv") == ["3,12"]


def test_clips_without_labels_give_a_file_without_targets(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp3").write_bytes(mp3())
    assert pack(tmp_path / "in", tmp_path / "out") == 0
    with h5py.File(tmp_path / "out" / "in.hdf") as file:
        assert set(file) == {"audio_name", "mp3"}


# ---------------------------------------------------------------------------------------------- what is wrong


def make_other(path: Path, **datasets: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: None, "x.hdf does not exist"),
        (lambda path: path.write_text("text"), "is no HDF5 file, or a truncated one"),
        (lambda path: make_other(path, waveform=np.zeros(3)), "has no dataset mp3 with a clip in each row (waveform)"),
        (lambda path: make_other(path, mp3=np.zeros((3, 3))), "has no dataset mp3"),
        (lambda path: make_file(path, 2, np.zeros(2, np.uint8)), "target has the shape (2,)"),
        (lambda path: make_file(path, 2, pack_bits([[1]])), "target has the shape (1, 2)"),
        (lambda path: make_file(path, 1, pack_bits([[20]], 24)), "target has 3 columns, which does not fit 11 classes"),
        (lambda path: make_file(path, 1, pack_bits([[13]], 16)), "row 0 has the class 13, and --classes has only 11"),
        (lambda path: make_file(path, 0, None), "no clip below"),
    ],
)
def test_a_file_of_another_layout_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: str, make: object, sentence: str
) -> None:
    make(tmp_path / "x.hdf")  # type: ignore[operator]
    assert run(tmp_path / "x.hdf", tmp_path / "out", "--classes", classes) == 2
    assert sentence in (errors := capsys.readouterr().err)
    assert errors.startswith("manifests: ") and "Traceback" not in errors


def test_an_ending_that_no_reader_knows_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_file(tmp_path / "x.dat", 1, None)
    assert run(tmp_path / "x.dat", tmp_path / "out") == 2
    assert "does not end in .h5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "cannot be read: No such file"),
        ("a,b\n1,2\n", "must have the columns index and mid"),
        ("index,mid\n", "must have the columns index and mid in line 1, and a class in each line below"),
        ("index,mid\n0,/m/0\n2,/m/2\n", "line 3: expected index 1 and a name, found '2' and '/m/2'"),
    ],
)
def test_a_wrong_list_of_classes_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, sentence: str
) -> None:
    make_file(tmp_path / "x.hdf", 1, None)
    if text is not None:
        (tmp_path / "c.csv").write_text(text)
    assert run(tmp_path / "x.hdf", tmp_path / "out", "--classes", str(tmp_path / "c.csv")) == 2
    assert sentence in capsys.readouterr().err


def test_a_label_without_a_number_is_one_sentence(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack(manifest, tmp_path / "out") == 2
    assert "a.wav has the label '/m/010', which is no number of a class: give --classes" in capsys.readouterr().err
    (tmp_path / "few.csv").write_text("index,mid\n0,/m/000\n")
    assert pack(manifest, tmp_path / "out", "--classes", str(tmp_path / "few.csv")) == 2
    assert "a.wav has the label '/m/010', which --classes" in capsys.readouterr().err


def test_a_missing_h5py_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = builtins.__import__

    def without_h5py(name: str, *rest: object) -> object:
        if name == "h5py":
            raise ImportError(name)
        return original(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_h5py)
    assert run(tmp_path / "x.hdf", tmp_path / "out") == 2
    assert "pip install 'mae-ast-plugin[hdf5]'" in capsys.readouterr().err
