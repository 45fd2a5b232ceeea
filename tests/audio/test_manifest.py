"""The manifest: what it reads, what it writes, and the sentence for each way in which a file can be wrong."""

from __future__ import annotations

import gzip
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from mae_ast_plugin.audio import manifest as module
from mae_ast_plugin.audio.manifest import Manifest, ManifestError, Row, write_manifest


def write(folder: Path, data: bytes, rates: bytes | None = None) -> Path:
    path = folder / "train.tsv"
    path.write_bytes(data)
    if rates is not None:
        (folder / "train.rates").write_bytes(rates)
    return path


# ---------------------------------------------------------------------------------------------- what is read


def test_rows_are_read_as_a_list(tmp_path: Path) -> None:
    manifest = Manifest.load(write(tmp_path, b"/\na.wav\t16000\nsub/b c.flac\t7\nlast.wav\t480000\n"))
    assert len(manifest) == 3
    assert manifest.root == "/"
    assert manifest.path == str(tmp_path / "train.tsv")
    assert manifest[1] == Row("/sub/b c.flac", 7, None)
    assert manifest[-1] == manifest[2] == Row("/last.wav", 480000, None)
    assert list(manifest) == [manifest[0], manifest[1], manifest[2]]
    assert manifest[np.int64(0)].length == 16000  # type: ignore[index]
    for index in (3, -4):
        with pytest.raises(IndexError):
            manifest[index]
    np.testing.assert_array_equal(manifest.lengths, [16000, 7, 480000])
    assert manifest.lengths.dtype == np.int64
    assert manifest.sample_rates is None


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b"\n\n", b"\r\n\r\n\n"])
@pytest.mark.parametrize("line_break", [b"\n", b"\r\n"])
def test_line_breaks_of_every_system_and_a_missing_last_one_are_read(
    tmp_path: Path, line_break: bytes, ending: bytes
) -> None:
    lines = [b"/data", b"/a.wav\t12", b"/b.wav\t34\tdog"]
    manifest = Manifest.load(write(tmp_path, line_break.join(lines) + ending))
    assert list(manifest) == [Row("/a.wav", 12, None), Row("/b.wav", 34, "dog")]


def test_labels_are_the_third_column_where_there_is_one(tmp_path: Path) -> None:
    manifest = Manifest.load(write(tmp_path, b"/\na\t1\tdog,cat\nb\t2\nc\t3\t\n"))
    assert [row.label for row in manifest] == ["dog,cat", None, ""]


@pytest.mark.parametrize("name", ["ü 日本.wav", "-dash.wav", " two  spaces ", "odd\udce9.wav", "car\rriage", "12"])
def test_odd_names_come_back_as_they_were_written(tmp_path: Path, name: str) -> None:
    write_manifest(tmp_path / "m.tsv", tmp_path, [("first.wav", 1), (name, 2), ("last.wav", 3)])
    assert Manifest.load(tmp_path / "m.tsv")[1] == Row(os.path.join(tmp_path, name), 2, None)


def test_an_absolute_path_wins_over_the_root_and_the_root_may_then_be_absent(tmp_path: Path) -> None:
    assert Manifest.load(write(tmp_path, b"/no/such/root\n/data/a.wav\t5\n"))[0].path == "/data/a.wav"


@pytest.mark.parametrize(("root", "folder"), [(b"clips", "clips"), (b".", "."), (b"./clips/", "clips")])
def test_a_relative_root_begins_at_the_folder_of_the_manifest(tmp_path: Path, root: bytes, folder: str) -> None:
    (tmp_path / "clips").mkdir()
    manifest = Manifest.load(write(tmp_path, root + b"\na.wav\t5\n"))
    assert manifest.root == os.path.normpath(tmp_path / folder)
    assert manifest[0].path == os.path.join(manifest.root, "a.wav")


def test_a_byte_order_mark_is_no_part_of_the_root(tmp_path: Path) -> None:
    assert Manifest.load(write(tmp_path, b"\xef\xbb\xbf/\na\t1\n")).root == "/"


def test_a_length_of_zero_is_left_to_the_size_filter(tmp_path: Path) -> None:
    assert Manifest.load(write(tmp_path, b"/\na.wav\t0\nb.wav\t007\n")).lengths.tolist() == [0, 7]


@pytest.mark.parametrize("rates", [b"8000\n48000\n", b"8000\r\n48000", b"8000\n48000\n\n"])
def test_the_side_file_gives_the_sample_rates(tmp_path: Path, rates: bytes) -> None:
    manifest = Manifest.load(write(tmp_path, b"/\na\t1\nb\t2\n", rates))
    assert manifest.sample_rates is not None
    assert manifest.sample_rates.dtype == np.int32
    assert manifest.sample_rates.tolist() == [8000, 48000]


@pytest.mark.parametrize("block_bytes", [1, 2, 7, 16, 64, 1000])
def test_the_size_of_the_parsed_blocks_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    generator = np.random.default_rng(0)
    rows = [("x" * int(generator.integers(1, 30)), int(10 ** generator.uniform(0, 9))) for _ in range(50)]
    write_manifest(tmp_path / "m.tsv", tmp_path, rows)
    whole = list(Manifest.load(tmp_path / "m.tsv"))
    monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    assert list(Manifest.load(tmp_path / "m.tsv")) == whole
    assert [row.length for row in whole] == [length for _, length in rows]


# ---------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "train.tsv is empty: line 1 must be the root folder"),
        (b"\n\n", "train.tsv is empty"),
        (b"\na.wav\t5\n", "line 1 is blank"),
        (b"/\n", "has no rows"),
        (b"/", "has no rows"),
        (b"a.wav\t5\nb.wav\t6\n", "line 1 has a TAB: put the root folder"),
        (b"/no/such/root\na.wav\t5\n", "line 1: the root folder '/no/such/root' does not exist"),
        (b"/no/such/root\n/a.wav\t5\nb.wav\t5\n", "line 1: the root folder '/no/such/root' does not exist"),
        (b"/\na.wav\t5\nb.wav 6\nc.wav\t7\n", "line 3: no TAB in 'b.wav 6'"),
        (b"/\na.wav\t5\n\nc.wav\t7\n", "line 3: the line is blank"),
        (b"/\r\na.wav\t5\r\n\r\nc.wav\t7\r\n", "line 3: the line is blank"),
        (b"/\na.wav\tfive\n", "line 2: the length 'five' is not a whole number"),
        (b"/\na.wav\t5.0\n", "line 2: the length '5.0' is not a whole number"),
        (b"/\na.wav\t\n", "line 2: the length '' is not a whole number"),
        (b"/\na.wav\t5 \n", "line 2: the length '5 ' is not a whole number"),
        (b"/\na.wav\t5\nb.wav\t-6\n", "line 3: the length '-6' is negative"),
        (b"/\na.wav\t9999999999999999999\n", "line 2: the length '9999999999999999999' is too large"),
        (b"/\na.wav\t-\xd9\xa1\n", "line 2: the length '-\u0661' is not a whole number"),
        (b"/\na.wav\t5\nb\0.wav\t5\nc.wav\tx\n", "line 3: 'b\\x00.wav\\t5' has a NUL byte, which no name"),
        (b"/\na.wav\tx\nb\0.wav\t5\n", "line 2: the length 'x' is not a whole number"),
        (b"/a\0\na.wav\t5\n", "line 1 has a NUL byte"),
        (
            "/\na.wav\t5\n".encode("utf-16"),
            "line 1 has a NUL byte, which no name of a file can hold: write it as UTF-8",
        ),
        (gzip.compress(b"/\na.wav\t5\n", mtime=0), "train.tsv is compressed (gzip), not text: unpack it"),
        (b"/\na.wav\t5\tdog\tcat\n", "line 2: found 4 columns"),
        (b"/\n\t5\n", "line 2: the path before the TAB is missing"),
        (b"/\na\t5\nb\xff\n", "line 3: no TAB in 'b\\\\\\\\udcff'"),
    ],
)
@pytest.mark.parametrize("block_bytes", [8, 2**23])
def test_a_bad_manifest_is_one_sentence_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, sentence: str, block_bytes: int
) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    path = write(tmp_path, data)
    with pytest.raises(ManifestError) as caught:
        Manifest.load(path)
    assert str(path) in str(caught.value)
    assert sentence.replace("\\\\\\\\", "\\\\") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_manifest_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="does not exist: make it with `python -m manifests scan`"):
        Manifest.load(tmp_path / "absent.tsv")


@pytest.mark.timeout(10)
def test_a_pipe_is_no_manifest(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tsv")
    with pytest.raises(ManifestError, match=r"pipe\.tsv is not a regular file: write its lines to one"):
        Manifest.load(tmp_path / "pipe.tsv")


def test_a_folder_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize(
    ("rates", "sentence"),
    [
        (b"", "is empty, expected 2 sample rates"),
        (b"8000\n", "has 1 sample rates and .* has 2 rows"),
        (b"1\n2\n3\n", "has 3 sample rates"),
        (b"8000\nfast\n", "line 2: 'fast' is not a sample rate"),
        (b"0\n8000\n", "line 1: '0' is not a sample rate"),
        (b"8000\n9999999999\n", "line 2: '9999999999' is not a sample rate"),
    ],
)
def test_bad_rates_are_one_sentence(tmp_path: Path, rates: bytes, sentence: str) -> None:
    with pytest.raises(ManifestError, match=sentence):
        Manifest.load(write(tmp_path, b"/\na\t1\nb\t2\n", rates))


# ---------------------------------------------------------------------------------------------- pickling, writing


def test_a_pickle_is_small_and_gives_the_same_rows(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.tsv", tmp_path, [(f"{i}.wav", i) for i in range(1000)])
    manifest = Manifest.load(tmp_path / "m.tsv")
    pickled = pickle.dumps(manifest)
    assert len(pickled) < 500
    assert list(pickle.loads(pickled)) == list(manifest)


def test_a_pickle_of_a_manifest_that_changed_meanwhile_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.tsv", tmp_path, [("a.wav", 1)])
    pickled = pickle.dumps(Manifest.load(tmp_path / "m.tsv"))
    write_manifest(tmp_path / "m.tsv", tmp_path, [("a.wav", 1), ("b.wav", 2)])
    with pytest.raises(ManifestError, match="was changed while it was in use"):
        pickle.loads(pickled)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    rows = [("a.wav", 1), ("b c.wav", 48000), ("ü.wav", 3)]
    write_manifest(tmp_path / "m.tsv", tmp_path, rows, labels=["dog", None, "cat,mouse"], rates=[8000, 16000, 48000])
    manifest = Manifest.load(tmp_path / "m.tsv")
    assert manifest.root == str(tmp_path)
    assert [row.label for row in manifest] == ["dog", None, "cat,mouse"]
    assert [(os.path.relpath(row.path, tmp_path), row.length) for row in manifest] == rows
    assert manifest.sample_rates is not None
    assert manifest.sample_rates.tolist() == [8000, 16000, 48000]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m.rates", "m.tsv"]


def test_a_rewrite_without_rates_removes_the_old_side_file(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.tsv", tmp_path, [("a", 1)], rates=[8000])
    write_manifest(tmp_path / "m.tsv", tmp_path, [("a", 1)])
    assert not (tmp_path / "m.rates").exists()


@pytest.mark.parametrize(
    ("row", "label", "sentence"),
    [
        (("a\tb", 1), None, "has a TAB or a line break"),
        (("a\nb", 1), None, "has a TAB or a line break"),
        (("", 1), None, "the name is empty"),
        (("a", -1), None, "with the length -1"),
        (("a", 1), "x\ty", "label with a TAB"),
        (("a\0b", 1), None, "has a NUL byte"),
        (("a", 1), "x\0y", "label with a TAB, line break or NUL byte"),
    ],
)
def test_a_row_that_cannot_be_written_leaves_the_old_manifest_alone(
    tmp_path: Path, row: tuple[str, int], label: str | None, sentence: str
) -> None:
    path = tmp_path / "m.tsv"
    write_manifest(path, tmp_path, [("old.wav", 1)], rates=[8000])
    with pytest.raises(ManifestError, match=sentence):
        write_manifest(path, tmp_path, [("new.wav", 1), row], labels=[None, label], rates=[1, 1])
    manifest = Manifest.load(path)
    assert manifest[0].path == str(tmp_path / "old.wav")
    assert manifest.sample_rates is not None
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m.rates", "m.tsv"]


def test_columns_of_different_lengths_are_refused(tmp_path: Path) -> None:
    for columns in ({"rates": [8000]}, {"labels": ["x"]}):
        with pytest.raises(ValueError, match="shorter"):
            write_manifest(tmp_path / "m.tsv", tmp_path, [("a", 1), ("b", 2)], **columns)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_million_rows_load_in_seconds_and_without_an_object_per_row(tmp_path: Path) -> None:
    num_rows = 2_000_000
    lengths = np.random.default_rng(0).integers(1, 10**6, num_rows).tolist()
    rows = ((f"part{i % 41:02d}/Y{i:011d}_30000_40000.mkv", length) for i, length in enumerate(lengths))
    write_manifest(tmp_path / "m.tsv", tmp_path, rows, rates=(48000 for _ in range(num_rows)))
    begin = time.perf_counter()
    manifest = Manifest.load(tmp_path / "m.tsv")
    assert time.perf_counter() - begin < 4
    assert len(manifest) == num_rows
    np.testing.assert_array_equal(manifest.lengths, lengths)
    assert manifest[1_234_567].path == str(tmp_path / f"part{1_234_567 % 41:02d}/Y{1_234_567:011d}_30000_40000.mkv")
    held = len(manifest._data) + manifest._bounds.nbytes + manifest.lengths.nbytes
    assert held < 100 * num_rows
